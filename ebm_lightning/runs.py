"""A run is a folder: one configuration, one id, its checkpoints, numbers and pictures. Imports no torch."""

import csv
import fcntl
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

Config = dict[str, Any]

FREE_KEYS = (
    "run",
    "checkpoint",
    "samples",
    "evaluation",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.enable_checkpointing",
    "trainer.profiler",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.val_check_interval",
    "trainer.limit_val_batches",
)
"""What may change when a run continues: how long it lasts, where it runs, how it is watched; never what it computes."""

PACKAGES = (
    "ebm_lightning",
    "torch",
    "lightning",
    "torchmetrics",
    "jsonargparse",
    "wandb",
    "datasets",
    "scikit-learn",
    "numpy",
)


WRITTEN = tuple(
    f":(top,exclude,glob){place}"
    for place in (
        *("README.md", "experiments/*/README.md", "experiments/*/results/**"),
        *("benchmarks/README.md", "benchmarks/results/**"),
    )
)
"""What `ebm reproduce` and the benchmarks write themselves: a tree that differs there alone is not dirty."""

MAKE_ROOM = (signal.SIGUSR1, signal.SIGTERM)
"""What SLURM sends before a time limit (as `--signal` asks) and at a preemption."""

SLURM = ("SLURM_JOB", "SLURM_ARRAY", "SLURM_N", "SLURM_RESTART", "SLURM_CPUS", "SLURM_GPUS")
"""How the variables of a SLURM job begin that say what it is; others may hold a token."""


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
        """Where a run that was asked to make room says that it is to be started again."""
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

    def claim(self, config: Config, command: list[str]) -> None:
        """Makes the folder this configuration's own, or checks that it is; config.yaml is that of the latest start.

        Raises ValueError, saying what differs, where it belongs to another configuration, and where another process
        is writing it.
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


def default_folder(config: Config, config_files: list[str]) -> Path:
    """``runs/<experiment>/<name>-<hash>``: named by the configuration, so that the same command finds its run again.

    ``EBM_RUNS`` names another root than ``runs``.
    """
    source = Path(config_files[0]).absolute() if config_files else Path("unnamed/run")
    digest = hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:8]
    return Path(os.environ.get("EBM_RUNS", "runs")) / source.parent.name / f"{source.stem}-{digest}"


def identity(config: Config) -> dict[str, Any]:
    """What makes a run this run: the flattened configuration without :data:`FREE_KEYS` and without what is null.

    Classes are named by their last name. So neither an option that a later version adds, null by default, nor a class
    that moves to another module makes another run of an old one.
    """
    return {
        key: value
        for key, value in flatten(shorten_class_paths(config)).items()
        if value is not None and not any(key == free or key.startswith(free + ".") for free in FREE_KEYS)
    }


def shorten_class_paths(tree: Any) -> Any:
    """A configuration whose classes and functions have their last names in place of their paths."""
    if isinstance(tree, list):
        return [shorten_class_paths(part) for part in tree]
    if not isinstance(tree, Mapping):
        return tree
    return {
        key: value.rpartition(".")[2] if key == "class_path" and isinstance(value, str) else shorten_class_paths(value)
        for key, value in tree.items()
    }


def differences(old: Config, new: Config) -> list[str]:
    """How two configurations differ in what makes a run this run, as sentences ``key: old -> new``."""
    before, after = identity(old), identity(new)
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def runs_below(config: Any) -> Iterator[dict[str, Any]]:
    """The arguments of whatever loads a run in a configuration, as a tree or as parsed, to be read or changed.

    That is ``load_model``, and the ``TrainedClassifier`` of a protocol.
    """
    if isinstance(config, list):
        for part in config:
            yield from runs_below(part)
    node = config if isinstance(config, dict) else getattr(config, "__dict__", {})
    if str(node.get("class_path")).rpartition(".")[2] in ("load_model", "TrainedClassifier"):
        arguments = node["init_args"]
        yield arguments if isinstance(arguments, dict) else arguments.__dict__
    else:
        for part in node.values():
            yield from runs_below(part)


def name_runs_below(config: Any, folder: RunFolder, seed: Any) -> None:
    """Puts folders in place of the names of runs on which a run in this folder builds: see :meth:`RunFolder.beside`."""
    for arguments in runs_below(config):
        if "/" not in arguments["run"]:
            arguments["run"] = str(folder.beside(arguments["run"], seed).path)


def check_data_below(config: Config, folders: Iterable[RunFolder]) -> None:
    """Raises ValueError where a run that this one builds on saw other data, or the same in another pixel convention.

    Grey levels are taken by whatever was trained on their binarisation: they are the probabilities of its pixels.
    """
    for folder in folders:
        own, below = _data_of(config), _data_of(folder.config())
        if own.get("data.init_args.pixels.class_path") == "Grey":
            own, below = ({key: data[key] for key in data if ".pixels." not in key} for data in (own, below))
        if different := [key for key in own.keys() | below.keys() if own.get(key) != below.get(key)]:
            key = min(different)
            raise ValueError(
                f"the run {folder.path}, on which this one builds, was trained on other data ({key}: {below.get(key)}, "
                f"here {own.get(key)}): pretrain on the same data in the same pixel convention"
            )


def _data_of(config: Config) -> dict[str, Any]:
    """What makes data these data: the flattened ``data`` section without sizes of batches, splits and seeds.

    Nor does it matter which of them a run is trained on: models of different parts of the same data are composed.
    """
    free = ("batch_size", "valid", "split_seed", "seed", "memory_gb", "max_train", "only")
    return {
        key: value
        for key, value in flatten(shorten_class_paths({"data": config.get("data") or {}})).items()
        if key.removeprefix("data.init_args.") not in free
    }


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def environment(made: dict[str, Any] | None = None) -> dict[str, Any]:
    """Versions, hardware and source of this process; ``made`` is its :func:`source` where that is known already."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        **{key: value for key, value in (made or source()).items() if key in ("commit", "dirty")},
    }
    slurm = {key: value for key, value in os.environ.items() if key.startswith(SLURM)}
    return facts | ({"slurm": slurm} if slurm else {})


def source() -> dict[str, Any]:
    """The commit of this library's source, whether it is dirty, and its diff: of a checkout, or of a snapshot of one.

    A snapshot is what a submitted job runs from; ``snapshot.json`` beside the package says what it was made of.
    """
    snapshot = Path(__file__).parent.parent / "snapshot.json"
    if snapshot.is_file():
        made: dict[str, Any] = json.loads(snapshot.read_text())
        return made
    dirty = bool(git("status", "--porcelain", "--", ":(top)", *WRITTEN))
    return {"commit": git("rev-parse", "HEAD"), "dirty": dirty, "diff": git("diff", "HEAD")}


def processor() -> str:
    """The name of the processor, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def git(*arguments: str) -> str | None:
    """What git prints about the source of this library, or None outside a checkout."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def write_between(file: Path, begin: str, lines: Iterable[str], end: str) -> None:
    """Puts lines in the place of what stands between two markers of a text file."""
    head, _, rest = file.read_text().partition(begin)
    write_atomically(file, "\n".join([head + begin, *lines, end]) + rest.partition(end)[2])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def command_line() -> list[str]:
    """The command this process was started with."""
    return ["ebm", *sys.argv[1:]]
