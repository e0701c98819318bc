"""Where numbers and pictures of a run go: metrics.csv and samples/ of the run folder, and Weights & Biases."""

import csv
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

COLUMNS = ("time", "step", "name", "value")


class RunLogger(Logger):
    """Appends to ``metrics.csv`` of a run folder (time, step, name, value) and puts pictures into ``samples/``.

    The file is only ever appended to: where a run was killed after its last checkpoint the steps since then are
    written twice, and the later row counts. ``time`` is in seconds since the epoch.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    @property
    def name(self) -> str:
        return self.folder.parent.name

    @property
    def version(self) -> str:
        return self.folder.name

    @property
    def root_dir(self) -> str:
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the whole configuration lies in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        path = self.folder / "metrics.csv"
        new = not path.exists()
        now = f"{time.time():.2f}"
        with path.open("a", newline="") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(COLUMNS)
            rows.writerows((now, step, name, value) for name, value in metrics.items() if name != "epoch")

    @rank_zero_only
    def log_image(self, key: str, images: list[Image.Image], step: int | None = None) -> None:
        """Saves each picture as ``samples/<key>/step=<step>.png``."""
        folder = self.folder / "samples" / key
        folder.mkdir(parents=True, exist_ok=True)
        for image in images:
            image.save(folder / f"step={step or 0:08d}.png")


def log_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Hands a checkpoint to W&B as an artifact of type "model", from rank 0."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.log_artifact(str(path), name=f"checkpoint-{logger.version}", type="model")


def log_preemption(trainer: L.Trainer) -> None:
    """Tells W&B, from rank 0, that the run makes room and will go on; the signal may have ended W&B's own process."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            with suppress(OSError):
                logger.experiment.mark_preempting()


def log_picture(trainer: L.Trainer, key: str, draw: Callable[[], Image.Image]) -> None:
    """Draws a picture on rank 0, where a logger takes pictures, and hands it to each of them."""
    takers = [logger for logger in trainer.loggers if isinstance(logger, RunLogger | WandbLogger)]
    if takers and trainer.is_global_zero:
        image = draw()
        for logger in takers:
            logger.log_image(key, [image], step=trainer.global_step)
