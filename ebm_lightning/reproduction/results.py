"""What was measured: the records of an experiment, in one file with the provenance of each stored once."""

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ebm_lightning.reproduction.claims import Claim, Curve
from ebm_lightning.runs.files import write_atomically
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import digest
from ebm_lightning.runs.records import ProtocolRecord

Record = dict[str, Any]

FILE = "results.jsonl"
"""The file of all records, in an experiment's results/."""

PROVENANCE = ("config", "commit", "dirty", "versions", "threads", "processor", "cores")
"""What many records of an experiment have in common: these keys stand once in the file, under a name."""


def provenance(run: RunFolder) -> Record:
    """Where the numbers of a run come from: its configuration, source, versions and hardware."""
    here, config = run.environment(), run.config()
    return {
        "config": digest(config)[:16],
        "commit": here["commit"],
        "dirty": here["dirty"],
        "versions": here["versions"],
        "threads": config.get("threads"),
        "processor": here["processor"],
        "cores": here["cores"],
    }


def record(claim: Claim, seed: int, runs: Sequence[RunFolder]) -> Record:
    """What the runs of a claim measured with a seed; of a difference with both parts.

    Standard errors of a difference add in quadrature: its runs are independent. Raises ValueError if the protocol has
    no such measurement, or the data were preprocessed differently.
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
    _check_preprocessing(claim, [made])
    return made


def _measured(claim: Claim, run: RunFolder) -> Record:
    found = ProtocolRecord.load(run.path / "evaluation" / f"{claim.protocol}.json")
    if claim.metric not in found.measurements:
        raise ValueError(f"{claim.protocol} measured no {claim.metric!r}: it has {', '.join(found.measurements)}")
    measurement, origin = found.measurements[claim.metric], provenance(run)
    return {
        "value": measurement.value,
        "standard_error": measurement.standard_error,
        "interval": measurement.interval,
        "warning": measurement.warning,
        "preprocessing": found.preprocessing,
        "protocol": found.protocol,
        "split": found.split,
        **origin,
        "dirty": origin["dirty"] or found.environment["dirty"],
        "minutes": found.training_minutes,
        "tested_at_commit": found.environment["commit"],
    }


def save(folder: Path, *made: Record) -> None:
    """Put records into the file, each in the place of the one of the same claim or curve, run and seed.

    The file is rewritten under a lock and replaced at once, so that jobs that end together lose no record.
    """
    file = folder / "results" / FILE
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with locked(file):
        kept = {_key(one): one for one in [*load(folder), *made]}
        write_atomically(file, _dump([kept[key] for key in sorted(kept)]))


def load(folder: Path) -> list[Record]:
    """All records of an experiment, each with its provenance. Raises ValueError, naming the line, if one is none."""
    file = folder / "results" / FILE
    if not file.exists():
        return []
    known: dict[str, Record] = {}
    found = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            one = dict(**json.loads(line))
            if "claim" in one or "curve" in one:
                found.append(_expand(one, known))
            else:
                known[one.pop("provenance")] = one
        except (json.JSONDecodeError, TypeError, KeyError) as fault:
            raise ValueError(
                f"{file}, line {number}, is no record ({fault!r}): delete the line and run `ebm reproduce` again"
            ) from fault
    return found


def of_claim(records: Sequence[Record], claim: Claim) -> list[Record]:
    """The records of a claim, by seed. Raises ValueError if the data were preprocessed differently."""
    found = sorted((one for one in records if one.get("claim") == claim.id), key=lambda one: one["seed"])
    _check_preprocessing(claim, found)
    return found


def of_curve(records: Sequence[Record], curve: Curve, run: str) -> list[Record]:
    """The records of one run of a curve, by seed."""
    found = [one for one in records if one.get("curve") == curve.id and one["run"] == run]
    return sorted(found, key=lambda one: one["seed"])


def _key(one: Record) -> tuple[str, str, str, int]:
    """What there is one record of."""
    return ("curve" if "curve" in one else "claim", one.get("curve") or one["claim"], one.get("run", ""), one["seed"])


def _dump(records: Sequence[Record]) -> str:
    """The lines of the file: each provenance that a record refers to, by name, and then the records."""
    known: dict[str, Record] = {}
    packed = [_pack(one, known) for one in records]
    origins = [{"provenance": name, **known[name]} for name in sorted(known)]
    return "".join(json.dumps(line) + "\n" for line in [*origins, *packed])


def _pack(one: Record, known: dict[str, Record]) -> Record:
    """A record with the name of its provenance, which joins the known ones, in the place of its keys."""
    origin = {key: one[key] for key in PROVENANCE if key in one}
    packed = {key: value for key, value in one.items() if key not in origin}
    if "parts" in one:
        packed["parts"] = [_pack(part, known) for part in one["parts"]]
    if origin:
        name = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:12]
        packed["provenance"], known[name] = name, origin
    return packed


def _expand(packed: Record, known: dict[str, Record]) -> Record:
    """What :func:`_pack` packed."""
    one = {**packed, **known[packed["provenance"]]} if "provenance" in packed else dict(packed)
    one.pop("provenance", None)
    if "parts" in one:
        one["parts"] = [_expand(part, known) for part in one["parts"]]
    return one


def _check_preprocessing(claim: Claim, records: Sequence[Record]) -> None:
    """Refuse to compare log-probabilities of data that were preprocessed differently.

    A record from before preprocessing was recorded has no such key; it passes if the claim states none.
    """
    parts = [part for one in records for part in one.get("parts", [one])]
    got = [part.get("preprocessing") for part in parts if "preprocessing" in part or claim.preprocessing is not None]
    stated = claim.preprocessing if claim.preprocessing is not None or not got else got[0]
    other = [preprocessing for preprocessing in got if preprocessing != stated]
    if other:
        raise ValueError(
            f"claim {claim.id}: expected numbers for the preprocessing {stated or 'none'}, got one for "
            f"{other[0] or 'none'}: train and test every run of it under one preprocessing and state that one in "
            "expected.yaml, since the log-probability of the same weights differs by tens of nats between two of them"
        )


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait until no other process holds a file that may be replaced while it is waited for, then hold it."""
    while True:
        with file.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(held.fileno()), file.stat()):
                yield
                return
