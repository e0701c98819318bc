"""Conditionals of blocks of independent units: Bernoulli, spin, Gaussian, categorical."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ebm_lightning.core import Conditional
from ebm_lightning.utils import fused_ops


@dataclass(frozen=True)
class BernoulliConditional(Conditional):
    """Independent binary units with p(unit = 1) = sigmoid(logits)."""

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def sample(self) -> Tensor:
        return fused_ops.bernoulli(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits).flatten(1).sum(1) - fused_ops.softplus_sum(self.logits.flatten(1))

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
        return 2 * fused_ops.bernoulli(2 * self.field) - 1

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
        logits = fused_ops.widened(self.logits)
        exponential = -torch.empty_like(logits).uniform_(1e-30, 1).log()
        return (logits - exponential.log()).argmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        chosen = torch.log_softmax(self.logits, -1).gather(-1, value.unsqueeze(-1)).squeeze(-1)
        return chosen.reshape(len(value), -1).sum(1)

    def tempered(self, beta: float | Tensor) -> "CategoricalConditional":
        return CategoricalConditional(per_example(beta, self.logits) * self.logits)


def per_example(beta: float | Tensor, like: Tensor) -> float | Tensor:
    """``beta``, a number or one for each example (B,), in a shape that broadcasts to ``like`` (B, ...)."""
    if isinstance(beta, Tensor) and beta.ndim == 1:
        return beta.view(-1, *[1] * (like.ndim - 1))
    return beta
