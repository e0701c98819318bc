"""A run is a folder: one configuration, one id, its checkpoints, numbers and pictures. Imports no torch."""

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

    ``config.yaml`` (the whole resolved configuration), ``environment.json``, ``run_id``, ``metrics.csv``,
    ``events.jsonl``, ``checkpoints/``, ``samples/``, ``evaluation/``, ``wandb/``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def requeue_file(self) -> Path:
        """The file that a preempted run leaves, so that its job is started again."""
        return self.path / ".requeue"

    @property
    def experiment(self) -> str:
        """The name of the experiment: the folder that holds its runs."""
        return self.path.absolute().parent.name

    @property
    def id(self) -> str:
        """The id of this run, the same in W&B however often it continues; made and kept at the first call."""
        file = self.path / "run_id"
        if not file.exists():
            file.write_text(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(5))
        return file.read_text().strip()

    def config(self) -> Config:
        """The configuration this run was started with. Raises ValueError where the folder holds no run."""
        if not self.config_file.is_file():
            raise ValueError(
                f"{self.path} is no run folder: it holds no config.yaml; give the folder that `ebm fit` printed"
            )
        loaded: Config = yaml.safe_load(self.config_file.read_text())
        return loaded

    def acquire(self, config: Config, command: list[str]) -> None:
        """Make this the folder of a configuration, or check that it is; config.yaml is that of the latest start.

        Raises ValueError, with what differs, if it belongs to another configuration or if another process writes it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        different = differences(self.config(), config) if self.config_file.exists() else []
        if different:
            shown = "; ".join(different[:4]) + (f"; and {len(different) - 4} more" if len(different) > 4 else "")
            raise ValueError(
                f"the run folder {self.path} belongs to another configuration ({shown}): leave out --run to get a "
                "folder for this one, or name a new one"
            )
        made = source()
        facts, changes = environment(made), made["diff"]
        with self.lock():
            write_atomically(self.config_file, yaml.safe_dump(config, sort_keys=False))
            self.event("start", id=self.id, command=command, environment=facts)
            if not (self.path / "environment.json").exists():
                write_atomically(self.path / "environment.json", json.dumps(facts | {"diff": changes}, indent=1))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for one process; a killed process lets go. Raises ValueError where another holds it."""
        with (self.path / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as fault:
                raise ValueError(
                    f"another process is writing the run {self.path}: wait for it, or end it first"
                ) from fault
            yield

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a training step goes."""
        return self.path / "checkpoints" / f"step={step:08d}.ckpt"

    def checkpoints(self) -> list[Path]:
        """Checkpoints by step, oldest first, whether whole or not."""
        return sorted((self.path / "checkpoints").glob("step=*.ckpt"))

    def beside(self, name: str, seed: Any) -> "RunFolder":
        """The run of ``<name>.yaml`` in the folder of this one, with this seed.

        Raises ValueError where there is none, or more than one.
        """
        named = re.compile(rf"{re.escape(name)}(-seed\d+)?(-[0-9a-f]{{8}})?")
        there = [file for file in sorted(self.path.absolute().parent.glob("*-*")) if named.fullmatch(file.name)]
        found = [one for one in map(RunFolder, there) if one.config_file.is_file() and one.seed == seed]
        if len(found) != 1:
            place = self.path.absolute().parent
            listed = ": " + ", ".join(str(one.path) for one in found) if found else ""
            raise ValueError(
                f"the run {self.path.name} builds on the run of {name}.yaml with seed {seed}, but {place} has "
                f"{len(found) or 'none'} of them{listed}; train it first with `ebm fit -c .../{name}.yaml`, or give "
                f"the folder of a run in place of {name!r}"
            )
        return found[0]

    @property
    def seed(self) -> Any:
        """The seed of its configuration."""
        return self.config().get("seed_everything")

    def metrics(self) -> dict[str, dict[int, float]]:
        """What was logged, by name and step; where a step occurs twice, as after a kill, the later row counts.

        Raises ValueError where nothing was logged.
        """
        columns: dict[str, dict[int, float]] = {}
        for row in self._rows():
            columns.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
        return columns

    def times(self) -> dict[int, float]:
        """When each step was logged, in seconds since the epoch. Raises ValueError where nothing was logged."""
        return {int(row["step"]): float(row["time"]) for row in self._rows()}

    def _rows(self) -> Iterator[dict[str, str]]:
        file = self.path / "metrics.csv"
        if not file.is_file():
            raise ValueError(f"there is no {file}: the run has logged nothing")
        with file.open(newline="") as rows:
            yield from csv.DictReader(rows)

    def event(self, kind: str, **details: Any) -> None:
        """Appends what happened to events.jsonl, with the time in seconds since the epoch."""
        with (self.path / "events.jsonl").open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 2), "event": kind, **details}) + "\n")

    def environment(self) -> dict[str, Any]:
        """Where and from which source this run was first started."""
        recorded: dict[str, Any] = json.loads((self.path / "environment.json").read_text())
        return recorded

    def minutes(self) -> float:
        """Wall time of training over all its starts, each counted to its last event, in minutes."""
        total, begun, last = 0.0, None, 0.0
        for event in self.events():
            if event["event"] == "start":
                total += last - begun if begun is not None else 0.0
                begun = event["time"]
            last = event["time"]
        return (total + (last - begun if begun is not None else 0.0)) / 60

    def events(self) -> list[dict[str, Any]]:
        """Everything that happened to this run, oldest first."""
        file = self.path / "events.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
