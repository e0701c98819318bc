"""Augmentations: random changes of training images that preserve their content, on the device of the batch."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor


class Augmentation(abc.ABC):
    """A random change of images (B, C, H, W) of any dtype, drawn for each image. Final subclasses are frozen."""

    @abc.abstractmethod
    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The changed images, in the same shape; every draw comes from ``generator``, on the device of the images."""


@dataclass(frozen=True)
class ReflectPadCrop(Augmentation):
    """Padding of every side by reflection, then a crop of the old size at a uniformly drawn offset.

    The usual augmentation of CIFAR-10, here with reflection in place of zeros, as in Grathwohl et al. (2020).

    Args:
        padding: Pixels added to each side, and so the farthest shift. Smaller than the images.
    """

    padding: int = 4

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise ValueError(f"ReflectPadCrop(padding={self.padding}): expected 1 or more pixels")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        b, c, h, w = images.shape
        if self.padding >= min(h, w):
            raise ValueError(
                f"ReflectPadCrop(padding={self.padding}) needs images larger than its padding, got {h} x {w}"
            )
        shifts = torch.randint(2 * self.padding + 1, (2, b), generator=generator, device=images.device) - self.padding
        rows = _reflected(shifts[0], h)[:, None, :, None].expand(b, c, h, w)
        columns = _reflected(shifts[1], w)[:, None, None, :].expand(b, c, h, w)
        return images.gather(2, rows).gather(3, columns)


@dataclass(frozen=True)
class HorizontalFlip(Augmentation):
    """Mirroring of an image, left to right, with a given probability.

    Args:
        probability: In [0, 1].
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"HorizontalFlip(probability={self.probability}): expected a number in [0, 1]")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        flipped = torch.rand(len(images), generator=generator, device=images.device) < self.probability
        return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def _reflected(shift: Tensor, size: int) -> Tensor:
    """For each shift (B,) the positions shift, ..., shift + size - 1, reflected into 0..size-1: (B, size)."""
    positions = (shift[:, None] + torch.arange(size, device=shift.device)).abs()
    return size - 1 - (size - 1 - positions).abs()
