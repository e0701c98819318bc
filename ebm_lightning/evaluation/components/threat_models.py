"""What an attack may do to an image: balls of a norm, and how to climb in them."""

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ebm_lightning.core import Bounds


class Ball(abc.ABC):
    """The perturbations (B, ...) of a norm up to a radius; final subclasses are frozen dataclasses.

    ``radii`` are those to measure at, in units of the data: 8/255 of the gray levels is 16/255 where the bounds are
    (-1, 1). ``certain`` is a radius at which nothing can be classified correctly; None takes the one within which every
    image of the data can become every other one. Raises ValueError where a radius is not positive, or there is none.
    """

    name: ClassVar[str]
    radii: list[float]
    certain: float | None

    def __post_init__(self) -> None:
        if not self.radii or min(self.radii) <= 0 or (self.certain is not None and self.certain <= 0):
            raise ValueError(f"{self}: expected at least one radius, all > 0")

    @abc.abstractmethod
    def random(self, like: Tensor, radius: float) -> Tensor:
        """Perturbations in the shape of ``like``, uniform in the ball."""

    @abc.abstractmethod
    def project(self, perturbation: Tensor, radius: float) -> Tensor:
        """The nearest perturbation within the ball."""

    @abc.abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 in which a function of this gradient grows fastest."""

    @abc.abstractmethod
    def across(self, bounds: Bounds, shape: tuple[int, ...]) -> float:
        """The radius within which every image of a shape can become every other image in the bounds."""


@dataclass(frozen=True)
class Linf(Ball):
    """Every number of an image moves by at most the radius.

    Args:
        radii: to measure at, each > 0, in units of the data.
        certain: a radius at which nothing can be classified correctly; None takes the width of the bounds.
    """

    name = "Linf"

    radii: list[float]
    certain: float | None = None

    def random(self, like: Tensor, radius: float) -> Tensor:
        return radius * (2 * torch.rand_like(like) - 1)

    def project(self, perturbation: Tensor, radius: float) -> Tensor:
        return perturbation.clamp(-radius, radius)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def across(self, bounds: Bounds, shape: tuple[int, ...]) -> float:
        return bounds[1] - bounds[0]


@dataclass(frozen=True)
class L2(Ball):
    """The Euclidean length of a perturbation is at most the radius.

    Args:
        radii: to measure at, each > 0, in units of the data.
        certain: a radius at which nothing can be classified correctly; None takes that of their diagonal.
    """

    name = "L2"

    radii: list[float]
    certain: float | None = None

    def random(self, like: Tensor, radius: float) -> Tensor:
        direction = self.steepest(torch.randn_like(like))
        share = torch.rand(len(like), device=like.device, dtype=like.dtype) ** (1 / like[0].numel())
        return radius * _per_image(share, like) * direction

    def project(self, perturbation: Tensor, radius: float) -> Tensor:
        return perturbation * _per_image((radius / _length(perturbation)).clamp(max=1), perturbation)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient / _per_image(_length(gradient), gradient)

    def across(self, bounds: Bounds, shape: tuple[int, ...]) -> float:
        return (bounds[1] - bounds[0]) * math.sqrt(math.prod(shape))


def _length(x: Tensor) -> Tensor:
    """The Euclidean length of every image (B,), kept away from 0, by which it may be divided."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(torch.finfo(x.dtype).tiny)


def _per_image(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers (B,) in a shape that multiplies ``like`` (B, ...)."""
    return numbers.view(-1, *[1] * (like.ndim - 1))
