"""Sets of images that a model of the data should find unlikely."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import Bounds
from ebm_lightning.data.images import Name, available, load_images


class Outliers(abc.ABC):
    """Makes images unlike the data from the test images x (N, C, H, W) and their bounds."""

    @abc.abstractmethod
    def make(self, x: Tensor, bounds: Bounds) -> Tensor | None:
        """As many images as the set has, in the bounds and the shape of ``x``; None where the set is not at hand."""


@dataclass(frozen=True)
class UniformPixels(Outliers):
    """Every pixel uniform over the bounds."""

    def make(self, x: Tensor, bounds: Bounds) -> Tensor:
        low, high = bounds
        return torch.rand_like(x) * (high - low) + low


@dataclass(frozen=True)
class PermutedPixels(Outliers):
    """The test images with their pixels in another order, the same for all: each keeps its histogram.

    Args:
        seed: of the permutation.
    """

    seed: int = 0

    def make(self, x: Tensor, bounds: Bounds) -> Tensor:
        order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(self.seed))
        return x.flatten(2)[:, :, order.to(x.device)].view_as(x)


@dataclass(frozen=True)
class UpsideDown(Outliers):
    """The test images turned by 180 degrees."""

    def make(self, x: Tensor, bounds: Bounds) -> Tensor:
        return x.flip(2, 3)


@dataclass(frozen=True)
class ImageSet(Outliers):
    """The test split of another named data set of the same shape, grey levels scaled to the bounds.

    Args:
        name: as in :class:`ebm_lightning.data.images.Images`; used where it lies in the EBM_DATA folder.
    """

    name: Name

    def make(self, x: Tensor, bounds: Bounds) -> Tensor | None:
        if not available(self.name):
            return None
        low, high = bounds
        images = load_images(self.name, "test")["x"]
        return (images.float() / 255 * (high - low) + low).to(x.device)
