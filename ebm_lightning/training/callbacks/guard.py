"""The divergence guard: it stops a run that diverges before a checkpoint of it is written."""

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ebm_lightning.runs.errors import UserError

GAPS = ("gap", "energy_gap")
"""The terms of objectives that are differences of energies."""

MIN_DRIFT, FLAT_AFTER = 1e-6, 10
"""The largest drift of chains that count as not moving, and the number of such logged steps before a warning."""


class DivergenceError(UserError, RuntimeError):
    """The error of a run whose loss is not finite or whose energy gap exceeds its bound."""


class DivergenceGuard(L.Callback):
    """Stop at a loss or weight that is not finite, or an energy gap beyond ``max_gap``; warn of a flat energy.

    Loss and gap are recorded on the device at every step, and checked every ``check_every`` steps and before every
    checkpoint, so that a checkpoint never holds a diverged model. With ``rollbacks`` > 0 the run returns to its last
    valid checkpoint with a new random stream instead of stopping, at most ``rollbacks`` times, as JEM's authors did
    manually (Grathwohl et al. 2020, appendix). Each further rollback returns to one checkpoint earlier.

    The gap of a contrast is that between its two phases, the ``energy_gap`` of a prediction the decrease of the energy
    in its descent. If the chains do not move in ten successive logged steps, one warning names the usual remedy.

    Args:
        max_gap: largest allowed |mean E(data) - mean E(chains)|, or energy decrease in a descent, in nats, at any step;
            None allows any finite gap.
        check_every: training steps between checks, at least 1.
        rollbacks: the largest number of rollbacks; 0 stops at the first fault.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, max_gap: float | None = 1e4, check_every: int = 10, rollbacks: int = 0) -> None:
        if check_every < 1 or rollbacks < 0 or (max_gap is not None and max_gap <= 0):
            raise ValueError(
                f"DivergenceGuard(max_gap={max_gap}, check_every={check_every}, rollbacks={rollbacks}): expected "
                "max_gap > 0 or null, check_every >= 1 and rollbacks >= 0"
            )
        self.max_gap, self.check_every, self.rollbacks = max_gap, check_every, rollbacks
        self.rolled_back = self._flat = 0
        self._recorded: dict[str, list[Tensor]] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name in [name for name in outputs if name.split("/")[-1] in ("loss", *GAPS)]:
            self._recorded.setdefault(name, []).append(outputs[name].detach())
        if trainer.global_step % self.check_every == 0:
            self.check(trainer)
            if self.rolled_back and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                pl_module.log("guard/rollbacks", float(self.rolled_back))
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check_drift(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # A gradient that is not finite makes the weights so after the terms were recorded.
        faulty = [name for name, weight in pl_module.named_parameters() if not weight.isfinite().all()]
        self._recorded |= {f"the weight {name}": [torch.tensor(torch.inf)] for name in faulty}
        self.check(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"rolled_back": self.rolled_back}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rolled_back = max(self.rolled_back, state_dict["rolled_back"])

    def check(self, trainer: L.Trainer) -> None:
        """Raise DivergenceError, on all ranks together, if any rank recorded a fault since the last check."""
        sizes = {name: torch.stack(values).float().abs() for name, values in self._recorded.items()}
        worst = {name: float(torch.where(size.isnan(), torch.inf, size).max()) for name, size in sizes.items()}
        self._recorded = {}
        faults = [f"{name} is not finite" for name, size in worst.items() if size == float("inf")]
        if self.max_gap is not None:
            faults += [
                f"|{name}| reached {size:.3g}, more than guard.max_gap={self.max_gap:g}"
                for name, size in worst.items()
                if name.split("/")[-1] in GAPS and self.max_gap < size < float("inf")
            ]
        if trainer.strategy.reduce_boolean_decision(bool(faults), all=False):
            reasons = "; ".join(faults) or "a fault on another rank"
            raise DivergenceError(
                f"training diverged by step {trainer.global_step}: {reasons}; {_remedy(reasons)}, or let the run "
                "go back by itself with --guard.rollbacks 3"
            )

    def _check_drift(self, trainer: L.Trainer) -> None:
        """Count the successive logged steps in which no chain moved, and warn at the limit."""
        metrics = trainer.callback_metrics
        drift = {name: float(value) for name, value in metrics.items() if name.startswith("sampler/drift_")}
        self._flat = self._flat + 1 if drift and max(drift.values()) <= MIN_DRIFT else 0
        if self._flat == FLAT_AFTER:
            moved = ", ".join(f"{name.removeprefix('sampler/drift_')} by {value:.2g}" for name, value in drift.items())
            rank_zero_warn(
                f"the energy is flat for its sampler: {moved} in each of the last {FLAT_AFTER} logged steps; "
                "raise the sampler's step_size first (and its lr_multiplier, if it is learned), then the "
                "learning rate"
            )


def _remedy(reasons: str) -> str:
    """The usual remedy: a descent that diverges has too large a step size."""
    if "energy_gap" in reasons:
        return "its descent explodes: lower the sampler's step_size (and lr_multiplier) first, then the learning rate"
    return "lower the learning rate, take more sampler steps or add energy l2"
