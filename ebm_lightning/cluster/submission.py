"""From tasks to jobs: folders, snapshot, script, sbatch, ledger; or, without SLURM, one task after the other."""

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
from ebm_lightning.cluster.job_log import Ledger
from ebm_lightning.cluster.profile import Profile
from ebm_lightning.cluster.script import Task, script
from ebm_lightning.cluster.snapshot import Source, take
from ebm_lightning.runs.files import write_atomically
from ebm_lightning.runs.folder import RunFolder

KEPT = ("EBM_DATA", "EBM_RUNS", "WANDB_MODE")
"""Variables that a job has as they are when it is submitted, also where the site hands no environment over."""


@dataclasses.dataclass(frozen=True)
class Submission:
    """Tasks that go to SLURM together: a job, or an array where there are several.

    Args:
        root: of all runs; the ledger, the snapshots and the links of arrays lie there.
        name: of the job.
        tasks: what is run, each in a folder of its own.
        profile: what the site wants to be told.
        source: the checkout that a snapshot is taken of.
        command: the command line that this came from.

    Raises:
        ValueError: where two tasks have one folder.
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
            raise ValueError(f"two jobs would write the run folder {twice[0]}: name each point of a sweep once")

    @property
    def code(self) -> Path:
        """Where the snapshot is, or will be."""
        return self.root.absolute() / ".code" / self.source.key

    @property
    def script(self) -> str:
        """The batch script."""
        if self._is_array:
            output = f"{_literal(self._links)}/%a/slurm/%A_%a.out"
        else:
            output = f"{_literal(self.tasks[0].folder)}/slurm/%j.out"
        return script(
            self.profile,
            self.tasks,
            name=self.name,
            output=output,
            code=self.code,
            directory=Path.cwd(),
            environment={"WANDB_MODE": "offline", **{key: os.environ[key] for key in KEPT if key in os.environ}},
        )

    def arguments(self, after: str | None = None, max_parallel: int | None = None) -> list[str]:
        """What sbatch is told beside the script.

        Args:
            after: a job that must have succeeded first.
            max_parallel: how many tasks of an array may run at a time; None sets no limit.
        """
        limit = f"%{max_parallel}" if max_parallel else ""
        array = [f"--array=0-{len(self.tasks) - 1}{limit}"] if self._is_array else []
        return ["--parsable", *array, *([f"--dependency=afterok:{after}"] if after else [])]

    def submit(self, after: str | None = None, max_parallel: int | None = None) -> str:
        """Hands everything to SLURM and returns the job's id.

        Raises ValueError where a job writes one of the folders already, and where SLURM is absent or refuses.
        """
        ledger = Ledger(self.root)
        with ledger.held():
            queue = slurm.queue()
            for task in self.tasks:
                check_free(ledger, task.folder, queue)
            self.write()
            job = slurm.sbatch(self.script, self.arguments(after, max_parallel))
            for number, task in enumerate(self.tasks):
                ledger.add(f"{job}_{number}" if self._is_array else job, task.folder, self.name)
        return job

    def run_here(self) -> None:
        """Runs the script without SLURM, one task after the other. Raises ValueError where one fails."""
        self.write()
        for number, task in enumerate(self.tasks):
            log = task.folder / "slurm" / "local.out"
            if status := _bash(task.folder / "slurm" / "job.sh", str(number), log):
                raise ValueError(f"the run {task.folder} failed with status {status}: its log is {log}")

    def write(self) -> None:
        """Takes the snapshot and gives each folder its slurm/job.sh, code (a link), meta.json and run_id."""
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
        """Links to the folders, by the number of their task: so the one log of an array lies with each of its runs."""
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


def check_free(ledger: Ledger, folder: Path, queue: Mapping[str, slurm.Job]) -> None:
    """Raises ValueError where a job that still waits or runs belongs to a folder."""
    line = ledger.newest().get(ledger.place(folder))
    job = queue.get(line["job"]) if line else None
    if job is not None:
        raise ValueError(
            f"the job {job.id} ({job.state.lower()}) writes the run folder {folder}: wait for it, or end it with "
            f"`ebm cancel {folder}`"
        )


def _bash(script: Path, task: str, log: Path) -> int:
    """Runs a script, shows what it says, and keeps it."""
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
    """A path in which SLURM sees no pattern."""
    return str(path).replace("%", "%%")


def _link(link: Path, target: Path) -> None:
    """A relative link, which moves with the folder of all runs; an older one gives way."""
    partial = link.with_name(f"{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, link.parent))
    partial.replace(link)
