"""The memory of a sampler that follows the model: saved and restored with each checkpoint."""

from typing import Any

import lightning.pytorch as L

from ebm_lightning.core import AdaptiveSampler
from ebm_lightning.training.callbacks.rank_state import RankState


class SamplerState(RankState):
    """Keeps what an adaptive sampler remembers: one memory per rank, restored when the run continues.

    Args:
        sampler: the sampler.
    """

    def __init__(self, sampler: AdaptiveSampler) -> None:
        self.sampler = sampler
        self._found: dict[str, Any] | None = None

    def rank_state_dict(self) -> dict[str, Any]:
        return self.sampler.memory()

    def load_rank_state_dict(self, shards: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Ranks that are new take the first rank's memory: all follow the same gradients."""
        self._found = shards[rank] if rank < len(shards) else shards[0]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._found:
            device = trainer.strategy.root_device
            self.sampler.recall({name: value.to(device) for name, value in self._found.items()})
            self._found = None
