"""SLURM's commands as functions. None of them needs its accounting database."""

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Sequence

JOB_VARIABLES = re.compile(r"SLURM_(?!CONF$)|SRUN_|PMI|MASTER_(ADDR|PORT)$|(LOCAL_|NODE_|GLOBAL_)?RANK$|WORLD_SIZE$")
"""Environment variables that a process inherits from its job, and that would mislead another job."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A job, or a task of an array, known to SLURM.

    Args:
        id: ``17``, or ``17_3`` for a task of an array.
        state: SLURM's name for it: PENDING, RUNNING, COMPLETED, ...
        restarts: the number of times it was requeued.
        reason: for waiting; "" if it does not wait.
    """

    id: str
    state: str
    restarts: int
    reason: str = ""


def environment() -> dict[str, str]:
    """The environment of this process without the variables of its job; SLURM_CONF is kept."""
    return {key: value for key, value in os.environ.items() if not JOB_VARIABLES.match(key)}


def sbatch(script: str, arguments: Sequence[str] = ()) -> str:
    """Submit a script, given as text, and return the id of the job.

    Raises:
        ValueError: if SLURM is not installed, or with its message if it refuses.
    """
    done = _call("sbatch", *arguments, text=script)
    if done.returncode:
        raise ValueError(f"sbatch refused the job: {_message(done)}")
    return done.stdout.strip().splitlines()[-1].partition(";")[0]


def predicted(script: str, arguments: Sequence[str] = ()) -> str:
    """SLURM's prediction of the start of a script, which is not submitted.

    Raises:
        ValueError: as :func:`sbatch`.
    """
    done = _call("sbatch", "--test-only", *arguments, text=script)
    if done.returncode:
        raise ValueError(f"sbatch would refuse the job: {_message(done)}")
    return _message(done)


def queue() -> dict[str, Job]:
    """The jobs of this user that wait, run or end, by id.

    Raises:
        ValueError: if squeue fails.
    """
    form = "ArrayJobID:|,ArrayTaskID:|,State:|,RestartCnt:|,Reason:|"
    done = _call("squeue", "--me", "--array", "--noheader", f"--Format={form}")
    if done.returncode:
        raise ValueError(f"squeue failed: {_message(done)}")
    found = {}
    for line in filter(None, map(str.strip, done.stdout.splitlines())):
        array, task, state, restarts, reason = (cell.strip() for cell in line.split("|")[:5])
        id = array if task in ("N/A", "") else f"{array}_{task}"
        found[id] = Job(id, state, int(restarts or 0), "" if reason == "None" else reason)
    return found


def nodes() -> dict[str, str]:
    """The state of each node by name, as SLURM calls it: idle, mixed, completing, ..., with a * if it does not respond.

    Raises:
        ValueError: if SLURM is not installed, or does not respond.
    """
    done = _call("sinfo", "--noheader", "--Node", "--format=%N %T")
    if done.returncode:
        raise ValueError(f"sinfo failed: {_message(done)}")
    return dict(line.split() for line in done.stdout.splitlines())


def ended(id: str) -> Job | None:
    """A job that has left the queue; None after some minutes, unless SLURM has accounting."""
    if shutil.which("sacct"):
        done = _call("sacct", "--jobs", id, "--allocations", "--noheader", "--parsable2", "--format=State")
        if done.returncode == 0 and done.stdout.strip():
            return Job(id, done.stdout.split("|")[0].split()[0], _restarts(id))
    done = _call("scontrol", "show", "job", id)
    state = re.search(r"JobState=(\S+)", done.stdout)
    return Job(id, state[1], _restart_count(done.stdout)) if done.returncode == 0 and state else None


def cancel(id: str, *arguments: str) -> None:
    """Run `scancel` on a job.

    Raises:
        ValueError: with its message, if it refuses.
    """
    done = _call("scancel", *arguments, id)
    if done.returncode:
        raise ValueError(f"scancel refused: {_message(done)}")


def _restarts(id: str) -> int:
    return _restart_count(_call("scontrol", "show", "job", id).stdout)


def _restart_count(output: str) -> int:
    found = re.search(r"Restarts=(\d+)", output)
    return int(found[1]) if found else 0


def _call(command: str, *arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    path = shutil.which(command)
    if path is None:
        raise ValueError(
            f"{command} is not on PATH, so there is no SLURM here: `ebm submit --local 1` and `ebm reproduce` without "
            "--submit need none"
        )
    return subprocess.run(
        [path, *arguments], input=text, env=environment(), capture_output=True, text=True, check=False
    )


def _message(done: "subprocess.CompletedProcess[str]") -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in lines) or "without a message"
