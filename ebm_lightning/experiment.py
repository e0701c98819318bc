"""An experiment is a folder and a promise: its claims, the runs that test them, and what came out. Imports no torch."""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ebm_lightning.runs import RunFolder, environment, identity, write_atomically

BEGIN, END = "<!-- results: written by `ebm reproduce` -->", "<!-- end of results -->"
Record = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """One line of ``expected.yaml``: a number, where it comes from, and when ours counts as reproducing it.

    Args:
        id: a name, unique in the experiment.
        what: the measurement in words.
        run: the configuration in the experiment's folder that is trained for it.
        protocol: the evaluation protocol that measures it.
        metric: the name of the measurement in the protocol's findings.
        source: the table or figure of the paper, or "ours" where the paper has no such number.
        paper: the paper's value; None where it has none.
        at_least: ours must not be smaller; None for no such bound.
        at_most: ours must not be larger; None for no such bound.
        seeds: seeds it is run with.
        scale: "laptop" or "cluster".
        note: what a reader must know, such as that the paper's value is unverified.
    """

    id: str
    what: str
    run: str
    protocol: str
    metric: str
    source: str
    paper: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    seeds: tuple[int, ...] = (0,)
    scale: str = "laptop"
    note: str = ""

    def holds(self, value: float) -> bool:
        """Whether a value of ours reproduces this claim."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def bound(self) -> str:
        """The bounds, as the table prints them."""
        low = f">= {self.at_least:g}" if self.at_least is not None else ""
        high = f"<= {self.at_most:g}" if self.at_most is not None else ""
        return " and ".join(filter(None, (low, high))) or "none"


def claims(folder: Path) -> list[Claim]:
    """The claims of an experiment. Raises ValueError where its expected.yaml is absent or says what no claim has."""
    file = folder / "expected.yaml"
    if not file.is_file():
        raise ValueError(f"{folder} is no experiment: it has no expected.yaml")
    try:
        return [Claim(**line) for line in yaml.safe_load(file.read_text())["claims"]]
    except (TypeError, KeyError) as fault:
        raise ValueError(f"{file} is not a list of claims ({fault}): see the fields of Claim") from fault


def main(arguments: list[str]) -> None:
    """`ebm reproduce`: runs the claims of an experiment, writes results/ and the README's table from them."""
    parser = argparse.ArgumentParser(prog="ebm reproduce", description=main.__doc__)
    parser.add_argument("experiment", type=Path, help="the experiment's folder")
    parser.add_argument("--claim", help="only the claim of this id")
    parser.add_argument("--scale", default="laptop", choices=("laptop", "cluster"), help="only claims of this size")
    parser.add_argument("--check", action="store_true", help="run nothing: compare what results/ holds")
    options = parser.parse_args(arguments)
    chosen = [c for c in claims(options.experiment) if c.scale == options.scale and options.claim in (None, c.id)]
    if not chosen:
        raise ValueError(f"{options.experiment} has no claim {options.claim or ''} of scale {options.scale}")
    if not options.check:
        for claim, seed, record in _run(options.experiment, chosen):
            target = options.experiment / "results" / f"{claim.id}-seed{seed}.json"
            write_atomically(target, json.dumps(record, indent=1) + "\n")
        write_table(options.experiment)
    print("\n".join(table(options.experiment)))
    missed = [c.id for c in chosen for record in results(options.experiment, c) if not c.holds(record["value"])]
    if missed:
        raise ValueError(f"missed: {', '.join(missed)}; the table says by how much")


def results(folder: Path, claim: Claim) -> list[Record]:
    """What results/ holds for a claim, by seed."""
    files = sorted((folder / "results").glob(f"{claim.id}-seed*.json"))
    return [json.loads(file.read_text()) for file in files]


