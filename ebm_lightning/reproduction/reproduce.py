"""The runs of an experiment: trained, tested and recorded, each run and seed once."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from ebm_lightning.reproduction.claims import Expected, expected
from ebm_lightning.reproduction.curves import curve_record, draw
from ebm_lightning.reproduction.results import record, save
from ebm_lightning.reproduction.tables import places, write_tables
from ebm_lightning.runs.dependencies import upstream_runs
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.provenance import environment
from ebm_lightning.runs.records import FitResult, ProtocolRecord


def reproduce(folder: Path, wanted: Expected, only: Collection[str] | None = None) -> None:
    """Train and test what is wanted, and write results/ and the tables after each run and seed.

    A run that is complete is not trained again, and one that is measured already is not tested again, so that the same
    command goes on after an interruption.

    Args:
        folder: the experiment's.
        wanted: the claims and curves, with the seeds to run.
        only: the configurations to run; None runs all that are needed.
    """
    places(folder)  # a README without a place for the table is refused before the training, not after it
    (folder / "results").mkdir(exist_ok=True)
    done: dict[tuple[str, int], RunFolder] = {}
    for run, seed in wanted.pairs():
        if only and run not in only:
            continue
        for below in dependencies(folder, run):
            _train(folder / below, seed)
        done[run, seed] = trained = _train(folder / run, seed)
        claims = [claim for claim in wanted.claims if run in claim.runs and seed in claim.seeds]
        _test(trained, list(dict.fromkeys(claim.protocol for claim in claims)))
        if seed == _first_seed(folder, run):
            _copy_pictures(trained, folder / "results", Path(run).stem)
        curves = [curve for curve in wanted.curves if run in curve.runs and seed in curve.seeds]
        complete = [claim for claim in claims if all((part, seed) in done for part in claim.runs)]
        save(
            folder,
            *(record(claim, seed, [done[part, seed] for part in claim.runs]) for claim in complete),
            *(curve_record(curve, trained, run, seed) for curve in curves),
        )
        for curve in curves:
            draw(folder, curve)
        write_tables(folder)


def dependencies(folder: Path, run: str) -> list[str]:
    """The configurations of the experiment whose runs this one loads, those that must be trained first in front.

    Raises ValueError if one of them is not there.
    """
    config = folder / run
    if not config.is_file():
        raise ValueError(f"{folder} has no {run}, on whose run another one builds: add it, or name a run's folder")
    found: list[str] = []
    for arguments in upstream_runs(yaml.safe_load(config.read_text())):
        name = f"{arguments['run']}.yaml"
        if "/" not in name and name != run:  # a run may be evaluated by its own classifier
            found += [*dependencies(folder, name), name]
    return list(dict.fromkeys(found))


def _train(config: Path, seed: int) -> RunFolder:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "fit.json"
        _ebm("fit", "-c", str(config), "--seed_everything", str(seed), "--result", str(file))
        return RunFolder(FitResult.load(file).run)


def _test(run: RunFolder, protocols: list[str]) -> None:
    """Run the protocols of a run unless all that are wanted have measured it, as they would now."""
    configured = {line["class_path"].rpartition(".")[2]: line.get("init_args") or {} for line in _evaluation(run)}
    for protocol in protocols:
        if protocol not in configured:
            raise ValueError(f"the run {run.path} has no {protocol} in its `evaluation`: add it, or claim another one")
    now = environment()
    if protocols and all(_is_measured(run, protocol, configured[protocol], now) for protocol in protocols):
        print(
            f"skipped: `ebm test {run.path}`, since {' and '.join(protocols)} measured its last step at this commit "
            f"({now['commit'][:7]}) with no change to the source"
        )
    elif protocols:
        _ebm("test", str(run.path))


def _evaluation(run: RunFolder) -> list[dict[str, Any]]:
    return run.config().get("evaluation") or []


def _is_measured(run: RunFolder, protocol: str, settings: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a protocol measured the run's last step, from the source of now, and with the settings of now.

    ``evaluation`` is no part of a run's identity: its numbers and texts are compared with those that were measured.
    """
    file = run.path / "evaluation" / f"{protocol}.json"
    if now["commit"] is None or now["dirty"] or not file.exists():
        return False
    try:
        found = ProtocolRecord.load(file)
    except ValueError:  # of an earlier form
        return False
    return (
        (found.environment["commit"], found.environment["dirty"]) == (now["commit"], False)
        and run.checkpoints()[-1:] == [run.checkpoint(found.step)]
        and all(
            found.settings[key] == value
            for key, value in settings.items()
            if key in found.settings and isinstance(value, str | int | float | None)
        )
    )


def _first_seed(folder: Path, run: str) -> int:
    """The first of the seeds that the experiment states for a run: its pictures are those of the results."""
    return next(one.seeds[0] for one in expected(folder).entries if run in one.runs)


def _copy_pictures(run: RunFolder, target: Path, name: str) -> None:
    """The newest fresh samples become ``<name>.png``, the pictures of the protocols ``<name>-<picture>.png``."""
    fresh = (run.path / "samples").glob("fresh-*-steps-seed-0.png")
    for picture in sorted(fresh, key=lambda file: file.stat().st_mtime):
        shutil.copyfile(picture, target / f"{name}.png")
    for picture in (run.path / "evaluation").glob("*.png"):
        shutil.copyfile(picture, target / f"{name}-{picture.stem}.png")


def _ebm(*arguments: str) -> None:
    """Run one command of `ebm`. Raises ValueError if it fails.

    If this process is preempted meanwhile, it ends with status 75, whatever became of the command: the same command of
    `ebm reproduce` goes on.
    """
    command = [sys.executable, "-m", "ebm_lightning", *arguments]
    sys.stdout.flush()  # what the command prints comes after what this process has printed
    with _signals() as signals, subprocess.Popen(command) as process:
        signals.forward_to(process)
        process.wait()
    if signals.received or process.returncode == os.EX_TEMPFAIL:
        raise SystemExit(os.EX_TEMPFAIL)
    if process.returncode:
        raise ValueError(f"`ebm {' '.join(arguments)}` failed with status {process.returncode}")


class _Signals:
    """The signals of preemption that were received, which are forwarded to a process."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def forward_to(self, process: "subprocess.Popen[bytes]") -> None:
        """Forward those that were received already, and those that will be."""
        self._process = process
        for number in self.received:
            process.send_signal(number)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if self._process is not None:
            self._process.send_signal(number)


@contextmanager
def _signals() -> Iterator[_Signals]:
    made = _Signals()
    before = {number: signal.signal(number, made.on_signal) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        yield made
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
