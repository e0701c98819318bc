"""Making room before there is anything to save: while a process imports torch, or draws its last samples."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import NoReturn

from ebm_lightning.runs.folder import RunFolder

MAKE_ROOM = (signal.SIGUSR1, signal.SIGTERM)
"""What SLURM sends before a time limit (as `--signal` asks) and at a preemption."""


@contextmanager
def makes_room(arguments: Sequence[str]) -> Iterator[None]:
    """Ends this process with status 75 on SIGUSR1 or SIGTERM, as long as nothing better handles them.

    In the folder that ``--run`` among the arguments names, ``.requeue`` then asks the job's script to start it again.
    """
    folders = [RunFolder(value) for option, value in pairwise(arguments) if option == "--run"]

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        for folder in folders:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.requeue_file.touch()
        os.write(2, f"stopped by {signal.Signals(number).name}: the same command goes on\n".encode())
        os._exit(os.EX_TEMPFAIL)

    before = {number: signal.signal(number, leave) for number in MAKE_ROOM}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
