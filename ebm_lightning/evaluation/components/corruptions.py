"""Masks and corruptions of images, for inpainting and denoising."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import Bounds


class Mask(abc.ABC):
    """A rule for which part of an image is known; final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def known(self, x: Tensor) -> Tensor:
        """True for known and False for hidden values of images x (B, C, H, W): bool, in the shape of x."""


@dataclass(frozen=True)
class BottomHalf(Mask):
    """The upper half is known, the lower half hidden; with an odd height the middle row is hidden."""

    def known(self, x: Tensor) -> Tensor:
        mask = torch.zeros_like(x, dtype=torch.bool)
        mask[:, :, : x.shape[2] // 2] = True
        return mask


@dataclass(frozen=True)
class RandomPixels(Mask):
    """Each pixel is hidden independently with a probability, in all channels of an image.

    Args:
        hidden: the probability, in (0, 1).

    Raises:
        ValueError: if ``hidden`` is not in (0, 1).
    """

    hidden: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.hidden < 1:
            raise ValueError(f"{self}: expected a probability between 0 and 1")

    def known(self, x: Tensor) -> Tensor:
        return (_uniform(x) >= self.hidden).expand_as(x)


class Corruption(abc.ABC):
    """A random change of the pixels of an image; final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def __call__(self, x: Tensor, bounds: Bounds) -> Tensor:
        """The corrupted images, in the shape of x (B, C, H, W)."""


@dataclass(frozen=True)
class SaltAndPepper(Corruption):
    """Each pixel is replaced by a dark or a light value, in all channels of an image (Du & Mordatch 2019).

    The defaults are those of their released code, which replaces 5 percent by 0.1 and 5 percent by 0.9.

    Args:
        share: the probability of either value, in (0, 1/2].
        low: the dark value, as a share of the range between the bounds.
        high: the light value.

    Raises:
        ValueError: if ``share`` is not in (0, 1/2].
    """

    share: float = 0.05
    low: float = 0.1
    high: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise ValueError(f"{self}: expected a share in (0, 1/2] of each of the two values")

    def __call__(self, x: Tensor, bounds: Bounds) -> Tensor:
        chance = _uniform(x)
        dark, light = (bounds[0] + share * (bounds[1] - bounds[0]) for share in (self.low, self.high))
        x = torch.where(chance < self.share, torch.full_like(x, dark), x)
        return torch.where(chance >= 1 - self.share, torch.full_like(x, light), x)


@dataclass(frozen=True)
class AdditiveGaussianNoise(Corruption):
    """Independent Gaussian noise added to every value of an image; the result is not clamped to the bounds.

    Args:
        std: standard deviation in units of the data, > 0.

    Raises:
        ValueError: if ``std`` <= 0.
    """

    std: float

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"{self}: expected std > 0")

    def __call__(self, x: Tensor, bounds: Bounds) -> Tensor:
        return x + self.std * torch.randn_like(x)


def _uniform(x: Tensor) -> Tensor:
    """Uniform random numbers, one for each pixel of images (B, C, H, W): (B, 1, H, W)."""
    return torch.rand_like(x[:, :1])
