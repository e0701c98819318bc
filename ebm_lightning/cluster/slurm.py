"""SLURM's own commands, as functions. None of them needs its accounting database."""

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Sequence

INHERITED = re.compile(r"SLURM_(?!CONF$)|SRUN_|PMI|MASTER_(ADDR|PORT)$|(LOCAL_|NODE_|GLOBAL_)?RANK$|WORLD_SIZE$")
"""Variables that a process has from the job it is in, which would mislead another job."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A job, or a task of an array, that SLURM still knows.

    Args:
        id: ``17``, or ``17_3`` for a task of an array.
        state: as SLURM calls it: PENDING, RUNNING, COMPLETED, ...
        restarts: how often it was requeued.
        reason: why it waits, or "" where it does not.
    """

    id: str
    state: str
    restarts: int
    reason: str = ""


def environment() -> dict[str, str]:
    """The environment of this process without what it has from a job that it may be in; SLURM_CONF stays."""
    return {key: value for key, value in os.environ.items() if not INHERITED.match(key)}


def sbatch(script: str, arguments: Sequence[str] = ()) -> str:
    """Submits a script, given as text, and returns the job's id.

    Raises ValueError where there is no SLURM here, and with its own words where it refuses.
    """
    done = _call("sbatch", *arguments, text=script)
    if done.returncode:
        raise ValueError(f"sbatch refused the job: {_words(done)}")
    return done.stdout.strip().splitlines()[-1].partition(";")[0]


def predicted(script: str, arguments: Sequence[str] = ()) -> str:
    """What SLURM says about a script that it does not run: when and where it would start.

    Raises ValueError as :func:`sbatch` does.
    """
    done = _call("sbatch", "--test-only", *arguments, text=script)
    if done.returncode:
        raise ValueError(f"sbatch would refuse the job: {_words(done)}")
    return _words(done)


def queue() -> dict[str, Job]:
    """The jobs of this user that wait, run or end, by id. Raises ValueError where SLURM cannot say."""
    form = "ArrayJobID:|,ArrayTaskID:|,State:|,RestartCnt:|,Reason:|"
    done = _call("squeue", "--me", "--array", "--noheader", f"--Format={form}")
    if done.returncode:
        raise ValueError(f"squeue cannot say which jobs are there: {_words(done)}")
    found = {}
    for line in filter(None, map(str.strip, done.stdout.splitlines())):
        array, task, state, restarts, reason = (cell.strip() for cell in line.split("|")[:5])
        id = array if task in ("N/A", "") else f"{array}_{task}"
        found[id] = Job(id, state, int(restarts or 0), "" if reason == "None" else reason)
    return found


def nodes() -> dict[str, str]:
    """The state of each node by its name, as SLURM calls it: idle, mixed, completing, ..., with a * where it is silent.

    Raises ValueError where there is no SLURM here, or where it does not answer.
    """
    done = _call("sinfo", "--noheader", "--Node", "--format=%N %T")
    if done.returncode:
        raise ValueError(f"sinfo cannot say which nodes there are: {_words(done)}")
    return dict(line.split() for line in done.stdout.splitlines())


def ended(id: str) -> Job | None:
    """A job that is no longer in the queue, while SLURM remembers it: minutes, or for good where it accounts."""
    if shutil.which("sacct"):
        done = _call("sacct", "--jobs", id, "--allocations", "--noheader", "--parsable2", "--format=State")
        if done.returncode == 0 and done.stdout.strip():
            return Job(id, done.stdout.split("|")[0].split()[0], _restarts(id))
    done = _call("scontrol", "show", "job", id)
    state = re.search(r"JobState=(\S+)", done.stdout)
    return Job(id, state[1], _count(done.stdout)) if done.returncode == 0 and state else None


def cancel(id: str, *arguments: str) -> None:
    """`scancel` of a job. Raises ValueError with its words where it refuses."""
    done = _call("scancel", *arguments, id)
    if done.returncode:
        raise ValueError(f"scancel refused: {_words(done)}")


def _restarts(id: str) -> int:
    return _count(_call("scontrol", "show", "job", id).stdout)


def _count(shown: str) -> int:
    found = re.search(r"Restarts=(\d+)", shown)
    return int(found[1]) if found else 0


def _call(command: str, *arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    path = shutil.which(command)
    if path is None:
        raise ValueError(
            f"there is no {command} on PATH, so no SLURM here: `ebm submit --local 1` and `ebm reproduce` without "
            "--submit need none"
        )
    return subprocess.run(
        [path, *arguments], input=text, env=environment(), capture_output=True, text=True, check=False
    )


def _words(done: "subprocess.CompletedProcess[str]") -> str:
    said = (done.stderr or done.stdout).strip().splitlines()
    return "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in said) or "without a word"
