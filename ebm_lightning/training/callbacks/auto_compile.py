"""Compiling the negative phase where that pays: measured once, when a run begins, and remembered with it."""

import time
from typing import Any, Protocol, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ebm_lightning.core import State, buffers_kept
from ebm_lightning.data.base import DataModule
from ebm_lightning.utils import fused_ops
from ebm_lightning.utils.random import isolated

WARM_UP_STEPS, TIMED_STEPS = 2, 3
"""Training steps that are taken first, which compiles them, and those of which the fastest counts."""

MIN_SPEEDUP = 1.05
"""How many times as fast a compiled step must be to be kept."""


class Compilable(Protocol):
    """What is compiled or not: an :class:`~ebm_lightning.EBM`."""

    device: torch.device

    def compile_phase(self, compiled: bool) -> None: ...

    def gradient(self, batch: State) -> list[Tensor | None]: ...

    def wait(self) -> None: ...


class AutoCompile(L.Callback):
    """Compiles the negative phase if a training step, without its optimizer, is then :data:`MIN_SPEEDUP` times as fast.

    It is measured before the first step on one batch, with random numbers of its own, from chains that are born for it;
    all ranks do what the first one has found. The choice is in the checkpoint, so that a run that continues computes
    what it has computed. Where nothing can compile, nothing is.
    """

    def __init__(self) -> None:
        self.compiled: bool | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"compiled": self.compiled}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.compiled = state_dict["compiled"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module, data = cast(Compilable, pl_module), trainer.datamodule  # type: ignore[attr-defined]
        if self.compiled is None:
            able = module.device.type != "cpu" or fused_ops.has_compiler()
            chosen = able and isinstance(data, DataModule) and _pays(trainer, module, data)
            self.compiled = bool(trainer.strategy.broadcast(chosen))
        module.compile_phase(self.compiled)


def _pays(trainer: L.Trainer, module: Compilable, data: DataModule) -> bool:
    seconds = {}
    with isolated(0), buffers_kept(cast(nn.Module, module)):
        batch = next(iter(data.train_stream(1, device=module.device)))
        for compiled in (False, True):
            module.compile_phase(compiled)
            taken = [_timed(trainer, module, batch) for _ in range(WARM_UP_STEPS + TIMED_STEPS)]
            seconds[compiled] = min(taken[WARM_UP_STEPS:])
    gain = seconds[False] / seconds[True]
    rank_zero_info(
        f"compiled: auto. A step takes {1e3 * seconds[False]:.3g} ms as it is and {1e3 * seconds[True]:.3g} ms "
        f"compiled: it is {'compiled' if gain >= MIN_SPEEDUP else 'left as it is'}"
    )
    return gain >= MIN_SPEEDUP


def _timed(trainer: L.Trainer, module: Compilable, batch: State) -> float:
    module.wait()
    begun = time.perf_counter()
    with trainer.precision_plugin.train_step_context():
        module.gradient(batch)
    module.wait()
    return time.perf_counter() - begun
