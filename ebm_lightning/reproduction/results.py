"""What came out: records in results/, and the table of them."""

import fcntl
import hashlib
import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ebm_lightning.reproduction.claims import Claim, claims
from ebm_lightning.runs.files import write_atomically, write_between
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import identity

BEGIN, END = "<!-- results: written by `ebm reproduce` -->", "<!-- end of results -->"
COLUMNS = ("claim", "paper", "wanted", "ours", "seeds", "minutes", "commit", "verdict")
Record = dict[str, Any]
OPEN = (-math.inf, math.inf)
"""The ends of an interval that JSON, which knows no infinity, holds as null."""


def origin(run: RunFolder) -> Record:
    """Where the numbers of a run come from: its configuration, source, versions and hardware."""
    here, config = run.environment(), run.config()
    return {
        "config": hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:16],
        "commit": here["commit"],
        "dirty": here["dirty"],
        "versions": here["versions"],
        "threads": config.get("threads"),
        "processor": here["processor"],
        "cores": here["cores"],
    }


def record(claim: Claim, seed: int, runs: Sequence[RunFolder]) -> Record:
    """What the runs of a claim measured with a seed; for a difference it keeps both parts.

    Standard errors of a difference add in quadrature: its runs are independent. Raises ValueError where the protocol
    has no such measurement, or where pixel conventions differ.
    """
    parts = [_measured(claim, run) for run in runs]
    made = {"claim": claim.id, **parts[0], "seed": seed}
    if claim.minus is not None:
        first, second = parts
        errors = [part["standard_error"] for part in parts if part["standard_error"] is not None]
        made |= {
            "value": first["value"] - second["value"],
            "standard_error": math.hypot(*errors) if len(errors) == len(parts) else None,
            "interval": None,
            "warning": "; ".join(dict.fromkeys(part["warning"] for part in parts if part["warning"])),
            "dirty": first["dirty"] or second["dirty"],
            "minutes": round(first["minutes"] + second["minutes"], 1),
            "parts": [{"run": name, **part} for name, part in zip(claim.runs, parts, strict=True)],
        }
    _check_conventions(claim, [made])
    return made


def _measured(claim: Claim, run: RunFolder) -> Record:
    found = json.loads((run.path / "evaluation" / f"{claim.protocol}.json").read_text())
    if claim.metric not in found["measurements"]:
        raise ValueError(f"{claim.protocol} measured no {claim.metric!r}: it has {', '.join(found['measurements'])}")
    measurement, where = found["measurements"][claim.metric], origin(run)
    return {
        "value": measurement["value"],
        "standard_error": measurement["standard_error"],
        "interval": measurement.get("interval"),
        "warning": measurement.get("warning", ""),
        "convention": found.get("convention"),
        "protocol": found["protocol"],
        "split": found["split"],
        **where,
        "dirty": where["dirty"] or found["environment"]["dirty"],
        "minutes": found["training_minutes"],
        "tested_at_commit": found["environment"]["commit"],
    }


def results(folder: Path, claim: Claim) -> list[Record]:
    """What results/ holds for a claim, by seed. Raises ValueError where pixel conventions differ."""
    named = re.compile(rf"{re.escape(claim.id)}-seed(\d+)\.json")
    matches = [(named.fullmatch(file.name), file) for file in (folder / "results").glob("*.json")]
    records = [read(file) for _, file in sorted((int(match[1]), file) for match, file in matches if match)]
    _check_conventions(claim, records)
    return records


def read(file: Path) -> Record:
    """One record. Raises ValueError, naming the file, where it is none."""
    try:
        found: Record = json.loads(file.read_text())
    except json.JSONDecodeError as fault:
        raise ValueError(f"{file} is no record ({fault}): delete it and run `ebm reproduce` again") from fault
    return found


def _check_conventions(claim: Claim, records: Sequence[Record]) -> None:
    """Refuses to compare likelihoods of different pixels.

    A record from before conventions were recorded says nothing; it passes where the claim states none.
    """
    parts = [part for one in records for part in one.get("parts", [one])]
    got = [part.get("convention") for part in parts if "convention" in part or claim.convention is not None]
    wanted = claim.convention if claim.convention is not None or not got else got[0]
    other = [convention for convention in got if convention != wanted]
    if other:
        raise ValueError(
            f"claim {claim.id}: expected numbers for the pixel convention {wanted or 'none'}, got one for "
            f"{other[0] or 'none'}: train and "
            "test every run of it under one convention and state that one in expected.yaml, since the same weights "
            "differ by tens of nats between pixel conventions"
        )


def write(folder: Path, name: str, made: Record) -> None:
    """Writes one record of results/, whole or not at all."""
    write_atomically(folder / "results" / name, json.dumps(made, indent=1) + "\n")


def holds(claim: Claim, made: Record) -> bool:
    """Whether one record reproduces its claim: it lies within the bounds, and nothing warns of its value."""
    return claim.holds(made["value"]) and not (claim.bounded and made.get("warning"))