def table(folder: Path) -> list[str]:
    """The lines of the results table, from results/ alone; a claim that was not run says so."""
    lines = [
        "| claim | paper | wanted | ours | seeds | minutes | commit | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in claims(folder):
        paper = f"{claim.paper:g}" if claim.paper is not None else "-"
        left = f"| {claim.what} ({claim.source}{'; ' + claim.note if claim.note else ''}) | {paper} | {claim.bound} |"
        found = results(folder, claim)
        if not found:
            lines.append(f"{left} not run | | | | not run ({claim.scale}) |")
            continue
        values = [record["value"] for record in found]
        spread = found[0]["standard_error"] if len(found) == 1 else None
        ours = ", ".join(f"{value:.4f}" for value in values) + (f" ± {spread:.4f}" if spread is not None else "")
        verdict = "holds" if all(map(claim.holds, values)) else "**short**"
        seeds = ", ".join(str(record["seed"]) for record in found)
        minutes = sum(record["minutes"] for record in found)
        lines.append(f"{left} {ours} | {seeds} | {minutes:.0f} | {found[0]['commit'][:7]} | {verdict} |")
    return lines


def write_table(folder: Path) -> None:
    """Rewrites the experiment's README between its two markers, and the project's where it has a place for it.

    Raises ValueError where the experiment's README lacks the markers.
    """
    for file, begin in tables(folder):
        text = file.read_text()
        head, tail = text.split(begin)[0], text.split(begin)[1].split(END)[1]
        write_atomically(file, "\n".join([head + begin, *table(folder), END]) + tail)


def tables(folder: Path) -> list[tuple[Path, str]]:
    """Where an experiment's table stands: the file and the marker it begins with."""
    own, project = folder / "README.md", folder.absolute().parent.parent / "README.md"
    if BEGIN not in own.read_text() or END not in own.read_text():
        raise ValueError(f"{own} lacks the markers {BEGIN} and {END}: add them where the table belongs")
    begin = BEGIN.replace("results:", f"results of {folder.absolute().name}:")
    return [(own, BEGIN)] + ([(project, begin)] if project.exists() and begin in project.read_text() else [])


def _run(folder: Path, chosen: list[Claim]) -> Iterator[tuple[Claim, int, Record]]:
    """Trains and tests what the claims need, each run once; a run that is complete is not trained again.

    The run's fresh samples become ``results/<run>.png``.
    """
    (folder / "results").mkdir(exist_ok=True)
    for run, seed in dict.fromkeys((claim.run, seed) for claim in chosen for seed in claim.seeds):
        trained = RunFolder(_ebm("fit", "-c", str(folder / run), "--seed_everything", str(seed)))
        _ebm("test", str(trained.path))
        for picture in (trained.path / "samples").glob("fresh-*-steps-seed-0.png"):
            shutil.copyfile(picture, folder / "results" / f"{Path(run).stem}.png")
        for claim in chosen:
            if claim.run == run and seed in claim.seeds:
                yield claim, seed, _record(trained, claim, seed)


def _record(run: RunFolder, claim: Claim, seed: int) -> Record:
    found = json.loads((run.path / "evaluation" / f"{claim.protocol}.json").read_text())
    if claim.metric not in found["measurements"]:
        raise ValueError(f"{claim.protocol} measured no {claim.metric!r}: it has {', '.join(found['measurements'])}")
    here = run.environment()
    return {
        "claim": claim.id,
        **found["measurements"][claim.metric],
        "protocol": found["protocol"],
        "split": found["split"],
        "seed": seed,
        "config": hashlib.sha256(json.dumps(identity(run.config()), sort_keys=True).encode()).hexdigest()[:16],
        "commit": here["commit"],
        "dirty": here["dirty"],
        "versions": here["versions"],
        "processor": here["processor"],
        "cores": here["cores"],
        "minutes": found["training_minutes"],
        "tested_at_commit": environment()["commit"],
    }


def _ebm(*arguments: str) -> str:
    """Runs one command of `ebm`; returns the run folder it printed. Raises ValueError where it failed."""
    command = [sys.executable, "-m", "ebm_lightning", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
    if process.returncode:
        raise ValueError(f"`ebm {' '.join(arguments)}` failed with status {process.returncode}")
    folders = [line.split(maxsplit=1)[1].strip() for line in said if line.startswith("run  ")]
    return folders[-1] if folders else ""
