"""A progress bar with a bounded rate of redraws."""

import time

from lightning.pytorch.callbacks import TQDMProgressBar


class TimedProgressBar(TQDMProgressBar):
    """Lightning's bar, redrawn at most every ``seconds``: a redraw takes as long as a step of a Boltzmann machine.

    Args:
        seconds: the least time between two redraws, >= 0.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        super().__init__()
        self.seconds = seconds
        self._drawn = 0.0

    def _should_update(self, current: int, total: int | float) -> bool:
        now = time.monotonic()
        due = self.is_enabled and (now - self._drawn >= self.seconds or current == total)
        if due:
            self._drawn = now
        return due
