"""Sets of images that should have a low probability under a model of the data."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ebm_lightning.core import Bounds
from ebm_lightning.data.images.named import Name, available, load_images


class Outliers(abc.ABC):
    """A set of images unlike the data; final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def make(self, x: Tensor, bounds: Bounds) -> Tensor | None:
        """The images of the set within the bounds; None if the set is not on this machine.

        Images of another shape than the data are refused by :class:`OutOfDistribution`.

        Args:
            x: the test images (N, C, H, W).
            bounds: of the data.
        """


@dataclass(frozen=True)
class UniformPixels(Outliers):
    """Independent pixels, uniform over the bounds."""

    def make(self, x: Tensor, bounds: Bounds) -> Tensor:
        low, high = bounds
        return torch.rand_like(x) * (high - low) + low


@dataclass(frozen=True)
class PermutedPixels(Outliers):
    """The test images with their pixels permuted, by one permutation for all: each keeps its histogram.

    Args:
        seed: of the permutation.
    """

    seed: int = 0

    def make(self, x: Tensor, bounds: Bounds) -> Tensor:
        order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(self.seed))
        return x.flatten(2)[:, :, order.to(x.device)].view_as(x)


@dataclass(frozen=True)
class UpsideDown(Outliers):
    """The test images rotated by 180 degrees."""

    def make(self, x: Tensor, bounds: Bounds) -> Tensor:
        return x.flip(2, 3)


@dataclass(frozen=True)
class ImageSet(Outliers):
    """The test split of another named dataset, with gray levels scaled to the bounds.

    Args:
        name: as in :class:`ebm_lightning.data.images.named.Images`; used if it is in the EBM_DATA folder.
    """

    name: Name

    def make(self, x: Tensor, bounds: Bounds) -> Tensor | None:
        if not available(self.name):
            return None
        low, high = bounds
        images = load_images(self.name, "test")["x"]
        return (images.float() / 255 * (high - low) + low).to(x.device)


@dataclass(frozen=True)
class GaussianPixels(Outliers):
    """Independent normal pixels with the mean and standard deviation of all pixels, clamped to the bounds."""

    def make(self, x: Tensor, bounds: Bounds) -> Tensor:
        return (x.mean() + x.std() * torch.randn_like(x)).clamp(*bounds)


@dataclass(frozen=True)
class ConstantImages(Outliers):
    """Images of one value in each channel, uniform over the bounds."""

    def make(self, x: Tensor, bounds: Bounds) -> Tensor:
        low, high = bounds
        return (torch.rand_like(x[:, :, :1, :1]) * (high - low) + low).expand_as(x).contiguous()


@dataclass(frozen=True)
class Interpolations(Outliers):
    """Means of pairs of different test images, paired at random; each image is in two pairs (Grathwohl 2020)."""

    def make(self, x: Tensor, bounds: Bounds) -> Tensor:
        if len(x) < 2:
            raise ValueError(f"{self} needs at least two test images, got {len(x)}")
        order = torch.randperm(len(x)).to(x.device)
        return (x[order] + x[order.roll(1)]) / 2


@dataclass(frozen=True)
class Resized(Outliers):
    """Outliers resized to the height and width of the data by antialiased bilinear interpolation.

    Gray images get three equal channels, color images are averaged over channels, to match the data.

    Args:
        outliers: of any height and width.
    """

    outliers: Outliers

    def make(self, x: Tensor, bounds: Bounds) -> Tensor | None:
        made = self.outliers.make(x, bounds)
        if made is None:
            return None
        if made.shape[1] != x.shape[1]:
            made = made.mean(1, keepdim=True).expand(-1, x.shape[1], -1, -1)
        return interpolate(made, x.shape[2:], mode="bilinear", antialias=True)


@dataclass(frozen=True)
class NoisyOutliers(Outliers):
    """Outliers with Gaussian noise, like test images of data whose ``test_noise`` is not 0.

    Args:
        outliers: the images without noise.
        std: standard deviation of the noise, in units of the data, >= 0.
    """

    outliers: Outliers
    std: float

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(f"{self}: expected std >= 0")

    def make(self, x: Tensor, bounds: Bounds) -> Tensor | None:
        made = self.outliers.make(x, bounds)
        return None if made is None else made + self.std * torch.randn_like(made)
