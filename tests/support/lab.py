"""Experiments made by hand, their results, and a stand-in for the processes that train and test them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ebm_lightning import reproduction
from ebm_lightning.reproduction import Claim
from ebm_lightning.runs.files import write_atomically

HERE = {"commit": "0123456789abcdef", "dirty": False}
HARDWARE = {"versions": {"torch": "2"}, "processor": "abacus", "cores": 2}
CLAIM = {"what": "w", "run": "r.yaml", "protocol": "P", "metric": "m", "source": "Table 1"}
CURVE = {"what": "w", "runs": ["r.yaml"], "metric": "val_loss", "against": "epoch_time"}
RECORD = {"value": 0.7, "standard_error": 0.1, "seed": 0, "commit": "0123456789", "minutes": 2.0}


def make_experiment(folder: Path, claims: list[dict] | None = None, curves: list[dict] | None = None) -> Path:
    """An experiment's folder with these promises; keys they lack are those of CLAIM and CURVE."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    lines = {"claims": [CLAIM | line for line in claims or []], "curves": [CURVE | line for line in curves or []]}
    (folder / "expected.yaml").write_text(yaml.safe_dump(lines))
    (folder / "README.md").write_text(f"head\n{reproduction.BEGIN}\nstale\n{reproduction.END}\ntail\n")
    for name in "qrs":
        (folder / f"{name}.yaml").touch()
    return folder


def put(folder: Path, name: str, **changed: Any) -> None:
    """Writes a result: RECORD with some of it changed."""
    write_atomically(folder / "results" / f"{name}.json", json.dumps(RECORD | changed))


def read(folder: Path, name: str) -> dict:
    """A result as it was written."""
    return json.loads((folder / "results" / f"{name}.json").read_text())


def verdict(found: list[dict], **claim: Any) -> str:
    """What is said of a claim, CLAIM with some of it changed, where these results were found."""
    return reproduction.verdict(Claim(id="a", **CLAIM | claim), [RECORD | one for one in found])


class Lab:
    """Stands for the processes that `ebm fit` and `ebm test` would be: makes the files that they make.

    ``measure`` gives what a run, by name and seed, measures; ``fault`` is a command that fails.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.said: list[tuple[str, str, int]] = []
        self.now = dict(HERE)
        self.convention: Callable[[str], str | None] = lambda name: None
        self.measure: Callable[[str, int], dict] = lambda name, seed: {"value": 1.0, "standard_error": 0.1}
        self.fault: tuple[str, str, int] | None = None

    def __call__(self, command: str, *arguments: str) -> str:
        place = self._fit(Path(arguments[1]), int(arguments[3])) if command == "fit" else Path(arguments[0])
        config = yaml.safe_load((place / "config.yaml").read_text())
        name, seed = config["name"], config["seed_everything"]
        self.said.append((command, name, seed))
        if self.said[-1] == self.fault:
            raise ValueError("the lights went out")
        if command == "test":
            self._test(place, name, seed)
        return str(place)

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
        found = {
            "protocol": "P(steps=5)",
            "settings": {"steps": 5},
            "split": "test",
            "convention": self.convention(name),
            "measurements": {"m": {"interval": None, "warning": "", **self.measure(name, seed)}},
            "step": 10,
            "training_minutes": 2.0,
            "environment": self.now,
        }
        (place / "evaluation" / "P.json").write_text(json.dumps(found))
