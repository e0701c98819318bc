"""Ranks that share out the optimizer's memory and the gradient, for models whose training state fills a GPU."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from ebm_lightning.core import AdaptiveSampler, DataInitialized
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.distributed import full_tensor, mean_over_ranks


class ShardedStrategy(DDPStrategy):
    """DDP in which a rank keeps its part alone of the gradient and of the optimizer's memory: ``strategy: sharded``.

    torch's ``fully_shard`` (FSDP2) takes a whole training step for one forward pass, since energies are differentiated
    within it and again in its backward pass. So weights are whole on every rank, and a gradient until it is summed.
    Of P parameters with Adam in float32, a rank of N holds 8 P + 16 P / N bytes where one of DDP holds 20 P. Parameters
    without dimensions, such as a learned step size, stay whole. Checkpoints are those of `ddp`: either continues them.

    Raises:
        ValueError: when training begins, where the model is initialized by its data, the sampler follows the weights,
            or these are averaged or have their channels last in memory.
    """

    def setup(self, trainer: Any) -> None:
        super().setup(trainer)
        self._unshard()

    def configure_ddp(self) -> None:
        """Shares the parameters out, in place of DDP's wrapper."""
        module = self.lightning_module
        assert isinstance(module, EBM)
        model, sampler, callbacks = module.model, module.sampler, module.trainer.callbacks  # type: ignore[attr-defined]
        in_order = all(parameter.is_contiguous() for parameter in module.parameters())
        own_start = isinstance(model, DataInitialized)
        refused = {
            f"{type(model).__name__}, which is initialized by its data": own_start,
            f"{type(sampler).__name__}, which follows the weights": isinstance(sampler, AdaptiveSampler),
            "weights that have their channels last (Acceleration(channels_last=False) leaves them)": not in_order,
            "the callback that averages weights": any(isinstance(one, WeightAveraging) for one in callbacks),
        }
        if found := [what for what, is_there in refused.items() if is_there]:
            raise ValueError(f"the strategy sharded cannot train with {found[0]}: use ddp, or do without")
        scalars = {parameter for parameter in module.parameters() if parameter.ndim == 0}
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        self.model = _Step(module)
        fully_shard(self.model, mesh=mesh, reshard_after_forward=False, ignored_params=scalars)
        for parameter in scalars:
            parameter.register_post_accumulate_grad_hook(_average)  # type: ignore[no-untyped-call]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        output = super().optimizer_step(*args, **kwargs)
        self._unshard()
        return output

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Around a batch after which the optimizer does not step: its gradient is added to the part all the same."""
        yield
        self._unshard()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = tree_map_only(DTensor, full_tensor, super().lightning_module_state_dict())
        self._unshard()
        return found

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        found: dict[str, Any] = tree_map_only(DTensor, full_tensor, super().optimizer_state(optimizer))
        return found

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        super().load_optimizer_state_dict(checkpoint)
        for parameter, state in (item for optimizer in self.optimizers for item in optimizer.state.items()):
            if isinstance(parameter, DTensor):
                state.update({name: _part(value, parameter) for name, value in state.items()})

    def _unshard(self) -> None:
        if isinstance(self.model, FSDPModule):
            self.model.unshard()


class _Step(nn.Module):
    """A module's step as a forward pass, which is what Lightning makes of the wrapper of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def _average(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad = mean_over_ranks(parameter.grad)


def _part(value: Any, like: DTensor) -> Any:
    """This rank's part of a tensor that is shared out as a parameter is; anything else as it is."""
    is_shared = isinstance(value, Tensor) and value.shape == like.shape
    return distribute_tensor(value, like.device_mesh, like.placements) if is_shared else value
