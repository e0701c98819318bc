"""What the tests share: oracles, stand-ins, and the places of the checkout."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""

TESTS = ROOT / "tests"
