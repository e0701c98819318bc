"""Sending what runs logged offline to Weights & Biases, from a machine that reaches it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def segments(run: Path) -> list[Path]:
    """What each start of a run logged offline, oldest first: ``wandb/offline-run-<time>-<id>``.

    Raises ValueError where there is none.
    """
    found = sorted((run / "wandb").glob("offline-run-*"))
    if not found:
        raise ValueError(f"{run} has no wandb/offline-run-*: it was not started with WANDB_MODE=offline")
    return found


def sync(runs: Sequence[Path], arguments: Sequence[str] = ()) -> None:
    """`wandb sync` of all segments of the runs, which makes one run of those with one id.

    Args:
        runs: run folders.
        arguments: further arguments of `wandb sync`, such as ``--dry-run``.

    Raises:
        ValueError: where a run has logged nothing offline, before anything is sent, and where `wandb sync` fails.
    """
    places = [str(place) for run in runs for place in segments(run)]
    online = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
    done = subprocess.run([sys.executable, "-m", "wandb", "sync", *arguments, *places], env=online, check=False)
    if done.returncode:
        raise ValueError(f"`wandb sync` failed with status {done.returncode}: see what it said above")
