"""Callbacks with a separate state on every rank, saved with each checkpoint in a file per rank."""

import abc
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.utilities import rank_zero_warn

from ebm_lightning.runs.checkpoints import RankCheckpointIO


class RankState(L.Callback):
    """A callback with a separate state on every rank.

    Lightning saves the state of rank 0 only. :class:`ebm_lightning.Trainer` saves that of every rank to
    ``<checkpoint>.ranks/`` and passes all of them to the callback when a run continues.
    """

    @abc.abstractmethod
    def rank_state_dict(self) -> dict[str, Any]:
        """This rank's state: tensors and plain Python values."""

    @abc.abstractmethod
    def load_rank_state_dict(self, states: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Restore this rank from the states of all ranks of the checkpoint, in order of rank.

        The number of states differs from that of ranks if the world size has changed; continuation is exact only for
        an equal world size.
        """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and not isinstance(trainer.strategy.checkpoint_io, RankCheckpointIO):
            rank_zero_warn(
                f"the checkpoints of this Trainer leave out the state of {type(self).__name__}: use "
                "ebm_lightning.Trainer for runs that are to be continued"
            )

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        states = [state[self.state_key] for state in checkpoint.get("rank_states", []) if self.state_key in state]
        if states:
            self.load_rank_state_dict(states, trainer.global_rank, trainer.world_size)
