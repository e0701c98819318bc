"""Versions, hardware and source of a process."""

import json
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

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


GENERATED_PATHS = tuple(
    f":(top,exclude,glob){pattern}"
    for pattern in (
        *("README.md", "experiments/*/README.md", "experiments/*/results/**"),
        *("benchmarks/README.md", "benchmarks/results/**"),
    )
)
"""Files written by `ebm reproduce` and the benchmarks: changes of these alone do not make a checkout dirty."""


SLURM = ("SLURM_JOB", "SLURM_ARRAY", "SLURM_N", "SLURM_RESTART", "SLURM_CPUS", "SLURM_GPUS")
"""Prefixes of the environment variables that describe a SLURM job; other variables may hold a token."""


def environment(code: dict[str, Any] | None = None) -> dict[str, Any]:
    """Versions, hardware and source of this process; ``code`` is its :func:`source`, None to compute it."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        **{key: value for key, value in (code or source()).items() if key in ("commit", "dirty")},
    }
    slurm = {key: value for key, value in os.environ.items() if key.startswith(SLURM)}
    return facts | ({"slurm": slurm} if slurm else {})


def source() -> dict[str, Any]:
    """The commit of this library's source, whether it is dirty, and its diff: of a checkout, or of a snapshot of one.

    A submitted job runs from a snapshot, whose ``snapshot.json`` has these values of the checkout.
    """
    snapshot = Path(__file__).parents[2] / "snapshot.json"
    if snapshot.is_file():
        recorded: dict[str, Any] = json.loads(snapshot.read_text())
        return recorded
    dirty = bool(git("status", "--porcelain", "--", ":(top)", *GENERATED_PATHS))
    return {"commit": git("rev-parse", "HEAD"), "dirty": dirty, "diff": git("diff", "HEAD")}


def processor() -> str:
    """The name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def git(*arguments: str) -> str | None:
    """The output of a git command in the source of this library; None if it fails or git is not installed."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
