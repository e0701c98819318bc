"""Preemption of a process that has nothing to save: while it imports torch, or draws its last samples."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ebm_lightning.runs.folder import RunFolder

PREEMPTION_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
"""The signals that SLURM sends before a time limit (by `--signal`) and at a preemption."""


@contextmanager
def exit_on_preemption(folder: RunFolder | None = None) -> Iterator[None]:
    """End this process with status 75 on SIGUSR1 or SIGTERM, unless another handler has replaced this one.

    Args:
        folder: the run folder, if it is known: its ``.requeue`` then makes the job's script start the process again.
    """

    def _on_signal(number: int, frame: FrameType | None) -> NoReturn:
        if folder is not None:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.requeue_file.touch()
        os.write(2, f"stopped by {signal.Signals(number).name}: the same command continues\n".encode())
        os._exit(os.EX_TEMPFAIL)

    before = {number: signal.signal(number, _on_signal) for number in PREEMPTION_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
