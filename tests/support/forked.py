"""`ebm` in processes of its own, forked from this one: they need not import torch again, which takes them longest."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from ebm_lightning.cli.main import main

LIMIT_S = 120
"""A run takes some seconds; one that hangs is ended after this time."""


class Forked:
    """A process that runs `ebm`, and what it says.

    Args:
        arguments: of `ebm`.
        log: the file of its standard output and error.
        environment: variables that it has beside those of this process.
        first: called before anything else.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        log: Path,
        environment: Mapping[str, str] | None = None,
        first: Callable[[], object] = lambda: None,
    ) -> None:
        self.log = log
        own = environment or {}
        self._process = multiprocessing.get_context("fork").Process(
            target=_run, args=([str(argument) for argument in arguments], log, own, first)
        )
        self._process.start()

    def kill(self) -> None:
        """Ends it as nothing can handle."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)

    def end(self) -> tuple[int, str]:
        """Waits for it: (exit status, what it said). The test fails where it hangs."""
        self._process.join(LIMIT_S)
        hung = self._process.is_alive()
        if hung:
            self.kill()
            self._process.join()
        said = self.log.read_text()
        if hung:
            pytest.fail(f"a process hung for {LIMIT_S} s:\n{said}")
        assert self._process.exitcode is not None
        return self._process.exitcode, said


def ranks(arguments: Sequence[object], place: Path, number: int = 2, strategy: str = "ddp") -> list[tuple[int, str]]:
    """`ebm` as so many ranks of one run, as a cluster starts them: the exit status of each, and what it said."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    place.mkdir(parents=True, exist_ok=True)
    words = [*arguments, "--trainer.devices", number, "--trainer.strategy", strategy]
    started = [Forked(words, place / f"rank-{rank}.log", meeting | {"LOCAL_RANK": str(rank)}) for rank in range(number)]
    return [one.end() for one in started]


def _run(arguments: list[str], log: Path, environment: Mapping[str, str], first: Callable[[], object]) -> None:
    with log.open("w", buffering=1) as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        sys.stdout = sys.stderr = said
        os.environ.update(environment)
        rank_zero_only.rank = int(environment.get("LOCAL_RANK", 0))
        sys.argv = ["ebm"]
        first()
        main(arguments)
