"""Upload of runs that were logged offline to Weights & Biases."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def segments(run: Path) -> list[Path]:
    """The offline logs of each start of a run, oldest first: ``wandb/offline-run-<time>-<id>``.

    Raises:
        ValueError: if there is none.
    """
    found = sorted((run / "wandb").glob("offline-run-*"))
    if not found:
        raise ValueError(f"{run} has no wandb/offline-run-*: it was not started with WANDB_MODE=offline")
    return found


def sync(runs: Sequence[Path], arguments: Sequence[str] = ()) -> None:
    """Run `wandb sync` on all segments of the runs; segments with one id become one run.

    Args:
        runs: run folders.
        arguments: further arguments of `wandb sync`, such as ``--dry-run``.

    Raises:
        ValueError: if a run has logged nothing offline, before any upload, or if `wandb sync` fails.
    """
    folders = [str(segment) for run in runs for segment in segments(run)]
    online = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
    done = subprocess.run([sys.executable, "-m", "wandb", "sync", *arguments, *folders], env=online, check=False)
    if done.returncode:
        raise ValueError(f"`wandb sync` failed with status {done.returncode}: see its output above")
