"""The cost of a training step, counted on the real model, sampler, objective, optimizer and data."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ebm_lightning.core import State, start_chains
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.protocols.training_cost import work
from ebm_lightning.planning.hardware import Arithmetic
from ebm_lightning.planning.roofline import Step
from ebm_lightning.training.module import EBM

COUNTED_BATCH_SIZES = (2, 4)
"""Sizes of the two batches that are counted instead of a larger one."""


def count(
    module: EBM,
    data: DataModule,
    accumulated: int = 1,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Step:
    """The cost of a training step, extrapolated from batches of :data:`COUNTED_BATCH_SIZES` examples.

    Operations, bytes and saved tensors are affine in the number of examples: a part for each, and a part for the
    weights alone, such as spectral norms. An objective that compares all pairs of examples is underestimated. Chains
    start at their initial distribution, and a schedule of steps counts as at its start.

    Args:
        module: the module to be trained.
        data: of the first training batch.
        accumulated: batches whose gradients are added in a step, at least 1.
        precision: makes the context of a training step in the trainer's precision.

    Raises:
        ValueError: from the data, if they are missing.
    """
    module.train()
    batch = next(iter(data.train_stream(1, device=module.device)))
    examples = len(next(iter(batch.values())))
    sizes = COUNTED_BATCH_SIZES if examples > COUNTED_BATCH_SIZES[-1] else (examples,)
    with precision():
        found = [_counted(module, {name: value[:n] for name, value in batch.items()}) for n in sizes]
    flop, convolved, moved, calls, kept = (_at(examples, sizes, numbers) for numbers in zip(*found, strict=True))
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = [*module.parameters(), *module.buffers()]
    how = f"counted with {' and '.join(map(str, sizes))}" + (", and extrapolated to all" if len(sizes) > 1 else "")
    return Step(
        examples=examples * accumulated,
        flop=flop * accumulated,
        convolved=convolved * accumulated,
        moved=moved * accumulated,
        calls=calls * accumulated,
        parameters=sum(p.numel() for p in trained),
        gradient=_size(trained),
        memory={
            "weights": _size(weights),
            "gradients": _size(trained),
            "optimizer": optimizer_state(module),
            "chains": chains_shard(module, {name: value[: COUNTED_BATCH_SIZES[-1]] for name, value in batch.items()}),
            "saved for the gradient": kept,
        },
        counted=how,
    )


def arithmetic_of(precision: str) -> Arithmetic:
    """The arithmetic of matrix products on a GPU, by the trainer's precision and float32_matmul_precision."""
    if "16" in precision:
        return "bf16"
    return "fp32" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def saved(module: EBM, batch: State) -> int:
    """Peak bytes that autograd keeps for a training step, without the weights."""
    meter = _SavedTensorMeter({p.untyped_storage().data_ptr() for p in module.parameters()})
    with saved_tensors_hooks(meter.pack, _unpack), torch.compiler.set_stance("force_eager"):
        module.gradient(batch)
    return meter.peak


def optimizer_state(module: EBM) -> int:
    """Bytes of the optimizer's state, found by one step with a gradient of zero."""
    optimizer = module.make_optimizer()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad()
    return _size(value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))


def chains_shard(module: EBM, batch: State) -> int:
    """Bytes of the persistent chains of one rank that are on the device of the data; 0 without such chains."""
    chains = module.chains
    if module.sampler is None or not chains.stateful or getattr(chains, "device", None) == torch.device("cpu"):
        return 0
    chains.to(module.device)
    start_chains(chains, module.sampler, module.model.positive_phase(batch))
    return _size(chains.state_dict().values())


class _Handle:
    """A saved tensor, which is released with this object."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _SavedTensorMeter:
    """The bytes of saved tensors, each storage once and without the weights; ``peak`` is their largest sum."""

    def __init__(self, weights: set[int]) -> None:
        self.weights, self.users = weights, Counter[int]()
        self.current = self.peak = 0

    def pack(self, tensor: Tensor) -> _Handle:
        storage, handle = tensor.untyped_storage(), _Handle(tensor)
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self.weights:
            self.current += 0 if self.users[place] else size
            self.users[place] += 1
            self.peak = max(self.peak, self.current)
            weakref.finalize(handle, self._drop, place, size)
        return handle

    def _drop(self, place: int, size: int) -> None:
        self.users[place] -= 1
        self.current -= 0 if self.users[place] else size


def _unpack(handle: _Handle) -> Tensor:
    return handle.tensor


def _counted(module: EBM, batch: State) -> tuple[int, ...]:
    cost = work(module, batch)
    return cost.flop, cost.convolved, cost.moved, cost.calls, saved(module, batch)


def _at(examples: int, sizes: tuple[int, ...], numbers: tuple[int, ...]) -> float:
    """The value at ``examples`` of a function that is affine in the examples, from its values at some sizes."""
    slope = (numbers[-1] - numbers[0]) / (sizes[-1] - sizes[0]) if len(sizes) > 1 else 0.0
    return numbers[-1] + slope * (examples - sizes[-1])


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
