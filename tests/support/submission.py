"""A checkout from which the tests submit jobs, an interpreter that trains nothing, and a script run as SLURM would."""

import os
import subprocess
from pathlib import Path

from support.stand_in import StandIn

NET = "experiments/paper/net.yaml"
"""The configuration of the checkout."""

EVIL = "x'; touch hacked; `touch hacked` $(touch hacked) \"&# %j"
"""A name that would run a command wherever it is not quoted."""

PYTHON = """
if [ "$1" = -c ]; then exit 0; fi
printf '%s\\0' "$PWD" "$PYTHONPATH" "$WANDB_MODE" "$MASTER_ADDR" "$MASTER_PORT" "$SRUN_CPUS_PER_TASK" \\
    "${{@:3}}" $'\\1' >>{home}/ran
if [ -e {home}/saves ]; then
    mkdir -p -- "$(cat {home}/folder)/checkpoints"
    touch -- "$(cat {home}/folder)/checkpoints/step=$(cat {home}/saves).ckpt"
fi
if [ -e {home}/asks ]; then
    read -r count <{home}/asks
    if [ "$count" -gt 0 ]; then echo $((count - 1)) >{home}/asks; touch -- "$(cat {home}/folder)/.requeue"; exit 143; fi
fi
exit "$(cat {home}/status 2>/dev/null || echo 0)"
"""


def git(place: Path, *arguments: str) -> str:
    own = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(["git", *own, *arguments], cwd=place, capture_output=True, text=True, check=True).stdout


def run_script(text: str, slurm: StandIn, folder: Path, **job: str) -> tuple[int, str]:
    """Runs a script as SLURM would, or without it where ``job`` is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    (slurm.home / "folder").write_text(str(folder))
    file = slurm.home / "job.sh"
    file.write_text(text)
    done = subprocess.run(
        ["bash", str(file)], env={**os.environ, **job}, capture_output=True, text=True, check=False, cwd=slurm.home
    )
    return done.returncode, done.stdout + done.stderr


def ran(slurm: StandIn) -> list[list[str]]:
    """Directory, four variables and the arguments of the interpreter, one list for each start."""
    return [start.split("\0") for start in (slurm.home / "ran").read_text().split("\0\1\0")[:-1]]
