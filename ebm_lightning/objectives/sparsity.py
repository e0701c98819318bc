"""A sparsity penalty on the mean activity of hidden units."""

from typing import Any

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, GibbsSampleable, Objective, State, Terms, require
from ebm_lightning.distributions.conditionals import BernoulliConditional
from ebm_lightning.utils.distributed import mean_over_ranks


class Sparsity(Objective, nn.Module):
    """cost sum_j (q_j - target) mean(logit_j): a penalty on the deviation of the mean activity q_j of each hidden unit.

    logit_j is the total input of unit j, so that its bias and its incoming weights are both penalized:
    cost (q_j - target) is the derivative in the total input of the cross-entropy between target and activity. q_j is
    the running mean of p(h_j = 1 | data), q <- damping q + (1 - damping) q_batch, initialized to that of the first
    batch. It is a constant in the gradient, the mean over all ranks, part of the checkpoint, and updated in training
    steps only. Add it to a contrast in a Sum.
    Terms: ``loss``; ``activity``, the mean of q over the units; ``off_target``, the root mean square of q - target.
    Hinton (2010), "A practical guide", section 11.

    Args:
        target: the target of the mean activity, in (0, 1); 0.01 to 0.1 is usual.
        cost: weight of the penalty, >= 0.
        damping: decay of the running mean q per step, in [0, 1); 0.9 to 0.99 is usual.
        block: the hidden units, whose conditional must be binary.

    Raises:
        ValueError: if a number is out of range; at a call, if the model's ``block`` is not binary.

    >>> import torch
    >>> from ebm_lightning.energies import RBM
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> model = RBM({"x": Bernoulli([4])}, hidden=3)
    >>> terms = Sparsity(target=0.1, cost=1.0)(model, {"x": torch.zeros(2, 4)}, None)
    >>> terms["activity"].item(), round(terms["off_target"].item(), 4)
    (0.5, 0.4)
    """

    def __init__(self, target: float, cost: float, damping: float = 0.9, block: str = "h") -> None:
        super().__init__()
        if not (0 < target < 1 and cost >= 0 and 0 <= damping < 1):
            raise ValueError(
                f"Sparsity(target={target}, cost={cost}, damping={damping}): expected target in (0, 1), cost >= 0 and "
                "damping in [0, 1)"
            )
        self.target, self.cost, self.damping, self.block = target, cost, damping, block
        self.q: Tensor | None = None

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        conditional = require(model, GibbsSampleable).conditional(self.block, pos)
        if not isinstance(conditional, BernoulliConditional):
            raise ValueError(
                f"Sparsity(block={self.block!r}) needs binary units, but their conditional in {type(model).__name__} "
                f"is a {type(conditional).__name__}: name the hidden units of a model that has binary ones"
            )
        q = self._running_mean(conditional.mean.detach().mean(0))
        if self.training and torch.is_grad_enabled():
            self.q = q
        off = q - self.target
        return {
            "loss": self.cost * (off * conditional.logits.mean(0)).sum(),
            "activity": q.mean(),
            "off_target": off.square().mean().sqrt(),
        }

    def get_extra_state(self) -> dict[str, Tensor]:
        """q for the checkpoint; empty before the first step, which determines the number of units."""
        return {} if self.q is None else {"q": self.q}

    def set_extra_state(self, state: Any) -> None:
        self.q = state.get("q")

    def _running_mean(self, batch: Tensor) -> Tensor:
        """q after one more batch with the mean ``batch`` on this rank."""
        batch = mean_over_ranks(batch)
        return batch if self.q is None else torch.lerp(batch, self.q.to(batch), self.damping)
