"""Where numbers and pictures of a run go: metrics.csv and samples/ of the run folder, and Weights & Biases."""

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


class RunWandbLogger(WandbLogger):
    """A WandbLogger that ends no run: what W&B is not there to be told is in ``metrics.csv`` all the same.

    A signal to a whole job also ends W&B's own process, while the run still has to save. After the first failure, which
    is warned of, nothing more is sent. Takes the arguments of :class:`lightning.pytorch.loggers.WandbLogger`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_lost = False

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._tell(lambda: super(RunWandbLogger, self).log_metrics(metrics, step))

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self._tell(lambda: super(RunWandbLogger, self).log_image(key, images, step, **kwargs))

    def log_checkpoint(self, path: Path) -> None:
        """Sends a checkpoint as an artifact of type "model"."""
        self._tell(lambda: self.experiment.log_artifact(str(path), name=f"checkpoint-{self.version}", type="model"))

    def log_preemption(self) -> None:
        """Report that the run is preempted and will continue."""
        self._tell(lambda: self.experiment.mark_preempting())

    def _tell(self, send: Callable[[], Any]) -> None:
        if self._is_lost:
            return
        import wandb

        try:
            send()
        except (OSError, wandb.Error) as fault:
            self._is_lost = True
            rank_zero_warn(f"W&B is no longer available ({fault}): metrics.csv has all numbers of this run")


def log_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Hands a checkpoint to W&B as an artifact, from rank 0."""
    for logger in _told(trainer):
        logger.log_checkpoint(path)


def log_preemption(trainer: L.Trainer) -> None:
    """Report to W&B, from rank 0, that the run is preempted and will continue."""
    for logger in _told(trainer):
        logger.log_preemption()


def _told(trainer: L.Trainer) -> list[RunWandbLogger]:
    """The loggers that tell W&B: those of rank 0."""
    return [one for one in trainer.loggers if isinstance(one, RunWandbLogger)] if trainer.is_global_zero else []


def log_picture(trainer: L.Trainer, key: str, draw: Callable[[], Image.Image]) -> None:
    """Draws a picture on rank 0, where a logger takes pictures, and hands it to each of them."""
    takers = [logger for logger in trainer.loggers if isinstance(logger, RunLogger | WandbLogger)]
    if takers and trainer.is_global_zero:
        image = draw()
        for logger in takers:
            logger.log_image(key, [image], step=trainer.global_step)