def verdict(claim: Claim, found: Sequence[Record]) -> str:
    """The judgement over all seeds, in the words of the table."""
    if not found:
        return f"not run ({claim.scale})"
    values = [one["value"] for one in found]
    warnings = "; ".join(dict.fromkeys(one["warning"] for one in found if one.get("warning")))
    if warnings and claim.bounded:
        said = f"**not to be trusted**: {warnings}"
    elif not all(map(claim.holds, values)):
        said = f"**short by {_brief(_worst(map(claim.shortfall, values)))}**"
    else:
        said = f"holds; warning: {warnings}" if warnings else "holds"
    if claim.paper is not None:
        said += f", {_brief(abs(statistics.fmean(values) - claim.paper))} from the paper's"
    absent = [str(seed) for seed in claim.seeds if seed not in [one["seed"] for one in found]]
    return said + (f"; seed {', '.join(absent)} not run" if absent else "")


def table(folder: Path, chosen: Sequence[Claim] | None = None) -> list[str]:
    """The lines of the table of some claims, or of all, from results/ alone; a claim that was not run says so."""
    return [*_head(COLUMNS), *(_row(folder, claim) for claim in (claims(folder) if chosen is None else chosen))]


def joint_table(chosen: Mapping[Path, Sequence[Claim]]) -> list[str]:
    """One table over the claims of several experiments, with a first column that names the experiment."""
    rows = [(folder.absolute().name, _row(folder, claim)) for folder, claims in chosen.items() for claim in claims]
    return [*_head(("experiment", *COLUMNS)), *(f"| {_cell(name)} {row}" for name, row in rows)]


def _row(folder: Path, claim: Claim) -> str:
    found = results(folder, claim)
    stated = claim.convention or (found[0].get("convention") if found else None)
    convention = f", convention: {stated}" if stated else ""
    cells = [
        f"{claim.what}{convention} ({claim.source}{'; ' + claim.note if claim.note else ''})",
        f"{claim.paper:g}" if claim.paper is not None else "-",
        claim.bound,
        *(_run_cells(found) if found else ("not run", "", "", "")),
        verdict(claim, found),
    ]
    return "|" + "|".join(f" {_cell(cell)} " if cell else " " for cell in cells) + "|"


def _run_cells(found: Sequence[Record]) -> tuple[str, str, str, str]:
    commits = dict.fromkeys(_commit(part) for one in found for part in one.get("parts", [one]))
    minutes = sum(one["minutes"] for one in found)
    return ours(found), ", ".join(str(one["seed"]) for one in found), f"{minutes:.0f}", ", ".join(commits)


def _commit(part: Record) -> str:
    return (part["commit"] or "unknown")[:7] + (" with changes" if part.get("dirty") else "")


def ours(found: Sequence[Record]) -> str:
    """A claim's value: of one seed with its standard error and interval, of several with their standard deviation."""
    values = [one["value"] for one in found]
    mean = statistics.fmean(values)
    decimals = 4 if abs(mean) < 10 else 2
    if len(found) > 1:
        each = ", ".join(f"{value:.{decimals}f}" for value in values)
        return f"{mean:.{decimals}f} ± {_deviation(values):.{decimals}f} ({each})"
    error, interval = found[0]["standard_error"], found[0].get("interval")
    spread = f" ± {error:.{decimals}f}" if error is not None else ""
    if interval is None:
        return f"{mean:.{decimals}f}{spread}"
    low, high = (end if end is not None else open_end for end, open_end in zip(interval, OPEN, strict=True))
    return f"{mean:.{decimals}f}{spread} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _deviation(values: Sequence[float]) -> float:
    """The sample standard deviation; NaN where a value is not finite."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def _worst(shortfalls: Iterable[float]) -> float:
    return max(shortfalls, key=lambda gap: math.inf if math.isnan(gap) else gap)


def _brief(gap: float) -> str:
    """Two significant digits, without an exponent where it can be."""
    return f"{float(f'{gap:.2g}'):g}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _head(columns: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def write_table(folder: Path) -> None:
    """Rewrites the experiment's README between its two markers, and the project's where it has a place for it.

    Each file is rewritten under a lock and replaced at once, so that jobs that end together lose no line. Raises
    ValueError where a README lacks the markers.
    """
    for file, begin in tables(folder):
        with locked(file):
            write_between(file, begin, table(folder), END)


def tables(folder: Path) -> list[tuple[Path, str]]:
    """Where an experiment's table stands: the file and the marker it begins with."""
    own, project = folder / "README.md", folder.absolute().parent.parent / "README.md"
    begin = BEGIN.replace("results:", f"results of {folder.absolute().name}:")
    wanted = [(own, BEGIN)] + ([(project, begin)] if project.exists() and begin in project.read_text() else [])
    for file, marker in wanted:
        if not file.is_file() or END not in file.read_text().partition(marker)[2]:
            raise ValueError(f"{file} lacks the markers {marker} and {END}: add them where the table belongs")
    return wanted


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Waits until no other process holds a file that may be replaced while it is waited for, then holds it."""
    while True:
        with file.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(held.fileno()), file.stat()):
                yield
                return
