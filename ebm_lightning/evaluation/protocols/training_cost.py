"""Cost of a training step: its operations, counted, and its time, measured."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult
from ebm_lightning.training.module import EBM


@dataclass(eq=False)
class TrainingCost(Protocol):
    """Operations and time of one training batch: both phases, the objective and its gradient.

    Operations are those of matrix products, convolutions and attention as in torch's flop_registry, two for a
    multiplication with an addition, with derivatives of any order; fused attention is counted as its matrix products.
    The time is the median of ``repeats`` steps, without data loading, optimizer and logging; it depends on the machine
    and its load. Chains start as in training.

    Args:
        repeats: timed steps, at least 1.

    Raises:
        ValueError: if ``repeats`` < 1.
    """

    repeats: int = 5

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"TrainingCost(repeats={self.repeats}): expected at least 1")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        batch = next(iter(data.eval_loader("train", device=module.device)))
        was_training = module.training
        module.train()
        flop = work(module, batch).flop
        seconds = [_timed(module, batch) for _ in range(self.repeats)]
        module.train(was_training)
        size = sum(p.numel() for p in module.parameters() if p.requires_grad)
        return ProtocolResult(
            {
                "parameters": Measurement(float(size)),
                "examples_per_step": Measurement(float(len(next(iter(batch.values())))), label="examples a step"),
                "gflop_per_step": Measurement(flop / 1e9, label="GFLOP a step"),
                "ms_per_step": Measurement(1e3 * statistics.median(seconds), label="ms a step"),
            }
        )


def work(module: EBM, batch: State) -> "Work":
    """The work of a training step, counted without fusion and compilation, which hide it."""
    with Work() as counted, sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        module.gradient(batch)
    return counted


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that run inside its context. (FlopCounterMode refuses a gradient inside of a gradient.)

    ``flop`` are the operations in flop_registry, ``convolved`` those of them in convolutions, ``calls`` the number of
    calls except views, and ``moved`` the bytes of the tensors that these take and return.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop = self.convolved = self.calls = self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operation = func._overloadpacket
        if operation in flop_registry:
            flop = flop_registry[operation](*args, **(kwargs or {}), out_val=out)
            self.flop += flop
            self.convolved += flop if "convolution" in str(operation) else 0
        if not func.is_view:
            self.calls += 1
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def _timed(module: EBM, batch: State) -> float:
    module.wait()
    start = time.perf_counter()
    module.gradient(batch)
    module.wait()
    return time.perf_counter() - start
