"""The random stream of training: separate on every rank and from other draws, and part of the checkpoint."""

import os
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.utilities import rank_zero_warn

from ebm_lightning.training.callbacks.rank_state import RankState
from ebm_lightning.utils.random import capture, mix, restore, seed_all


class TrainingRandomState(RankState):
    """Separate the random stream of the training steps from all other draws.

    The stream is captured at the end of each training step and restored at the start of the next, so that validation,
    pictures and callbacks may draw between steps without an effect on training; a callback that draws within a step
    must do so inside :func:`ebm_lightning.utils.random.isolated`. It is seeded by (seed, rank): after
    ``seed_everything`` alone all ranks would draw the same noise.
    """

    def __init__(self) -> None:
        self._stream: dict[str, Any] | None = None
        self._salt = 0

    def reseed(self, salt: int) -> None:
        """Start a new stream, as after a rollback; ``salt`` distinguishes it from earlier streams."""
        self._salt = salt
        self._stream = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._stream is None:
            seed_all(mix(int(os.environ.get("PL_GLOBAL_SEED", "0")), trainer.global_rank, self._salt))
            self._stream = capture()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self._stream is not None
        restore(self._stream)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stream = capture()

    def rank_state_dict(self) -> dict[str, Any]:
        return self._stream or {}

    def load_rank_state_dict(self, states: list[dict[str, Any]], rank: int, world_size: int) -> None:
        if len(states) != world_size:
            rank_zero_warn(
                f"the checkpoint was written by {len(states)} ranks and is continued by {world_size}: the random "
                "streams start anew, so this run will differ from an uninterrupted one"
            )
            self._salt = self._salt or len(states)
        elif self._salt == 0:
            self._stream = states[rank]
