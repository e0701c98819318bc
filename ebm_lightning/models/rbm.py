"""The restricted Boltzmann machine."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebm_lightning.core import Conditional, EnergyModel, State
from ebm_lightning.distributions import BernoulliConditional


class BernoulliRBM(EnergyModel):
    """F(v) = -b.v - sum_j log(1 + exp(c_j + (v W)_j)): the free energy of binary v (B, visible).

    It is the joint energy E(v, h) = -b.v - c.h - v.W h with the binary hidden units h summed out, a product of
    ``hidden`` experts (Smolensky 1986; Hinton 2002; Hinton 2010, "A practical guide", equations 1 and 25). W is
    ``weight`` (visible, hidden), b is ``visible_bias`` and c is ``hidden_bias``. The gradient of
    mean F(data) - mean F(samples) is Hinton's rule, with hidden probabilities in both phases. Gibbs sampling moves
    (h, v), h first: h rides in the state, and the energy ignores it.

    Args:
        visible: The number of visible units.
        hidden: The number of hidden units.
        weight_std: The standard deviation of the initial weights, which are normal; the biases begin at 0.
    """

    def __init__(self, visible: int, hidden: int, weight_std: float = 0.01) -> None:
        super().__init__()
        if visible < 1 or hidden < 1 or weight_std < 0:
            raise ValueError(
                f"BernoulliRBM(visible={visible}, hidden={hidden}, weight_std={weight_std}): "
                "expected at least one unit of each kind and weight_std >= 0"
            )
        self.weight = nn.Parameter(weight_std * torch.randn(visible, hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, v: Tensor) -> Tensor:
        """F(v), shape (B,), for v (B, visible) in [0, 1]."""
        return -(v @ self.visible_bias) - F.softplus(self.hidden_bias + v @ self.weight).sum(1)

    def joint(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h) = -b.v - c.h - v.W h, shape (B,), for v (B, visible) and h (B, hidden)."""
        return -(v @ self.visible_bias) - h @ self.hidden_bias - ((v @ self.weight) * h).sum(1)

    def conditional(self, block: str, state: State) -> Conditional:
        """p(h_j = 1 | v) = sigmoid(c_j + (v W)_j) for "h", p(v_i = 1 | h) = sigmoid(b_i + (W h)_i) for "v".

        Raises ValueError for any other block, or where the state lacks the block that is conditioned on.
        """
        others = {"h": "v", "v": "h"}
        if block not in others:
            raise ValueError(f"BernoulliRBM has conditionals for 'h' and 'v', got {block!r}")
        if others[block] not in state:
            raise ValueError(
                f"p({block} | {others[block]}) needs {others[block]!r}, but the state has {sorted(state)}: "
                "let Gibbs move h before v"
            )
        if block == "h":
            return BernoulliConditional(self.hidden_bias + state["v"] @ self.weight)
        return BernoulliConditional(self.visible_bias + state["h"] @ self.weight.T)

    def complete(self, batch: State) -> State:
        """v as the flattened ``batch["x"]`` (B, ...), where the batch has no v of its own."""
        if "v" in batch or "x" not in batch:
            return batch
        return {**batch, "v": batch["x"].flatten(1)}

    @torch.no_grad()
    def init_visible_bias(self, mean: Tensor, margin: float = 1e-3) -> None:
        """b_i = log p_i / (1 - p_i), with p the mean of the data: the best fit without hidden units (Hinton 2010, 8).

        Raises ValueError where the mean has another number of units, or leaves [0, 1].

        Args:
            mean: The share of the data in which each unit is on, in any shape of ``visible`` numbers.
            margin: p is clamped to [margin, 1 - margin], so that units that never change get a finite bias.
        """
        p = mean.flatten()
        if len(p) != len(self.visible_bias):
            raise ValueError(f"init_visible_bias got a mean of {len(p)} units, expected {len(self.visible_bias)}")
        if not 0 < margin < 0.5 or not bool(((p >= 0) & (p <= 1)).all()):
            raise ValueError(
                f"init_visible_bias(margin={margin}) got means from {float(p.min())} to {float(p.max())}: "
                "expected means in [0, 1] and 0 < margin < 0.5"
            )
        self.visible_bias.copy_(torch.logit(p.to(self.visible_bias), eps=margin))
