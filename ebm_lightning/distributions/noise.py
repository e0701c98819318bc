"""Noise: the initial distributions of chains and the noise of noise-contrastive estimation."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebm_lightning.core import Noise, State


@dataclass(frozen=True)
class DataInit(Noise):
    """No noise: a chain is initialized to the positive phase, as the persistent chains of deep Boltzmann machines.

    It has no density.
    """

    def sample(self, like: Tensor) -> Tensor:
        return like.detach().clone()

    def log_prob(self, x: Tensor) -> Tensor:
        raise ValueError("DataInit has no density: use a noise that has one, such as GaussianNoise")


@dataclass(frozen=True)
class UniformNoise(Noise):
    """Uniform noise on [low, high) in every coordinate. Raises ValueError if ``low`` >= ``high``."""

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
    """Gaussian noise N(mean, std^2) in every coordinate. Raises ValueError if ``std`` <= 0."""

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
    """Independent binary units, each 1 with ``probability`` in (0, 1). Raises ValueError if it lies outside."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ValueError(f"BernoulliNoise(probability={self.probability}): expected a number between 0 and 1")

    def sample(self, like: Tensor) -> Tensor:
        return (torch.rand_like(like) < self.probability).to(like.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        on = x.flatten(1)
        return (on * math.log(self.probability) + (1 - on) * math.log1p(-self.probability)).sum(1)


class InformativeInit(Noise, nn.Module):
    """Informative initialization: one Gaussian for each class, N(mean_y, covariance_y + jitter I), fitted to the data.

    A chain is initialized from the Gaussian of its label y. If that is not known (y missing or -1), the class is drawn
    from the frequencies of the labeled data, so that the chains are draws from the mixture. The density is that of the
    mixture. It is fitted once before training, by maximum likelihood, to the labeled training examples without
    augmentation, and part of the checkpoint: classes x (size of one example)^2 numbers, 25 MB for MNIST, 380 MB for
    CIFAR-10. Yang & Ji (2021), JEM++.

    Args:
        shape: the shape of one example.
        classes: the number of labels, at least 1.
        jitter: the variance added to every coordinate, > 0, in units of the data squared.
        block: the variable that is fitted.

    Raises:
        ValueError: if ``classes`` < 1 or ``jitter`` <= 0; in fitting, if a class has no labeled example; at a
            draw, if it was not fitted.
    """

    mean: Tensor
    factor: Tensor
    share: Tensor

    def __init__(self, shape: list[int], classes: int, *, jitter: float = 1e-4, block: str = "x") -> None:
        super().__init__()
        if classes < 1 or not jitter > 0 or min(shape, default=1) < 1:
            raise ValueError(
                f"InformativeInit(shape={shape}, classes={classes}, jitter={jitter}): expected sides and classes of at "
                "least 1, and jitter > 0"
            )
        self.classes, self.jitter, self.block, size = classes, jitter, block, math.prod(shape)
        self.register_buffer("mean", torch.zeros(classes, size))
        self.register_buffer("factor", torch.zeros(classes, size, size))
        self.register_buffer("share", torch.zeros(classes))

    @torch.no_grad()
    def fit(self, batches: Iterable[State]) -> None:
        number = torch.zeros(self.classes, dtype=torch.float64)
        total, second = (torch.zeros(buffer.shape, dtype=torch.float64) for buffer in (self.mean, self.factor))
        for batch in batches:
            x, y = batch[self.block].cpu().flatten(1).double(), self._labels(batch).cpu()
            for label in range(self.classes):
                own = x[y == label]
                number[label] += len(own)
                total[label] += own.sum(0)
                second[label].addmm_(own.T, own)
        absent = [label for label in range(self.classes) if not number[label]]
        if absent:
            raise ValueError(
                f"InformativeInit(classes={self.classes}) has nothing to fit the classes {absent} to: expected labeled "
                "training examples of every class"
            )
        self.mean.copy_(total / number[:, None])
        self.share.copy_(number / number.sum())
        for label in range(self.classes):
            mean = total[label] / number[label]
            covariance = second[label] / number[label] - mean.outer(mean)
            covariance.diagonal().add_(self.jitter)
            self.factor[label].copy_(torch.linalg.cholesky(covariance))

    def initial(self, state: State, name: str) -> Tensor:
        """Draws from the Gaussians of the labels y, or of drawn labels if y is not known."""
        like = state[name]
        if "y" not in state:
            return self.sample(like)
        y = self._labels(state)
        return self._draw(like, torch.where(y < 0, self._sample_labels(like), y))

    def sample(self, like: Tensor) -> Tensor:
        return self._draw(like, self._sample_labels(like))

    def log_prob(self, x: Tensor) -> Tensor:
        self._check_fitted()
        off = (x.flatten(1)[None].to(self.mean) - self.mean[:, None]).mT
        z = torch.linalg.solve_triangular(self.factor, off, upper=False)
        log_det = self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        log_class = -z.square().sum(1) / 2 - (log_det + z.shape[1] * math.log(2 * math.pi) / 2)[:, None]
        return (log_class + self.share.log()[:, None]).logsumexp(0).to(x.dtype)

    def _labels(self, state: State) -> Tensor:
        """y of every example. Raises ValueError if the data have no labels, or labels that are out of range."""
        if "y" not in state or not bool((state["y"] < self.classes).all()):
            got = f"labels up to {int(state['y'].max())}" if "y" in state else f"only {sorted(state)}"
            raise ValueError(
                f"InformativeInit(classes={self.classes}) needs labels 'y' below {self.classes}, but the data have "
                f"{got}: train on labeled data, with as many classes as they have"
            )
        return state["y"]

    def _sample_labels(self, like: Tensor) -> Tensor:
        self._check_fitted()
        return torch.multinomial(self.share, len(like), replacement=True).to(like.device)

    def _draw(self, like: Tensor, y: Tensor) -> Tensor:
        self._check_fitted()
        z = torch.randn(len(like), self.mean.shape[1], dtype=self.mean.dtype, device=self.mean.device)
        x = torch.empty_like(z)
        for label in range(self.classes):
            own = (y == label).to(z.device)
            x[own] = self.mean[label] + z[own] @ self.factor[label].T
        return x.view(like.shape).to(like)

    def _check_fitted(self) -> None:
        if not bool(self.share.any()):
            raise ValueError("InformativeInit is not fitted yet: train with it as the noise of chains, or call fit")
