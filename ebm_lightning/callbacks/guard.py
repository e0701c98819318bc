"""Stops a run that diverges, in words, before its fault reaches a checkpoint."""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor


class Diverged(RuntimeError):
    """A run whose loss is not finite or whose energy gap runs away."""


class DivergenceGuard(L.Callback):
    """Stops on a loss or a weight that is not finite, or on an energy gap beyond ``max_gap``.

    Loss and gap are kept on the device at every step, and read every ``check_every`` steps and before every
    checkpoint, so that a checkpoint never holds a diverged model. With ``rollbacks`` > 0 the run goes back to its
    last good checkpoint with a new random stream instead of stopping, at most so often; what JEM's authors did by
    hand (Grathwohl et al. 2020, appendix). Each further rollback goes one checkpoint further back.

    Args:
        max_gap: largest allowed |mean E(data) - mean E(chains)|, in nats, at any step; None allows any finite gap.
        check_every: training steps between looks.
        rollbacks: how many times a run may go back; 0 stops at the first fault.
    """

    def __init__(self, max_gap: float | None = 1e4, check_every: int = 10, rollbacks: int = 0) -> None:
        if check_every < 1 or rollbacks < 0 or (max_gap is not None and max_gap <= 0):
            raise ValueError(
                f"DivergenceGuard(max_gap={max_gap}, check_every={check_every}, rollbacks={rollbacks}): expected "
                "max_gap > 0 or null, check_every >= 1 and rollbacks >= 0"
            )
        self.max_gap, self.check_every, self.rollbacks = max_gap, check_every, rollbacks
        self.rolled_back = 0
        self._seen: dict[str, list[Tensor]] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name in [name for name in outputs if name.split("/")[-1] in ("loss", "gap")]:
            self._seen.setdefault(name, []).append(outputs[name].detach())
        if trainer.global_step % self.check_every == 0:
            self.check(trainer)
            if self.rolled_back and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                pl_module.log("guard/rollbacks", float(self.rolled_back))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # A gradient that is not finite spoils the weights after the terms were seen.
        spoiled = [name for name, weight in pl_module.named_parameters() if not weight.isfinite().all()]
        self._seen |= {f"the weight {name}": [torch.tensor(torch.inf)] for name in spoiled}
        self.check(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"rolled_back": self.rolled_back}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rolled_back = max(self.rolled_back, state_dict["rolled_back"])

    def check(self, trainer: L.Trainer) -> None:
        """Raises Diverged, on all ranks together, where any rank saw a fault since the last look."""
        sizes = {name: torch.stack(values).float().abs() for name, values in self._seen.items()}
        worst = {name: float(torch.where(size.isnan(), torch.inf, size).max()) for name, size in sizes.items()}
        self._seen = {}
        faults = [f"{name} is not finite" for name, size in worst.items() if size == float("inf")]
        if self.max_gap is not None:
            faults += [
                f"|{name}| reached {size:.3g}, more than guard.max_gap={self.max_gap:g}"
                for name, size in worst.items()
                if name.split("/")[-1] == "gap" and self.max_gap < size < float("inf")
            ]
        if trainer.strategy.reduce_boolean_decision(bool(faults), all=False):
            seen = "; ".join(faults) or "a fault on another rank"
            raise Diverged(
                f"training diverged by step {trainer.global_step}: {seen}; lower the learning rate, take more sampler "
                "steps or add energy l2, or let the run go back by itself with --guard.rollbacks 3"
            )
