"""An experiment is a folder and a promise: its claims, the runs that test them, and what came out. Imports no torch."""

from ebm_lightning.reproduction.claims import Claim, Curve, Expected, claims, expected
from ebm_lightning.reproduction.results import BEGIN, END, Record, results, table, tables, verdict, write_table

__all__ = [
    "BEGIN",
    "END",
    "Claim",
    "Curve",
    "Expected",
    "Record",
    "claims",
    "expected",
    "results",
    "table",
    "tables",
    "verdict",
    "write_table",
]
