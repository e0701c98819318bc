"""The state of a sampler, such as an adaptive one: saved and restored with each checkpoint."""

from typing import Any

import lightning.pytorch as L

from ebm_lightning.core import Sampler
from ebm_lightning.training.callbacks.rank_state import RankState


class SamplerState(RankState):
    """Save and restore the state of a sampler, one per rank.

    Args:
        sampler: the sampler, of any class that defines ``state_dict``.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self._loaded: dict[str, Any] = {}

    def rank_state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_rank_state_dict(self, states: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Restore this rank's state; new ranks get rank 0's, since the gradients of all ranks are the same."""
        self._loaded = states[rank] if rank < len(states) else states[0]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._loaded:
            device = trainer.strategy.root_device
            self.sampler.load_state_dict({name: value.to(device) for name, value in self._loaded.items()})
            self._loaded = {}
