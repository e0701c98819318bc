"""What became of a claim: reproduced, missed, unreliable or not run; a measurement is reported."""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ebm_lightning.reproduction.claims import Claim, claims
from ebm_lightning.reproduction.results import Record, load, of_claim

KINDS = ("reproduced", "missed", "unreliable", "not run")
"""What can become of a claim."""

OPEN = (-math.inf, math.inf)
"""The ends of an interval that JSON, which knows no infinity, holds as null."""


@dataclasses.dataclass(frozen=True)
class Status:
    """What became of a claim or measurement over all its seeds.

    Args:
        kind: one of :data:`KINDS`, or "reported" for a measurement.
        text: the same as the table prints it, with the distance, the warning and the seeds that were not run.
        warnings: all of them, in full.
    """

    kind: str
    text: str
    warnings: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether `ebm reproduce --check` fails because of it."""
        return self.kind in ("missed", "unreliable")


def status(claim: Claim, found: Sequence[Record]) -> Status:
    """The status of a claim that has these records: every seed must lie within the target, without a warning."""
    if not found:
        return Status("not run", f"not run ({claim.scale})")
    warnings = tuple(dict.fromkeys(one["warning"] for one in found if one.get("warning")))
    miss = _largest(claim.miss(one["value"]) for one in found)
    absent = [str(seed) for seed in claim.seeds if seed not in [one["seed"] for one in found]]
    suffix = f"; seed {', '.join(absent)} not run" if absent else ""
    if not claim.has_target:
        return Status("reported", f"reported{', with a warning' if warnings else ''}{suffix}", warnings)
    if warnings:
        facts = "; ".join(warning.partition(": ")[0] for warning in warnings)
        return Status("unreliable", f"**unreliable**: {facts}{suffix}", warnings)
    if miss != 0:
        return Status("missed", f"**missed by {brief(miss)}**{suffix}")
    return Status("reproduced", f"reproduced{suffix}")


def statuses(folder: Path, chosen: Sequence[Claim] | None = None) -> list[tuple[Claim, Status]]:
    """The status of some claims of an experiment, or of all, from results/ alone."""
    records = load(folder)
    return [
        (claim, status(claim, of_claim(records, claim))) for claim in (claims(folder) if chosen is None else chosen)
    ]


def count(found: Iterable[tuple[Claim, Status]]) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """How many claims there are of each kind, and how many measurements."""
    kinds: tuple[collections.Counter[str], collections.Counter[str]] = collections.Counter(), collections.Counter()
    for claim, one in found:
        kinds[0 if claim.has_target else 1][one.kind] += 1
    return kinds


def summary(found: Iterable[tuple[Claim, Status]]) -> str:
    """One line: how many claims were reproduced, missed and so on, and how many measurements are reported."""
    of_claims, of_measurements = count(found)
    shares = ", ".join(f"{of_claims[kind]} {kind}" for kind in KINDS)
    missing = f", {of_measurements['not run']} not run" if of_measurements["not run"] else ""
    return (
        f"{sum(of_claims.values())} claims: {shares}; "
        f"{sum(of_measurements.values())} measurements: {of_measurements['reported']} reported{missing}"
    )


def ours(found: Sequence[Record]) -> str:
    """Our value: of one seed with its standard error and interval, of several the mean with its standard deviation."""
    values = [one["value"] for one in found]
    if len(found) == 1:
        return of_seed(found[0])
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
    return f"{mean:.{_decimals(mean)}f} ± {spread:.{_decimals(mean)}f}"


def of_seed(one: Record) -> str:
    """The value of one seed with its standard error and interval."""
    value, error, interval = one["value"], one["standard_error"], one.get("interval")
    decimals = _decimals(value)
    spread = f" ± {error:.{decimals}f}" if error is not None else ""
    if interval is None:
        return f"{value:.{decimals}f}{spread}"
    low, high = (end if end is not None else open_end for end, open_end in zip(interval, OPEN, strict=True))
    return f"{value:.{decimals}f}{spread} [{low:.{decimals}f}, {high:.{decimals}f}]"


def brief(distance: float) -> str:
    """Two significant digits, without an exponent if that is possible."""
    return f"{float(f'{distance:.2g}'):g}"


def _decimals(value: float) -> int:
    return 4 if abs(value) < 10 else 2


def _largest(distances: Iterable[float]) -> float:
    return max(distances, key=lambda distance: math.inf if math.isnan(distance) else distance)
