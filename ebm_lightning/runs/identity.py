"""Identity of a run: its configuration without the options that may change when it continues."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Config = dict[str, Any]


NON_IDENTITY_KEYS = (
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
"""Options that may change when a run continues: its length, its hardware, its logging; never what it computes."""


def default_folder(config: Config, config_files: list[str]) -> Path:
    """``runs/<experiment>/<name>-<hash>``, with a hash of the identity, so that the same command continues its run.

    The environment variable ``EBM_RUNS`` replaces the root ``runs``.
    """
    source = Path(config_files[0]).absolute() if config_files else Path("unnamed/run")
    return Path(os.environ.get("EBM_RUNS", "runs")) / source.parent.name / f"{source.stem}-{digest(config)[:8]}"


def digest(config: Config) -> str:
    """The SHA-256 of a run's identity, in hexadecimal."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()


def identity(config: Config) -> dict[str, Any]:
    """The identity of a run: its flattened configuration without :data:`NON_IDENTITY_KEYS` and without nulls.

    Classes are given by their last name. So the identity of an old run is changed neither by an option that a later
    version adds, null by default, nor by a class that moves to another module.
    """
    return {
        key: value
        for key, value in flatten(shorten_class_paths(config)).items()
        if value is not None and not any(key == free or key.startswith(free + ".") for free in NON_IDENTITY_KEYS)
    }


def shorten_class_paths(tree: Any) -> Any:
    """A configuration with the last names of classes and functions instead of their paths."""
    if isinstance(tree, list):
        return [shorten_class_paths(part) for part in tree]
    if not isinstance(tree, Mapping):
        return tree
    return {
        key: value.rpartition(".")[2] if key == "class_path" and isinstance(value, str) else shorten_class_paths(value)
        for key, value in tree.items()
    }


def differences(old: Config, new: Config) -> list[str]:
    """The differences of two configurations in the identity of the run, each as ``key: old -> new``."""
    before, after = identity(old), identity(new)
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as a flat one with dotted keys; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
