"""Energies whose laws are known in closed form, by quadrature or by enumeration, for samplers to move on."""

import math

import torch
from torch import Tensor, nn

from ebm_lightning.core import Conditional, EnergyModel, Info, Sampler, State
from ebm_lightning.distributions import BernoulliConditional
from support.densities import Quartic, quartic_state
from support.oracles import Z

F64 = torch.float64


class Tilted(Quartic):
    """A Quartic for samplers, which move its x and leave its context as it is."""


class Normal(EnergyModel):
    """N(mean, 1/precision) in every coordinate; counts how often it is evaluated."""

    def __init__(self, mean: float = 0.0, precision: float = 1.0) -> None:
        super().__init__()
        self.mean, self.precision, self.calls = mean, precision, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.precision * (x - self.mean).square().sum(1) / 2


class Flat(EnergyModel):
    """An energy without slope."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.sum(1)


class Well(EnergyModel):
    """A one-dimensional double well, height (x^2 - 1)^2 + tilt x, and its law by quadrature."""

    def __init__(self, height: float = 1.0, tilt: float = 0.3) -> None:
        super().__init__()
        self.height, self.tilt = height, tilt
        self.grid = torch.linspace(-4, 4, 40_001, dtype=F64)
        density = (-self(self.grid[:, None])).exp()
        self.cdf = torch.cumulative_trapezoid(density, self.grid)
        self.cdf = torch.cat([torch.zeros(1, dtype=F64), self.cdf / self.cdf[-1]])

    def forward(self, x: Tensor) -> Tensor:
        return (self.height * (x.square() - 1).square() + self.tilt * x).sum(1)

    def quantile(self, share: Tensor) -> Tensor:
        right = torch.searchsorted(self.cdf, share).clamp(1, len(self.cdf) - 1)
        low, high = self.cdf[right - 1], self.cdf[right]
        return self.grid[right - 1] + (share - low) / (high - low) * (self.grid[1] - self.grid[0])

    def bins(self, x: Tensor, number: int) -> Tensor:
        """Which of ``number`` equally likely intervals each x (B, 1) lies in."""
        edges = self.quantile(torch.arange(1, number, dtype=F64) / number)
        return torch.bucketize(x[:, 0], edges)


class SmallRBM(EnergyModel):
    """E(v, h) = -v.W h - b.v - c.h with both layers as variables, small enough to enumerate."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(visible, hidden, dtype=F64))
        self.b, self.c = nn.Parameter(torch.randn(visible, dtype=F64)), nn.Parameter(torch.randn(hidden, dtype=F64))

    def forward(self, v: Tensor, h: Tensor) -> Tensor:
        return -((v @ self.weight) * h).sum(1) - v @ self.b - h @ self.c

    def conditional(self, block: str, state: State) -> Conditional:
        if block == "h":
            return BernoulliConditional(self.c + state["v"] @ self.weight)
        return BernoulliConditional(self.b + state["h"] @ self.weight.T)


def tilted_state(n: int = 6) -> State:
    """States of a Tilted of which one number is known, which only Masked looks at."""
    return {**quartic_state(n), "x.known": torch.arange(6).view(2, 3).expand(n, 2, 3) == 0}


def assert_normal(x: Tensor, mean: float, variance: float) -> None:
    """Mean and second moment of independent draws of a normal."""
    n = x.numel()
    assert abs(x.mean() - mean) < Z * math.sqrt(variance / n)
    assert abs((x - mean).square().mean() - variance) < Z * variance * math.sqrt(2 / n)


class Still(Sampler):
    """Moves nothing, so that a step of its wrapper is a swap alone."""

    def __init__(self, free: tuple[str, ...] = ("x",)) -> None:
        self.free = free

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        return state, {}


class Bowl(EnergyModel):
    """E(x, y) = a |y - x|^2 / 2, so that y_k = x + (1 - alpha a)^k (y_0 - x)."""

    def __init__(self, a: float = 0.7) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=F64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a * (y - x).square().flatten(1).sum(1) / 2
