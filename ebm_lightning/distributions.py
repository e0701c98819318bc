"""The distributions that Gibbs sampling, chain starts and noise-contrastive estimation draw from."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import Conditional, Noise


@dataclass(frozen=True)
class BernoulliConditional(Conditional):
    """Independent binary units with p(unit = 1) = sigmoid(logits).

    Draws compare uniform numbers with the probability: on a CPU several times faster than ``torch.bernoulli``.
    """

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def sample(self) -> Tensor:
        mean = self.mean
        return (torch.rand_like(mean) < mean).to(mean.dtype)


@dataclass(frozen=True)
class SpinConditional(Conditional):
    """Independent spins in {-1, +1} with p(spin = +1) = sigmoid(2 field)."""

    field: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.tanh(self.field)

    def sample(self) -> Tensor:
        return 2 * BernoulliConditional(2 * self.field).sample() - 1


@dataclass(frozen=True)
class UniformNoise(Noise):
    """Uniform on [low, high) in every coordinate."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"UniformNoise(low={self.low}, high={self.high}): expected low < high")

    def sample(self, like: Tensor) -> Tensor:
        return torch.rand_like(like) * (self.high - self.low) + self.low

    def log_prob(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        inside = ((flat >= self.low) & (flat <= self.high)).all(1)
        density = torch.full_like(flat[:, 0], -flat.shape[1] * math.log(self.high - self.low))
        return torch.where(inside, density, torch.full_like(density, -math.inf))


@dataclass(frozen=True)
class GaussianNoise(Noise):
    """N(mean, std^2) in every coordinate."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"GaussianNoise(std={self.std}): expected std > 0")

    def sample(self, like: Tensor) -> Tensor:
        return torch.randn_like(like) * self.std + self.mean

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x.flatten(1) - self.mean) / self.std
        return -(z.square() / 2 + math.log(self.std) + math.log(2 * math.pi) / 2).sum(1)


@dataclass(frozen=True)
class BernoulliNoise(Noise):
    """Independent binary units, each on with ``probability``."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ValueError(f"BernoulliNoise(probability={self.probability}): expected a number between 0 and 1")

    def sample(self, like: Tensor) -> Tensor:
        return (torch.rand_like(like) < self.probability).to(like.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        on = x.flatten(1)
        return (on * math.log(self.probability) + (1 - on) * math.log1p(-self.probability)).sum(1)
