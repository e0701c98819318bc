"""Preprocessing of pixels: from stored gray levels to the model's input. It is part of every result.

Log-likelihoods under different preprocessing are not comparable: the same weights differ by tens of nats.
"""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.utils import fused_ops
from ebm_lightning.utils.random import hashed, keyed


class Preprocessing(abc.ABC):
    """A map of integers v in 0..levels-1 to float32 values in [0, 1]. Final subclasses are frozen dataclasses.

    ``binary`` is whether every value is 0 or 1, so that binary units have a log-probability for it.
    """

    binary: bool

    @abc.abstractmethod
    def __call__(self, pixels: Tensor, levels: int, index: Tensor, generator: torch.Generator) -> Tensor:
        """The values of ``pixels`` (B, ...), integers in 0..levels-1, in the same shape.

        ``data.index`` (B,), int64, identifies each image; every draw comes from ``generator``, on the pixels' device.
        """


@dataclass(frozen=True)
class Gray(Preprocessing):
    """x = v / (levels - 1): gray levels unchanged."""

    binary = False

    def __call__(self, pixels: Tensor, levels: int, index: Tensor, generator: torch.Generator) -> Tensor:
        return _gray(pixels, levels)


@dataclass(frozen=True)
class Dequantized(Preprocessing):
    """x = (v + u) / levels, u ~ U[0, 1) for every pixel, fresh each time the image is used.

    A density of x bounds the log-probability of v from below (Theis, van den Oord & Bethge 2016, section 3.1).
    With 256 levels this is 255/256 (v / 255) + U[0, 1/256), the data of Du & Mordatch (2019).
    """

    binary = False

    def __call__(self, pixels: Tensor, levels: int, index: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(pixels.shape, generator=generator, device=pixels.device, dtype=torch.float32)
        return (pixels + u) / levels


@dataclass(frozen=True)
class DynamicBinarization(Preprocessing):
    """x ~ Bernoulli(v / (levels - 1)), drawn again each time the image is used.

    Recommended for binary models, which would fit the noise of a fixed draw. In evaluation the draws are the
    same every time.
    """

    binary = True

    def __call__(self, pixels: Tensor, levels: int, index: Tensor, generator: torch.Generator) -> Tensor:
        return fused_ops.binarize(pixels, levels - 1, generator)


@dataclass(frozen=True)
class FixedBinarization(Preprocessing):
    """x ~ Bernoulli(v / (levels - 1)), drawn once for every image: static binarization.

    Used by Salakhutdinov & Murray (2008), and by Larochelle & Murray (2011) in a file of their own draws, which are
    not repeated here. The draw of pixel j of image i is a function of (seed, i, j) alone.

    Args:
        seed: Seed of the draws. Models are comparable only under the same seed.
    """

    binary = True
    seed: int = 0

    def __call__(self, pixels: Tensor, levels: int, index: Tensor, generator: torch.Generator) -> Tensor:
        size = pixels[0].numel()
        counters = index[:, None] * size + torch.arange(size, device=pixels.device)
        draw = fused_ops.fused(hashed) if fused_ops.fuses(pixels) else hashed
        return (draw(keyed(self.seed, counters)).view(pixels.shape) < _gray(pixels, levels)).to(torch.float32)


@dataclass(frozen=True)
class Threshold(Preprocessing):
    """x = 1 if v / (levels - 1) > threshold, else 0.

    Args:
        threshold: In [0, 1). With 0, every pixel that is not black is 1.
    """

    binary = True
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"Threshold(threshold={self.threshold}): expected 0 <= threshold < 1")

    def __call__(self, pixels: Tensor, levels: int, index: Tensor, generator: torch.Generator) -> Tensor:
        return (_gray(pixels, levels) > self.threshold).to(torch.float32)


def _gray(pixels: Tensor, levels: int) -> Tensor:
    """v / (levels - 1)."""
    return pixels.to(torch.float32) / (levels - 1)
