"""The distributions that Gibbs sampling, chain starts and noise-contrastive estimation draw from."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from ebm_lightning import kernels
from ebm_lightning.core import Conditional, Noise


@dataclass(frozen=True)
class BernoulliConditional(Conditional):
    """Independent binary units with p(unit = 1) = sigmoid(logits)."""

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def sample(self) -> Tensor:
        return kernels.bernoulli(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits - softplus(self.logits)).flatten(1).sum(1)

    def tempered(self, beta: float | Tensor) -> "BernoulliConditional":
        return BernoulliConditional(per_example(beta, self.logits) * self.logits)


@dataclass(frozen=True)
class SpinConditional(Conditional):
    """Independent spins in {-1, +1} with p(spin = +1) = sigmoid(2 field)."""

    field: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.tanh(self.field)

    def sample(self) -> Tensor:
        return 2 * kernels.bernoulli(2 * self.field) - 1

    def log_prob(self, value: Tensor) -> Tensor:
        return logsigmoid(2 * value * self.field).flatten(1).sum(1)

    def tempered(self, beta: float | Tensor) -> "SpinConditional":
        return SpinConditional(per_example(beta, self.field) * self.field)


@dataclass(frozen=True)
class GaussianConditional(Conditional):
    """Independent normal units N(location, std^2); ``std`` is a number or broadcasts to ``location``."""

    location: Tensor
    std: float | Tensor

    @property
    def mean(self) -> Tensor:
        return self.location

    def sample(self) -> Tensor:
        return self.location + self.std * torch.randn_like(self.location)

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.location) / self.std
        log_std = torch.as_tensor(self.std, dtype=z.dtype).log()
        return -(z.square() / 2 + log_std + math.log(2 * math.pi) / 2).flatten(1).sum(1)

    def tempered(self, beta: float | Tensor) -> "GaussianConditional":
        inverse = torch.as_tensor(per_example(beta, self.location), dtype=self.location.dtype)
        return GaussianConditional(self.location, self.std * inverse.rsqrt())


@dataclass(frozen=True)
class CategoricalConditional(Conditional):
    """Independent one-of-K units: p(unit = k) = softmax(logits)_k over the last axis; values are int64 (B, ...)."""

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.softmax(self.logits, -1)

    def sample(self) -> Tensor:
        exponential = -torch.empty_like(self.logits).uniform_(1e-30, 1).log()
        return (self.logits - exponential.log()).argmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        chosen = torch.log_softmax(self.logits, -1).gather(-1, value.unsqueeze(-1)).squeeze(-1)
        return chosen.reshape(len(value), -1).sum(1)

    def tempered(self, beta: float | Tensor) -> "CategoricalConditional":
        return CategoricalConditional(per_example(beta, self.logits) * self.logits)


def per_example(beta: float | Tensor, like: Tensor) -> float | Tensor:
    """A number, or one for each example (B,), in a shape that multiplies ``like`` (B, ...)."""
    if isinstance(beta, Tensor) and beta.ndim == 1:
        return beta.view(-1, *[1] * (like.ndim - 1))
    return beta


@dataclass(frozen=True)
class AtData(Noise):
    """No noise: a chain is born where the positive phase is, as fantasy particles of deep machines are.

    It has no density.
    """

    def sample(self, like: Tensor) -> Tensor:
        return like.detach().clone()

    def log_prob(self, x: Tensor) -> Tensor:
        raise ValueError("AtData has no density: compare with a noise that has one, such as GaussianNoise")


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
