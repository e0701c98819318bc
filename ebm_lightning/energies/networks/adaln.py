"""Adaptive layer normalization: the shift, scale and gate of transformer blocks as functions of a condition."""

from typing import NamedTuple

from torch import Tensor, nn


class Modulation(NamedTuple):
    """The modulation of one half of a block, attention or MLP: x + gate f((1 + scale) norm(x) + shift).

    Each is (B, 1, dim), or None for no modulation.
    """

    shift: Tensor | None = None
    scale: Tensor | None = None
    gate: Tensor | None = None

    def enter(self, x: Tensor) -> Tensor:
        """(1 + scale) x + shift for x (B, S, dim), or x without modulation."""
        return x if self.shift is None or self.scale is None else (1 + self.scale) * x + self.shift

    def leave(self, x: Tensor) -> Tensor:
        """gate x for x (B, S, dim), or x without modulation."""
        return x if self.gate is None else self.gate * x


class AdaLN(nn.Module):
    """Map a condition (B, dim) to the modulations of attention and of the MLP: a linear layer of silu(condition).

    It is initialized to zero, so that every block is initially the identity: adaLN-zero (Peebles & Xie 2023).

    Args:
        dim: the width of condition and block.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 6 * dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> tuple[Modulation, Modulation]:
        """(B, dim) -> the modulations of attention and of the MLP."""
        parts = self.linear(nn.functional.silu(condition))[:, None].chunk(6, -1)
        return Modulation(*parts[:3]), Modulation(*parts[3:])
