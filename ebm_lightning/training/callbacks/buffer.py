"""The life of a sample buffer: its device, its checkpoint, its pictures and its age."""

from functools import partial
from typing import Any

import lightning.pytorch as L
import torch

from ebm_lightning.chains.persistent import SampleBuffer
from ebm_lightning.runs.loggers import log_picture
from ebm_lightning.training.callbacks.rank_state import RankState
from ebm_lightning.utils import plots


class BufferCallback(RankState):
    """Manages persistent chains: one shard per rank, saved and restored with each checkpoint, and looked at.

    Logs ``buffer/age`` (phases a chain has lived, mean) and ``buffer/fill`` (share of slots in use). When pictures
    are made is one setting for all of them: :class:`~ebm_lightning.evaluation.monitors.samples.SamplePictures` calls
    ``draw``.

    Args:
        buffer: the chains.
    """

    def __init__(self, buffer: SampleBuffer) -> None:
        self.buffer = buffer

    def rank_state_dict(self) -> dict[str, Any]:
        return self.buffer.state_dict()

    def load_rank_state_dict(self, shards: list[dict[str, Any]], rank: int, world_size: int) -> None:
        self.buffer.load_state_dict(shards, rank, world_size)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.buffer.to(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        age, alive = self.buffer.age, self.buffer.alive
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.log("buffer/age", age.sum() / alive.sum())
            pl_module.log("buffer/fill", alive.float().mean())

    def draw(self, trainer: L.Trainer, variables: tuple[str, ...], number: int) -> None:
        """Sends pictures of the ``variables`` of up to ``number`` chains and a histogram of all ages to the loggers."""
        ages = {"chains": self.buffer.age[self.buffer.alive]}
        log_picture(trainer, "chains/age", lambda: plots.plot_histogram(ages, "age in negative phases"))
        for name, x in self.buffer.examples(number).items():
            if name in variables and plots.can_plot(x) and torch.isfinite(x).all():
                log_picture(trainer, f"chains/{name}", partial(plots.plot_samples, x))
