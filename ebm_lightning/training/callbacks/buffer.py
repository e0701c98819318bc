"""Persistent chains in a run: their device, their checkpoint and their diagnostics."""

from typing import Any

import lightning.pytorch as L

from ebm_lightning.core import Chains
from ebm_lightning.training.callbacks.rank_state import RankState


class BufferCallback(RankState):
    """Manage persistent chains, such as a sample buffer: one state per rank, saved with each checkpoint.

    It logs the ``info`` of the chains under ``chains/``; for a sample buffer ``chains/age`` and ``chains/fill``.

    Args:
        chains: the chains, of any class that defines ``state_dict``.
    """

    def __init__(self, chains: Chains) -> None:
        self.chains = chains

    def rank_state_dict(self) -> dict[str, Any]:
        return self.chains.state_dict()

    def load_rank_state_dict(self, states: list[dict[str, Any]], rank: int, world_size: int) -> None:
        if state := self.chains.merge_state_dicts(states, rank, world_size):
            self.chains.load_state_dict(state)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.chains.to(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for name, value in self.chains.info().items():
                pl_module.log(f"chains/{name}", value)
