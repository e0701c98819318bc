"""Run folders: the configuration, id, checkpoints, metrics and pictures of one run. Imports no torch."""

import csv
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ebm_lightning.runs.files import write_atomically
from ebm_lightning.runs.identity import Config, differences
from ebm_lightning.runs.provenance import environment, source


class RunFolder:
    """The folder of one run.

    It has ``config.yaml`` (the complete resolved configuration), ``environment.json``, ``run_id``, ``metrics.csv``,
    ``events.jsonl``, ``checkpoints/``, ``samples/``, ``evaluation/``, ``wandb/``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def requeue_file(self) -> Path:
        """A file that a preempted run writes, so that its job is started again."""
        return self.path / ".requeue"

    @property
    def experiment(self) -> str:
        """The name of the experiment: that of the folder of its runs."""
        return self.path.absolute().parent.name

    @property
    def id(self) -> str:
        """The id of this run, also in W&B, the same for all its starts; created and stored at the first call."""
        file = self.path / "run_id"
        if not file.exists():
            file.write_text(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(5))
        return file.read_text().strip()

    def config(self) -> Config:
        """The configuration of this run. Raises ValueError if this is not the folder of a run."""
        if not self.config_file.is_file():
            raise ValueError(
                f"{self.path} is not a run folder: it has no config.yaml; give the folder that `ebm fit` printed"
            )
        loaded: Config = yaml.safe_load(self.config_file.read_text())
        return loaded

    def acquire(self, config: Config, command: list[str]) -> None:
        """Make this the folder of a configuration, or check that it is; config.yaml is that of the latest start.

        Raises ValueError with the differences if it belongs to another configuration, or if another process uses it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        different = differences(self.config(), config) if self.config_file.exists() else []
        if different:
            shown = "; ".join(different[:4]) + (f"; and {len(different) - 4} more" if len(different) > 4 else "")
            raise ValueError(
                f"the run folder {self.path} belongs to another configuration ({shown}): leave out --run to get a "
                "folder for this one, or name a new one"
            )
        code = source()
        facts, changes = environment(code), code["diff"]
        with self.lock():
            write_atomically(self.config_file, yaml.safe_dump(config, sort_keys=False))
            self.event("start", id=self.id, command=command, environment=facts)
            if not (self.path / "environment.json").exists():
                write_atomically(self.path / "environment.json", json.dumps(facts | {"diff": changes}, indent=1))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder until this process ends or is killed. Raises ValueError if another process has locked it."""
        with (self.path / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as fault:
                raise ValueError(
                    f"another process is writing to the run {self.path}: wait for it, or end it first"
                ) from fault
            yield

    def checkpoint(self, step: int) -> Path:
        """The path of the checkpoint of a training step."""
        return self.path / "checkpoints" / f"step={step:08d}.ckpt"

    def checkpoints(self) -> list[Path]:
        """All checkpoints by step, oldest first, valid or not."""
        return sorted((self.path / "checkpoints").glob("step=*.ckpt"))

    def sibling(self, name: str, seed: Any) -> "RunFolder":
        """The run of ``<name>.yaml`` with this seed, in the same parent folder as this run.

        Raises ValueError if there is none, or more than one.
        """
        named = re.compile(rf"{re.escape(name)}(-seed\d+)?(-[0-9a-f]{{8}})?")
        parent = self.path.absolute().parent
        candidates = [RunFolder(file) for file in sorted(parent.glob("*-*")) if named.fullmatch(file.name)]
        found = [one for one in candidates if one.config_file.is_file() and one.seed == seed]
        if len(found) != 1:
            listed = ": " + ", ".join(str(one.path) for one in found) if found else ""
            raise ValueError(
                f"the run {self.path.name} builds on the run of {name}.yaml with seed {seed}, but {parent} has "
                f"{len(found) or 'none'} of them{listed}; train it first with `ebm fit -c .../{name}.yaml`, or give "
                f"the folder of a run in place of {name!r}"
            )
        return found[0]

    @property
    def seed(self) -> Any:
        """The seed of the configuration."""
        return self.config().get("seed_everything")

    def metrics(self) -> dict[str, dict[int, float]]:
        """The logged metrics by name and step; if a step occurs twice, as after a kill, the later row counts.

        Raises ValueError if nothing was logged.
        """
        columns: dict[str, dict[int, float]] = {}
        for row in self._rows():
            columns.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
        return columns

    def times(self) -> dict[int, float]:
        """The time when each step was logged, in seconds since the epoch. Raises ValueError if nothing was logged."""
        return {int(row["step"]): float(row["time"]) for row in self._rows()}

    def _rows(self) -> Iterator[dict[str, str]]:
        file = self.path / "metrics.csv"
        if not file.is_file():
            raise ValueError(f"there is no {file}: the run has logged nothing")
        with file.open(newline="") as rows:
            yield from csv.DictReader(rows)

    def event(self, kind: str, **details: Any) -> None:
        """Append an event to events.jsonl, with the time in seconds since the epoch."""
        with (self.path / "events.jsonl").open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 2), "event": kind, **details}) + "\n")

    def environment(self) -> dict[str, Any]:
        """The environment and source of the first start of this run."""
        recorded: dict[str, Any] = json.loads((self.path / "environment.json").read_text())
        return recorded

    def minutes(self) -> float:
        """Wall time of training over all starts, each counted up to its last event, in minutes."""
        total, begun, last = 0.0, None, 0.0
        for event in self.events():
            if event["event"] == "start":
                total += last - begun if begun is not None else 0.0
                begun = event["time"]
            last = event["time"]
        return (total + (last - begun if begun is not None else 0.0)) / 60

    def events(self) -> list[dict[str, Any]]:
        """All events of this run, oldest first."""
        file = self.path / "events.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
