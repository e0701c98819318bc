"""The runs of a submission: one folder for each seed and each point of a sweep, known without torch."""

import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ebm_lightning.runs.identity import NON_IDENTITY_KEYS

SUBMIT_ONLY_OPTIONS = {
    "--run": "`ebm submit` determines the run folder",
    "--seed_everything": "give seeds as --seeds 0-4, before the --",
    "--trainer.devices": "give the profile's devices or gpus_per_node, from which SLURM is configured too",
    "--trainer.num_nodes": "give the profile's nodes, from which SLURM is configured too",
}
"""Options of `ebm fit` that are not allowed among the overrides, each with the alternative."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a submission.

    Args:
        seed: its ``seed_everything``.
        overrides: the options of `ebm fit` after the experiment's file, those of a sweep last.
    """

    seed: int
    overrides: tuple[str, ...]

    def folder(self, experiment: Path, root: Path) -> Path:
        """``<root>/<experiment>/<name>-seed<k>``, with a hash of the overrides if they change the identity of the run.

        So the same command gives the same folder; options that may change when a run continues do not change it.
        """
        words = [word for option in _options(self.overrides) if not _is_free(option[0]) for word in option]
        digest = f"-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}" if words else ""
        return root.absolute() / experiment.absolute().parent.name / f"{experiment.stem}-seed{self.seed}{digest}"


def points(experiment: Path, seed_text: str | None, sweep: Path | None, overrides: Sequence[str]) -> list[Point]:
    """The runs of a submission: every point of the sweep with every seed, seed by seed within a point.

    Args:
        experiment: a configuration; its own seed is the default.
        seed_text: seeds as "0-4" or "0,3".
        sweep: a YAML file of dotted keys with lists, all combinations of which are run, or a list of points.
        overrides: options of `ebm fit` for all of them.

    Raises:
        ValueError: if a file is missing or not of its form, or an override is set by `ebm submit`.
    """
    for word in overrides:
        if reason := SUBMIT_ONLY_OPTIONS.get(word.partition("=")[0]):
            raise ValueError(f"{word.partition('=')[0]} is not allowed after the --: {reason}")
    config = _load(experiment, "configuration")
    default = config.get("seed_everything", 0) if isinstance(config, dict) else 0
    if seed_text is None and type(default) is not int:
        raise ValueError(
            f"the seed of {experiment} is {default!r}, but the name of the run folder needs an integer: give --seeds"
        )
    requested = seeds(seed_text) if seed_text is not None else (default,)
    swept = _swept(sweep) if sweep is not None else [()]
    return [Point(seed, (*overrides, *words)) for words in swept for seed in requested]


def seeds(text: str) -> tuple[int, ...]:
    """The seeds of a text such as "0-2" or "0,3"."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ValueError(f"--seeds takes integers and increasing ranges, such as 0-2 or 0,3; got {text!r}")
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


def _swept(file: Path) -> list[tuple[str, ...]]:
    """The overrides of each point of a sweep."""
    loaded = _load(file, "sweep")
    if isinstance(loaded, dict) and loaded and all(isinstance(values, list) and values for values in loaded.values()):
        rows = [dict(zip(loaded, values, strict=True)) for values in itertools.product(*loaded.values())]
    elif isinstance(loaded, list) and loaded and all(isinstance(point, dict) and point for point in loaded):
        rows = loaded
    else:
        raise ValueError(f"{file} is not a sweep: expected dotted keys with lists of values, or a list of points")
    for key in {key for row in rows for key in row}:
        if not isinstance(key, str) or not re.fullmatch(r"\w+(\.\w+)*", key):
            raise ValueError(
                f"{file}: {key!r} is not a dotted key, such as model.init_args.sampler.init_args.step_size"
            )
        if reason := SUBMIT_ONLY_OPTIONS.get(f"--{key}"):
            raise ValueError(f"{file}: {key} cannot be swept: {reason}")
    return [tuple(word for key, value in row.items() for word in (f"--{key}", _text(value))) for row in rows]


def _text(value: Any) -> str:
    """A YAML value as a word of the command line; an integral float has no decimal point, so 1e3 can be an integer."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        value = float(value)  # YAML reads 1.0e+3 as a number, but 1e3 as text
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _load(file: Path, what: str) -> Any:
    if not file.is_file():
        raise ValueError(f"there is no {what} file {file}: give the path of a YAML file")
    try:
        return yaml.safe_load(file.read_text())
    except yaml.YAMLError as fault:
        raise ValueError(f"{file} is not YAML: {fault}") from fault


def _options(words: Sequence[str]) -> Iterator[list[str]]:
    """Each option with its values: ``[--key, value]``, also for ``--key=value``."""
    option: list[str] = []
    for word in words:
        if word.startswith("-") and not re.match(r"-[\d.]", word):
            if option:
                yield option
            option = word.split("=", 1) if word.startswith("--") else [word]
        else:
            option.append(word)
    if option:
        yield option


def _is_free(option: str) -> bool:
    key = option.lstrip("-")
    return any(key == free or key.startswith(free + ".") for free in NON_IDENTITY_KEYS)


def root() -> Path:
    """The folder of all runs: ``EBM_RUNS``, or runs/."""
    return Path(os.environ.get("EBM_RUNS", "runs"))
