"""A progress bar that is redrawn a few times a second, however short the steps are."""

import time

from lightning.pytorch.callbacks import TQDMProgressBar


class TimedProgressBar(TQDMProgressBar):
    """Lightning's bar, redrawn at most every ``seconds``: a redraw costs as much as a Boltzmann machine's whole step.

    Args:
        seconds: between two redraws, >= 0.
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
