"""Loggers of metrics and pictures: to metrics.csv and samples/ of the run folder, and to Weights & Biases."""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from PIL import Image

COLUMNS = ("time", "step", "name", "value")


class RunLogger(Logger):
    """Logger to ``metrics.csv`` of a run folder (time, step, name, value), and of pictures to ``samples/``.

    Rows are only appended: if a run was killed, the steps since its last checkpoint are written twice, and the later
    row counts. ``time`` is in seconds since the epoch.

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
        """Do nothing: the complete configuration is in config.yaml."""

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
        """Save each picture as ``samples/<key>/step=<step>.png``."""
        folder = self.folder / "samples" / key
        folder.mkdir(parents=True, exist_ok=True)
        for image in images:
            image.save(folder / f"step={step or 0:08d}.png")


class RunWandbLogger(WandbLogger):
    """A WandbLogger whose failures do not end the run: all metrics are in ``metrics.csv`` as well.

    A signal to all processes of a job also ends W&B's own process, while the run still has to save. After the first
    failure, which gives a warning, nothing more is sent. Takes the arguments of
    :class:`lightning.pytorch.loggers.WandbLogger`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._has_failed = False

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._send(lambda: super(RunWandbLogger, self).log_metrics(metrics, step))

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self._send(lambda: super(RunWandbLogger, self).log_image(key, images, step, **kwargs))

    def log_checkpoint(self, path: Path) -> None:
        """Upload a checkpoint as an artifact of type "model"."""
        self._send(lambda: self.experiment.log_artifact(str(path), name=f"checkpoint-{self.version}", type="model"))

    def log_preemption(self) -> None:
        """Report that the run is preempted and will continue."""
        self._send(lambda: self.experiment.mark_preempting())

    def _send(self, send: Callable[[], Any]) -> None:
        if self._has_failed:
            return
        import wandb

        try:
            send()
        except (OSError, wandb.Error) as fault:
            self._has_failed = True
            rank_zero_warn(f"W&B is no longer available ({fault}): metrics.csv has all numbers of this run")


def log_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Upload a checkpoint to W&B as an artifact, from rank 0."""
    for logger in _wandb_loggers(trainer):
        logger.log_checkpoint(path)


def log_preemption(trainer: L.Trainer) -> None:
    """Report to W&B, from rank 0, that the run is preempted and will continue."""
    for logger in _wandb_loggers(trainer):
        logger.log_preemption()


def _wandb_loggers(trainer: L.Trainer) -> list[RunWandbLogger]:
    """The loggers to W&B on rank 0; none on other ranks."""
    return [one for one in trainer.loggers if isinstance(one, RunWandbLogger)] if trainer.is_global_zero else []


def log_picture(trainer: L.Trainer, key: str, draw: Callable[[], Image.Image]) -> None:
    """Draw a picture on rank 0 and pass it to each logger of pictures; nothing is drawn if there is none."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, RunLogger | WandbLogger)]
    if loggers and trainer.is_global_zero:
        image = draw()
        for logger in loggers:
            logger.log_image(key, [image], step=trainer.global_step)
