"""Persistent chains that change ranks, so that what one rank's chains have found reaches the others."""

import lightning.pytorch as L
import torch
from torch import Tensor, distributed

from ebm_lightning.core import ExchangeableChains
from ebm_lightning.utils.random import mix


class ChainExchange(L.Callback):
    """Distribute the chains of a SampleBuffer among the ranks anew every n steps.

    Of each rank as many chains stay as go to each of the others, which are drawn anew each time, by the number of the
    step: an exchange draws nothing from the stream of training, and a run that continues makes the same ones. Where
    chains of a rank keep to the modes that this rank found first, which the mean gradient hides, the others are
    visited so. With one rank nothing happens. The buffer's size need not be a multiple of the number of ranks: what
    is left over stays.

    Args:
        every_n_steps: training steps between exchanges, at least 1.

    Raises:
        ValueError: where ``every_n_steps`` < 1; at the start of training where chains are not kept in a SampleBuffer.
    """

    def __init__(self, every_n_steps: int = 1000) -> None:
        if every_n_steps < 1:
            raise ValueError(f"ChainExchange(every_n_steps={every_n_steps}): expected at least 1")
        self.every_n_steps = every_n_steps
        self._group: distributed.ProcessGroup | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        buffer = _buffer(pl_module)
        if trainer.world_size > 1 and buffer.device is not None and buffer.device.type == "cpu":
            self._group = distributed.new_group(backend="gloo")  # the ranks' own may know the memory of GPUs alone

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.world_size > 1 and trainer.global_step % self.every_n_steps == 0:
            exchange(_buffer(pl_module), trainer.global_step, self._group)


def exchange(buffer: ExchangeableChains, salt: int, group: distributed.ProcessGroup | None = None) -> None:
    """Distribute the chains of all ranks of a group anew; all of them must call it with the same ``salt``."""
    ranks = distributed.get_world_size(group)
    drawn = torch.randperm(buffer.size, generator=torch.Generator().manual_seed(mix(salt)))

    def swap(kept: Tensor) -> Tensor:
        received = torch.empty_like(kept)
        distributed.all_to_all_single(received, kept.contiguous(), group=group)
        return received

    buffer.exchange(drawn[: buffer.size // ranks * ranks], swap)


def _buffer(module: L.LightningModule) -> ExchangeableChains:
    chains = getattr(module, "chains", None)
    if not isinstance(chains, ExchangeableChains):
        raise ValueError(
            f"ChainExchange: the chains of this run are {type(chains).__name__}, which is not "
            f"ExchangeableChains: use SampleBuffer, "
            "or leave the callback out"
        )
    return chains
