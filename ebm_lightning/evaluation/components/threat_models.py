"""Threat models: balls of a norm in which an attack may perturb an image, and ascent within them."""

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ebm_lightning.core import Bounds


class ThreatModel(abc.ABC):
    """The perturbations (B, ...) of a norm up to a radius; final subclasses are frozen dataclasses.

    Args:
        radii: of the measurements, each > 0, in units of the data: 8/255 of the gray levels is 16/255 for the bounds
            (-1, 1).
        chance_radius: a radius at which the accuracy under attack must be 0; None takes the diameter of the data,
            within which every image can be changed into every other one.

    Raises:
        ValueError: if there is no radius, or one is not positive.
    """

    name: ClassVar[str]
    radii: list[float]
    chance_radius: float | None

    def __post_init__(self) -> None:
        if not self.radii or min(self.radii) <= 0 or (self.chance_radius is not None and self.chance_radius <= 0):
            raise ValueError(f"{self}: expected at least one radius, all > 0")

    @abc.abstractmethod
    def random(self, like: Tensor, radius: float) -> Tensor:
        """Perturbations in the shape of ``like``, uniform in the ball."""

    @abc.abstractmethod
    def project(self, perturbation: Tensor, radius: float) -> Tensor:
        """The nearest perturbation within the ball."""

    @abc.abstractmethod
    def ascent_direction(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 in which a function of this gradient grows fastest."""

    @abc.abstractmethod
    def diameter(self, bounds: Bounds, shape: tuple[int, ...]) -> float:
        """The largest distance of two images of a shape within the bounds."""


@dataclass(frozen=True)
class Linf(ThreatModel):
    """Perturbations of which each number is at most the radius, in absolute value.

    Args:
        radii: of the measurements, each > 0, in units of the data.
        chance_radius: a radius at which the accuracy under attack must be 0; None takes the width of the bounds.
    """

    name = "Linf"

    radii: list[float]
    chance_radius: float | None = None

    def random(self, like: Tensor, radius: float) -> Tensor:
        return radius * (2 * torch.rand_like(like) - 1)

    def project(self, perturbation: Tensor, radius: float) -> Tensor:
        return perturbation.clamp(-radius, radius)

    def ascent_direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def diameter(self, bounds: Bounds, shape: tuple[int, ...]) -> float:
        return bounds[1] - bounds[0]


@dataclass(frozen=True)
class L2(ThreatModel):
    """Perturbations whose Euclidean norm is at most the radius.

    Args:
        radii: of the measurements, each > 0, in units of the data.
        chance_radius: a radius at which the accuracy under attack must be 0; None takes the diagonal of the bounds.
    """

    name = "L2"

    radii: list[float]
    chance_radius: float | None = None

    def random(self, like: Tensor, radius: float) -> Tensor:
        direction = self.ascent_direction(torch.randn_like(like))
        share = torch.rand(len(like), device=like.device, dtype=like.dtype) ** (1 / like[0].numel())
        return radius * _per_image(share, like) * direction

    def project(self, perturbation: Tensor, radius: float) -> Tensor:
        return perturbation * _per_image((radius / _norm(perturbation)).clamp(max=1), perturbation)

    def ascent_direction(self, gradient: Tensor) -> Tensor:
        return gradient / _per_image(_norm(gradient), gradient)

    def diameter(self, bounds: Bounds, shape: tuple[int, ...]) -> float:
        return (bounds[1] - bounds[0]) * math.sqrt(math.prod(shape))


def _norm(x: Tensor) -> Tensor:
    """The Euclidean norm of every image (B,), bounded away from 0 so that it can be a divisor."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(torch.finfo(x.dtype).tiny)


def _per_image(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers (B,) in a shape that broadcasts with ``like`` (B, ...)."""
    return numbers.view(-1, *[1] * (like.ndim - 1))
