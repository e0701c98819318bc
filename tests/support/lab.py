"""Experiments made by hand, their results, and a stand-in for the processes that train and test them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ebm_lightning import reproduction
from ebm_lightning.cli.main import run
from ebm_lightning.reproduction import Claim, Record, Status
from ebm_lightning.reproduction.results import save
from ebm_lightning.runs.records import FitResult, MeasurementRecord, ProtocolRecord

HERE = {"commit": "0123456789abcdef", "dirty": False}
HARDWARE = {"versions": {"torch": "2"}, "processor": "abacus", "cores": 2}
CLAIM = {"label": "l", "what": "w", "run": "r.yaml", "protocol": "P", "metric": "m", "source": "Table 1"}
CURVE = {"what": "w", "runs": ["r.yaml"], "metric": "val_loss", "against": "epoch_time"}
RECORD = {
    **{"claim": "a", "value": 0.7, "standard_error": 0.1, "seed": 0, "commit": "0123456789", "minutes": 2.0},
    **{"protocol": "P(steps=5)"},
}


def make_experiment(folder: Path, claims: list[dict] | None = None, curves: list[dict] | None = None) -> Path:
    """An experiment's folder with these claims and curves; keys they lack are those of CLAIM and CURVE."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    lines = {"claims": [CLAIM | line for line in claims or []], "curves": [CURVE | line for line in curves or []]}
    (folder / "expected.yaml").write_text(yaml.safe_dump(lines))
    (folder / "README.md").write_text(f"head\n{reproduction.BEGIN}\nstale\n{reproduction.END}\ntail\n")
    for name in "qrs":
        (folder / f"{name}.yaml").touch()
    return folder


def put(folder: Path, **changed: Any) -> None:
    """Save a result: RECORD with some of it changed."""
    save(folder, RECORD | changed)


def read(folder: Path, **keys: Any) -> Record:
    """The one result that has these keys."""
    (found,) = [one for one in reproduction.load(folder) if keys.items() <= one.items()]
    return found


def rows(folder: Path) -> list[str]:
    """The rows of the tables of an experiment."""
    return [line for line in reproduction.table(folder) if line.startswith("| l ")]


def status(found: list[dict], **claim: Any) -> Status:
    """The status of a claim, CLAIM with some of it changed, that has these results."""
    return reproduction.status(Claim(id="a", **CLAIM | claim), [RECORD | one for one in found])


def ebm_reproduce(*words: object) -> None:
    """Run `ebm reproduce` in this process; a mistake is raised."""
    run(["reproduce", *map(str, words)])


class Lab:
    """Stands for the processes that `ebm fit` and `ebm test` would be: makes the files that they make.

    ``measure`` gives what a run, by name and seed, measures; ``fault`` is a command that fails.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.said: list[tuple[str, str, int]] = []
        self.now: dict[str, Any] = dict(HERE)
        self.preprocessing: Callable[[str], str | None] = lambda name: None
        self.measure: Callable[[str, int], dict] = lambda name, seed: {"value": 1.0, "standard_error": 0.1}
        self.fault: tuple[str, str, int] | None = None

    def __call__(self, command: str, *arguments: str) -> None:
        place = self._fit(Path(arguments[1]), int(arguments[3])) if command == "fit" else Path(arguments[0])
        config = yaml.safe_load((place / "config.yaml").read_text())
        name, seed = config["name"], config["seed_everything"]
        self.said.append((command, name, seed))
        if self.said[-1] == self.fault:
            raise ValueError("the lights went out")
        if command == "test":
            self._test(place, name, seed)
        else:
            FitResult(place, 10).save(Path(arguments[arguments.index("--result") + 1]))

    def _fit(self, config: Path, seed: int) -> Path:
        place = self.runs / f"{config.stem}-{seed}"
        for part in ("checkpoints", "samples", "evaluation"):
            (place / part).mkdir(parents=True, exist_ok=True)
        made = {"name": config.stem, "seed_everything": seed, "threads": 2}
        made["evaluation"] = [{"class_path": "lab.P", "init_args": {"steps": 5}}]
        (place / "config.yaml").write_text(yaml.safe_dump(made))
        (place / "environment.json").write_text(json.dumps(HERE | HARDWARE))
        (place / "events.jsonl").write_text('{"time": 0, "event": "start"}\n{"time": 120, "event": "end"}\n')
        (place / "checkpoints" / "step=00000010.ckpt").touch()
        rows = [
            f"0,{step},{key},{value}" for step in (1, 2) for key, value in (("epoch_time", step), ("val_loss", seed))
        ]
        (place / "metrics.csv").write_text("\n".join(["time,step,name,value", *rows]) + "\n")
        Image.new("L", (2, 2), seed).save(place / "samples" / "fresh-5-steps-seed-0.png")
        return place

    def _test(self, place: Path, name: str, seed: int) -> None:
        Image.new("L", (3, 3), seed).save(place / "evaluation" / "P-histogram.png")
        found = MeasurementRecord(**self.measure(name, seed))
        made = protocol_record({"m": found}, environment=self.now, preprocessing=self.preprocessing(name))
        made.save(place / "evaluation" / "P.json")


def protocol_record(measurements: dict[str, MeasurementRecord], **changed: Any) -> ProtocolRecord:
    """What the protocol P measured of a run."""
    plain: dict[str, Any] = {"preprocessing": None, "step": 10, "seed": 0, "training_minutes": 2.0, "environment": HERE}
    return ProtocolRecord("P(steps=5)", {"steps": 5}, "test", measurements=measurements, **plain | changed)
