"""Submitted jobs: their state, logs, cancellation, and resumption."""

import csv
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ebm_lightning.cluster import slurm
from ebm_lightning.cluster.job_log import JobLog
from ebm_lightning.cluster.submission import check_free
from ebm_lightning.runs.folder import RunFolder

COLUMNS = ("job", "state", "restarts", "step", "last", "run")
TAIL_BYTES = 8192
"""The number of bytes read from the end of metrics.csv."""


@dataclasses.dataclass(frozen=True)
class Submitted:
    """The newest job of a folder.

    Args:
        folder: of the run.
        id: of the job, ``17`` or ``17_3``.
        time: of the submission, in seconds since the epoch.
    """

    folder: Path
    id: str
    time: float

    @property
    def is_finished(self) -> bool:
        """Whether the run has taken all its steps since its submission and last start."""
        events = [event for event in RunFolder(self.folder).events() if event["event"] in ("start", "end")]
        return bool(events) and events[-1]["event"] == "end" and events[-1]["time"] >= self.time

    def job(self, queue: Mapping[str, slurm.Job]) -> slurm.Job:
        """The job from SLURM or, if SLURM no longer has it, from the events of the run."""
        if self.id in queue:
            return queue[self.id]
        starts = [event for event in RunFolder(self.folder).events() if event["event"] == "start"]
        by_events = slurm.Job(self.id, "COMPLETED" if self.is_finished else "GONE", max(len(starts) - 1, 0))
        return by_events if self.is_finished else slurm.ended(self.id) or by_events


def submitted(root: Path) -> list[Submitted]:
    """The newest job of each folder below the root of all runs."""
    job_log = JobLog(root)
    return [Submitted(job_log.root / line["folder"], line["job"], line["time"]) for line in job_log.newest().values()]


def of_run(folder: Path) -> Submitted:
    """The newest job of a run.

    Raises:
        ValueError: if the run was not submitted.
    """
    job_log = JobLog(folder.absolute().parent.parent)
    line = job_log.newest().get(job_log.relative(folder))
    if line is None:
        raise ValueError(f"{folder} was not submitted: give the run folder that `ebm submit` printed")
    return Submitted(folder, line["job"], line["time"])


def table(root: Path) -> list[str]:
    """The lines of `ebm jobs`."""
    found, queue = submitted(root), slurm.queue()
    rows = [COLUMNS, *(_row(one, one.job(queue)) for one in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(one: Submitted, job: slurm.Job) -> tuple[str, ...]:
    state = f"{job.state} ({job.reason})" if job.reason else job.state
    step, last = _last(one.folder / "metrics.csv")
    return one.id, state, str(job.restarts), step, last, str(one.folder)


def logged_last(metrics: Path) -> list[list[str]]:
    """The last complete rows of metrics.csv (time, step, name, value), from its end; none if there is no file."""
    if not metrics.is_file():
        return []
    with metrics.open("rb") as file:
        file.seek(max(metrics.stat().st_size - TAIL_BYTES, 0))
        lines = file.read().decode(errors="replace").splitlines()[1:]
    return [row for row in csv.reader(lines) if len(row) == 4]


def _last(metrics: Path) -> tuple[str, str]:
    """The last logged step and its loss, or the last logged metric if there is no loss."""
    rows = logged_last(metrics)
    if not rows:
        return "-", "-"
    _, _, name, value = next((row for row in reversed(rows) if row[2].endswith("loss")), rows[-1])
    return rows[-1][1], f"{name} {float(value):.4g}"


def cancel(folder: Path) -> str:
    """Cancel the job of a run and return its id.

    Raises:
        ValueError: if the run has no waiting or running job.
    """
    job = _alive(folder)
    slurm.cancel(job.id)
    return job.id


def preempt(folder: Path) -> str:
    """Send the job of a run the signal that SLURM sends before its time limit, as a test; returns its id.

    Raises:
        ValueError: if the run has no running job.
    """
    job = _alive(folder)
    if job.state != "RUNNING":
        raise ValueError(f"the job {job.id} of {folder} is {job.state.lower()}: only a running one can be preempted")
    slurm.cancel(job.id, "--signal=USR1")
    return job.id


def _alive(folder: Path) -> slurm.Job:
    found, queue = of_run(folder), slurm.queue()
    if found.id not in queue:
        raise ValueError(f"the job {found.id} of {folder} is {found.job(queue).state.lower()}: it cannot be ended")
    return queue[found.id]


def resume(folder: Path) -> str:
    """Submit the script of a run again, from its snapshot, and return the id of the new job.

    Raises:
        ValueError: if the run is finished, or has a waiting or running job.
    """
    found = of_run(folder)
    if found.is_finished:
        raise ValueError(
            f"the run {folder} is finished: for more steps, submit it with the same command and a larger "
            "--trainer.max_steps after the --"
        )
    job_log = JobLog(folder.absolute().parent.parent)
    with job_log.locked():
        check_free(job_log, folder, slurm.queue())
        task = json.loads((folder / "meta.json").read_text())["task"]
        array = [] if task is None else [f"--array={task}"]
        job = slurm.sbatch((folder / "slurm" / "job.sh").read_text(), ["--parsable", *array])
        job = job if task is None else f"{job}_{task}"
        job_log.add(job, folder, job_log.newest()[job_log.relative(folder)]["name"])
    return job


def logs(folder: Path) -> list[Path]:
    """The logs of a run's jobs, oldest first.

    Raises:
        ValueError: if there is none.
    """
    found = sorted((folder / "slurm").glob("*.out"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise ValueError(f"{folder} has no log: its job has not started, or it was not submitted")
    return found


def follow(folder: Path, is_alive: Callable[[], bool], poll_seconds: float = 1.0) -> Iterator[str]:
    """The text of the logs of a run, and new text as long as its job is alive."""
    read: dict[Path, int] = {}
    while True:
        alive = is_alive()
        for log in sorted((folder / "slurm").glob("*.out"), key=lambda file: file.stat().st_mtime):
            with log.open("rb") as file:
                file.seek(read.get(log, 0))
                new = file.read()
                read[log] = file.tell()
            if new:
                yield new.decode(errors="replace")
        if not alive:
            return
        time.sleep(poll_seconds)
