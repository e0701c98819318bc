"""What is done to an image before a model repairs it: parts of it are hidden, or its pixels are replaced."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import Bounds


class Mask(abc.ABC):
    """Which part of an image is known; final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def known(self, x: Tensor) -> Tensor:
        """True where an image of x (B, C, H, W) is known, False where it is hidden: bool, in the shape of x."""


@dataclass(frozen=True)
class BottomHalf(Mask):
    """The upper half is known, the lower one hidden; the middle row of an odd number belongs to the lower half."""

    def known(self, x: Tensor) -> Tensor:
        mask = torch.zeros_like(x, dtype=torch.bool)
        mask[:, :, : x.shape[2] // 2] = True
        return mask


@dataclass(frozen=True)
class RandomPixels(Mask):
    """Each pixel is hidden with a probability, in all channels alike, and in every image another choice.

    Args:
        hidden: the probability, in (0, 1).

    Raises:
        ValueError: where ``hidden`` lies outside (0, 1).
    """

    hidden: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.hidden < 1:
            raise ValueError(f"{self}: expected a probability between 0 and 1")

    def known(self, x: Tensor) -> Tensor:
        return (_uniform(x) >= self.hidden).expand_as(x)


class Corruption(abc.ABC):
    """What replaces or moves the pixels of an image; final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def __call__(self, x: Tensor, bounds: Bounds) -> Tensor:
        """The images x (B, C, H, W) within the bounds, corrupted."""


@dataclass(frozen=True)
class SaltAndPepper(Corruption):
    """Each pixel becomes dark or light with a probability each, in all channels alike (Du & Mordatch 2019).

    The values are those of their released code, which replaces 5 percent by 0.1 and 5 percent by 0.9.

    Args:
        share: the probability of either value, in (0, 1/2].
        low: the dark value, as a share of the range between the bounds.
        high: the light value.

    Raises:
        ValueError: where ``share`` lies outside (0, 1/2].
    """

    share: float = 0.05
    low: float = 0.1
    high: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise ValueError(f"{self}: expected a share in (0, 1/2], which two values have each")

    def __call__(self, x: Tensor, bounds: Bounds) -> Tensor:
        chance = _uniform(x)
        dark, light = (bounds[0] + share * (bounds[1] - bounds[0]) for share in (self.low, self.high))
        x = torch.where(chance < self.share, torch.full_like(x, dark), x)
        return torch.where(chance >= 1 - self.share, torch.full_like(x, light), x)


@dataclass(frozen=True)
class AddedNoise(Corruption):
    """Gaussian noise on every number of an image; what lies beyond the bounds is left there.

    Args:
        std: its standard deviation in units of the data, > 0.

    Raises:
        ValueError: where ``std`` <= 0.
    """

    std: float

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"{self}: expected std > 0")

    def __call__(self, x: Tensor, bounds: Bounds) -> Tensor:
        return x + self.std * torch.randn_like(x)


def _uniform(x: Tensor) -> Tensor:
    """A uniform number for each pixel of images (B, C, H, W): (B, 1, H, W)."""
    return torch.rand_like(x[:, :1])
