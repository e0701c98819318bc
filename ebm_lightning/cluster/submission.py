"""Submission of tasks as jobs: folders, snapshot, script, sbatch, job log; or, without SLURM, one after the other."""

import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ebm_lightning.cluster import slurm
from ebm_lightning.cluster.job_log import JobLog
from ebm_lightning.cluster.profile import Profile
from ebm_lightning.cluster.script import Task, script
from ebm_lightning.cluster.snapshot import Source, take
from ebm_lightning.runs.files import write_atomically
from ebm_lightning.runs.folder import RunFolder

FORWARDED_VARIABLES = ("EBM_DATA", "EBM_RUNS", "WANDB_MODE")
"""Variables of the submitting process that a job gets, also at sites that forward no environment."""


@dataclasses.dataclass(frozen=True)
class Submission:
    """Tasks that are submitted together: a job, or an array of several tasks.

    Args:
        root: of all runs; it has the job log, the snapshots and the links of arrays.
        name: of the job.
        tasks: the tasks, each in a folder of its own.
        profile: of the site.
        source: the checkout of the snapshot.
        command: the command line of the submission.

    Raises:
        ValueError: if two tasks have one folder.
    """

    root: Path
    name: str
    tasks: tuple[Task, ...]
    profile: Profile
    source: Source
    command: tuple[str, ...]

    def __post_init__(self) -> None:
        folders = [task.folder for task in self.tasks]
        if twice := [folder for folder in folders if folders.count(folder) > 1]:
            raise ValueError(f"two jobs would write to the run folder {twice[0]}: give each point of a sweep once")

    @property
    def code(self) -> Path:
        """The folder of the snapshot, which may not exist yet."""
        return self.root.absolute() / ".code" / self.source.key

    @property
    def script(self) -> str:
        """The batch script."""
        if self._is_array:
            output = f"{_literal(self._links)}/%a/slurm/%A_%a.out"
        else:
            output = f"{_literal(self.tasks[0].folder)}/slurm/%j.out"
        forwarded = {key: os.environ[key] for key in FORWARDED_VARIABLES if key in os.environ}
        return script(
            self.profile,
            self.tasks,
            name=self.name,
            output=output,
            code=self.code,
            directory=Path.cwd(),
            environment={"WANDB_MODE": "offline", **forwarded},
        )

    def arguments(self, after: str | None = None, max_parallel: int | None = None) -> list[str]:
        """The arguments of sbatch in addition to the script.

        Args:
            after: a job that must have succeeded first.
            max_parallel: the number of tasks of an array that may run at a time; None sets no limit.
        """
        limit = f"%{max_parallel}" if max_parallel else ""
        array = [f"--array=0-{len(self.tasks) - 1}{limit}"] if self._is_array else []
        return ["--parsable", *array, *([f"--dependency=afterok:{after}"] if after else [])]

    def submit(self, after: str | None = None, max_parallel: int | None = None) -> str:
        """Submit the tasks to SLURM and return the id of the job.

        Raises:
            ValueError: if a waiting or running job already writes to one of the folders, or SLURM is missing or
                refuses.
        """
        job_log = JobLog(self.root)
        with job_log.locked():
            queue = slurm.queue()
            for task in self.tasks:
                check_free(job_log, task.folder, queue)
            self.write()
            job = slurm.sbatch(self.script, self.arguments(after, max_parallel))
            for number, task in enumerate(self.tasks):
                job_log.add(f"{job}_{number}" if self._is_array else job, task.folder, self.name)
        return job

    def run_here(self) -> None:
        """Run the script without SLURM, one task after the other.

        Raises:
            ValueError: if a task fails.
        """
        self.write()
        for number, task in enumerate(self.tasks):
            log = task.folder / "slurm" / "local.out"
            if status := _bash(task.folder / "slurm" / "job.sh", str(number), log):
                raise ValueError(f"the run {task.folder} failed with status {status}: its log is {log}")

    def write(self) -> None:
        """Take the snapshot, and write slurm/job.sh, code (a link), meta.json and run_id of each folder."""
        text = self.script
        code = take(self.source, self.code.parent)
        facts = self._facts()
        for number, task in enumerate(self.tasks):
            (task.folder / "slurm").mkdir(parents=True, exist_ok=True)
            write_atomically(task.folder / "slurm" / "job.sh", text)
            _link(task.folder / "code", code)
            if self._is_array:
                self._links.mkdir(parents=True, exist_ok=True)
                _link(self._links / str(number), task.folder)
            meta = {"task": number if self._is_array else None, "id": RunFolder(task.folder).id, **facts}
            write_atomically(task.folder / "meta.json", json.dumps(meta, indent=1))

    @property
    def _is_array(self) -> bool:
        return len(self.tasks) > 1

    @property
    def _links(self) -> Path:
        """Links to the folders by number of the task, so that the log of each task of an array is in its folder."""
        folders = "\n".join(str(task.folder) for task in self.tasks)
        return self.root.absolute() / ".arrays" / hashlib.sha256(folders.encode()).hexdigest()[:12]

    def _facts(self) -> dict[str, Any]:
        return {
            "time": round(time.time(), 2),
            "command": list(self.command),
            "directory": str(Path.cwd()),
            "host": socket.gethostname(),
            "commit": self.source.commit,
            "dirty": self.source.dirty,
            "untracked": list(self.source.untracked),
            "profile": dataclasses.asdict(self.profile),
            "packages": sorted(f"{found.name}=={found.version}" for found in metadata.distributions()),
        }


def check_free(job_log: JobLog, folder: Path, queue: Mapping[str, slurm.Job]) -> None:
    """Raise ValueError if a folder has a waiting or running job."""
    line = job_log.newest().get(job_log.relative(folder))
    job = queue.get(line["job"]) if line else None
    if job is not None:
        raise ValueError(
            f"the job {job.id} ({job.state.lower()}) writes to the run folder {folder}: wait for it, or end it with "
            f"`ebm cancel {folder}`"
        )


def _bash(script: Path, task: str, log: Path) -> int:
    """Run a script, print its output, and append it to a log."""
    command, here = ["bash", "--", str(script), task], slurm.environment()
    with (
        log.open("ab") as file,
        subprocess.Popen(command, env=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            file.flush()
            print(line.decode(errors="replace"), end="", flush=True)
    return process.returncode


def _literal(path: Path) -> str:
    """A path without patterns of SLURM."""
    return str(path).replace("%", "%%")


def _link(link: Path, target: Path) -> None:
    """Create or replace a relative link, which stays valid if the folder of all runs is moved."""
    partial = link.with_name(f"{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, link.parent))
    partial.replace(link)
