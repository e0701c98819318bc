"""Stops a run that diverges, in words, before its fault reaches a checkpoint."""

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ebm_lightning.runs.errors import UserError

GAPS = ("gap", "energy_gap")
"""The terms of objectives that are differences of energies."""

MIN_DRIFT, FLAT_AFTER = 1e-6, 10
"""A chain whose end is no further than this from its start has not moved; after so many logged steps this is said."""


class DivergenceError(UserError, RuntimeError):
    """A run whose loss is not finite or whose energy gap runs away."""


class DivergenceGuard(L.Callback):
    """Stops on a loss or a weight that is not finite, or on an energy gap beyond ``max_gap``; warns of a flat energy.

    Loss and gap are kept on the device at every step, and read every ``check_every`` steps and before every
    checkpoint, so that a checkpoint never holds a diverged model. With ``rollbacks`` > 0 the run goes back to its
    last good checkpoint with a new random stream instead of stopping, at most so often; what JEM's authors did by
    hand (Grathwohl et al. 2020, appendix). Each further rollback goes one checkpoint further back.

    The gap of a contrast is that of its two phases, the ``energy_gap`` of a prediction what its descent gained. A
    sampler that has not moved in ten logged steps in a row is named once, in a warning, with the usual remedy.

    Args:
        max_gap: largest allowed |mean E(data) - mean E(chains)|, or energy lost in a descent, in nats, at any step;
            None allows any finite gap.
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
        self.rolled_back = self._flat = 0
        self._seen: dict[str, list[Tensor]] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name in [name for name in outputs if name.split("/")[-1] in ("loss", *GAPS)]:
            self._seen.setdefault(name, []).append(outputs[name].detach())
        if trainer.global_step % self.check_every == 0:
            self.check(trainer)
            if self.rolled_back and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                pl_module.log("guard/rollbacks", float(self.rolled_back))
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._look_at_drift(trainer)

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
        """Raise DivergenceError, on all ranks together, if any rank saw a fault since the last check."""
        sizes = {name: torch.stack(values).float().abs() for name, values in self._seen.items()}
        worst = {name: float(torch.where(size.isnan(), torch.inf, size).max()) for name, size in sizes.items()}
        self._seen = {}
        faults = [f"{name} is not finite" for name, size in worst.items() if size == float("inf")]
        if self.max_gap is not None:
            faults += [
                f"|{name}| reached {size:.3g}, more than guard.max_gap={self.max_gap:g}"
                for name, size in worst.items()
                if name.split("/")[-1] in GAPS and self.max_gap < size < float("inf")
            ]
        if trainer.strategy.reduce_boolean_decision(bool(faults), all=False):
            seen = "; ".join(faults) or "a fault on another rank"
            raise DivergenceError(
                f"training diverged by step {trainer.global_step}: {seen}; {_remedy(seen)}, or let the run go back by "
                "itself with --guard.rollbacks 3"
            )

    def _look_at_drift(self, trainer: L.Trainer) -> None:
        """Counts the logged steps in a row in which no chain moved, and warns when they are enough."""
        metrics = trainer.callback_metrics
        drift = {name: float(value) for name, value in metrics.items() if name.startswith("sampler/drift_")}
        self._flat = self._flat + 1 if drift and max(drift.values()) <= MIN_DRIFT else 0
        if self._flat == FLAT_AFTER:
            moved = ", ".join(f"{name.removeprefix('sampler/drift_')} by {value:.2g}" for name, value in drift.items())
            rank_zero_warn(
                f"the energy is flat for its sampler: {moved} in each of the last {FLAT_AFTER} logged steps; "
                "raise the sampler's step_size first (and its lr_multiplier, where it is learned), then the "
                "learning rate"
            )


def _remedy(seen: str) -> str:
    """What usually helps: a descent that explodes has too large a step size."""
    if "energy_gap" in seen:
        return "its descent explodes: lower the sampler's step_size (and lr_multiplier) first, then the learning rate"
    return "lower the learning rate, take more sampler steps or add energy l2"
