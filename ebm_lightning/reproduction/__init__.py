"""An experiment is a folder with its claims, the runs that test them, and their results. Imports no torch."""

from ebm_lightning.reproduction.claims import Claim, Curve, Expected, claims, expected
from ebm_lightning.reproduction.results import Record, load, of_claim
from ebm_lightning.reproduction.status import Status, status, statuses, summary
from ebm_lightning.reproduction.tables import BEGIN, END, details, places, table, write_tables

__all__ = [
    "BEGIN",
    "END",
    "Claim",
    "Curve",
    "Expected",
    "Record",
    "Status",
    "claims",
    "details",
    "expected",
    "load",
    "of_claim",
    "places",
    "status",
    "statuses",
    "summary",
    "table",
    "write_tables",
]
