"""Adaptive layer normalization: a condition that shifts, scales and gates the layers of a transformer."""

from typing import NamedTuple

from torch import Tensor, nn


class Modulation(NamedTuple):
    """What is done to one half of a block, attention or MLP: x + gate f((1 + scale) norm(x) + shift).

    Each is (B, 1, dim), or None where nothing is done.
    """

    shift: Tensor | None = None
    scale: Tensor | None = None
    gate: Tensor | None = None

    def enter(self, x: Tensor) -> Tensor:
        """(1 + scale) x + shift for x (B, S, dim), where there are any."""
        return x if self.shift is None or self.scale is None else (1 + self.scale) * x + self.shift

    def leave(self, x: Tensor) -> Tensor:
        """gate x for x (B, S, dim), where there is one."""
        return x if self.gate is None else self.gate * x


class AdaLN(nn.Module):
    """condition (B, dim) -> two modulations, one for attention and one for the MLP: a linear layer of silu(condition).

    It starts at zero, so that every block starts as the identity: adaLN-zero (Peebles & Xie 2023).

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
