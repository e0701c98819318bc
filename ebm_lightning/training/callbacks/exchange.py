"""Exchange of persistent chains between ranks."""

import lightning.pytorch as L
import torch
from torch import Tensor, distributed

from ebm_lightning.core import ExchangeableChains
from ebm_lightning.utils.random import mix


class ChainExchange(L.Callback):
    """Distribute the chains of a SampleBuffer among the ranks anew every n steps.

    Each rank keeps as many of its chains as it sends to each other rank. The choice is random, with the step as the
    seed: an exchange draws no number from the random stream of training, and a continued run makes the same choices.
    Without exchanges the chains of a rank may stay in the modes that they reached first, which the gradient, a mean
    over ranks, does not reveal. With one rank nothing happens. If the size of the buffer is not a multiple of the
    number of ranks, the remaining chains stay.

    Args:
        every_n_steps: training steps between exchanges, at least 1.

    Raises:
        ValueError: if ``every_n_steps`` < 1; at the start of training, if the chains are not
            :class:`~ebm_lightning.core.ExchangeableChains`.
    """

    def __init__(self, every_n_steps: int = 1000) -> None:
        if every_n_steps < 1:
            raise ValueError(f"ChainExchange(every_n_steps={every_n_steps}): expected at least 1")
        self.every_n_steps = every_n_steps
        self._group: distributed.ProcessGroup | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        buffer = _buffer(pl_module)
        if trainer.world_size > 1 and buffer.device is not None and buffer.device.type == "cpu":
            self._group = distributed.new_group(backend="gloo")  # the default group may support GPU tensors only

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.world_size > 1 and trainer.global_step % self.every_n_steps == 0:
            exchange(_buffer(pl_module), trainer.global_step, self._group)


def exchange(buffer: ExchangeableChains, salt: int, group: distributed.ProcessGroup | None = None) -> None:
    """Distribute the chains of all ranks of a group anew; all of them must call it with the same ``salt``."""
    ranks = distributed.get_world_size(group)
    slots = torch.randperm(buffer.size, generator=torch.Generator().manual_seed(mix(salt)))

    def swap(sent: Tensor) -> Tensor:
        received = torch.empty_like(sent)
        distributed.all_to_all_single(received, sent.contiguous(), group=group)
        return received

    buffer.exchange(slots[: buffer.size // ranks * ranks], swap)


def _buffer(module: L.LightningModule) -> ExchangeableChains:
    chains = getattr(module, "chains", None)
    if not isinstance(chains, ExchangeableChains):
        raise ValueError(
            f"ChainExchange: the chains of this run are {type(chains).__name__}, which is not "
            f"ExchangeableChains: use SampleBuffer, "
            "or leave the callback out"
        )
    return chains
