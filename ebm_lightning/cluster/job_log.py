"""The log of submitted jobs: the job of each folder, since SLURM keeps a job only for minutes after its end."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class JobLog:
    """The file ``jobs.jsonl`` below the root of all runs: one line for each job or task of an array, only appended to.

    A line is ``{"time": seconds since the epoch, "job": "17" or "17_3", "folder": path below the root, "name": text}``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.file = self.root / "jobs.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the submission of jobs below this root; wait if another process has locked it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "jobs.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def add(self, job: str, folder: Path, name: str) -> None:
        """Append a job."""
        line = {"time": round(time.time(), 2), "job": job, "folder": self.relative(folder), "name": name}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """All jobs, oldest first."""
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def newest(self) -> dict[str, dict[str, Any]]:
        """The last job of each folder, in the order of the first submission of the folders."""
        return {line["folder"]: line for line in self.lines()}

    def relative(self, folder: Path) -> str:
        """The name of a folder in the log: its path below the root, or the absolute path of another one."""
        folder = folder.resolve()
        root = self.root.resolve()
        return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
