"""Squares: images of one square, whose attributes are known, for the composition of energies."""

from typing import Literal

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule, Loading, Subset
from ebm_lightning.data.sources import InMemory

_FILLED = 0.8
"""The least share of its bounding box that a square fills."""


class Squares(DataModule):
    """Images (1, side, side) of one filled square, 1 on -1, every position equally likely, with Gaussian noise.

    Its attributes are the halves in which its center lies: "left" or else right, "top" or else bottom. ``only`` keeps
    those that have an attribute, with either value of the other, so that runs of different attributes can be composed
    (Du, Li & Mordatch 2020). The training set is the list of positions repeated up to ``samples``, the test set
    has every position once; validation has the same positions as training, with other noise.

    Args:
        side: Pixels per side of an image.
        square: Pixels per side of the square, at least 2.
        only: The attributes that every square has; empty for all squares.
        batch_size: Examples per batch and rank.
        noise: Standard deviation of the noise of every pixel, in training and evaluation; it is not clipped.
        samples: Examples for training and validation together; at least the number of positions.
        val_size: Examples of the training set to hold out for validation: a number, or a share below 1.
        loading: Seeds, limits and device cache.

    Raises:
        ValueError: If a number is out of range.
    """

    bounds = (-1.0, 1.0)
    binary = False

    def __init__(
        self,
        side: int = 16,
        square: int = 5,
        *,
        only: tuple[Literal["left", "top"], ...] = (),
        batch_size: int = 128,
        noise: float = 0.0,
        samples: int = 3_000,
        val_size: int | float = 0,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, val_size=val_size, loading=loading)
        if not 2 <= square < side:
            raise ValueError(f"Squares(side={side}, square={square}): expected 2 <= square < side")
        positions = (side - square + 1) ** 2
        if samples < positions or noise < 0:
            raise ValueError(
                f"Squares(samples={samples}, noise={noise}): a square has {positions} positions, expected at least as "
                "many samples, and noise >= 0"
            )
        self.side, self.square, self.only, self.noise, self.samples = side, square, only, noise, samples

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, self.side, self.side)

    def load(self) -> tuple[Subset, Subset]:
        images = self._images()
        attributes, kept = self.attributes(images), torch.ones(len(images), dtype=torch.bool)
        for name in self.only:
            kept &= attributes[name]
        source = InMemory({"x": images[kept]})
        return Subset(source, torch.arange(self.samples) % len(source)), Subset(source, torch.arange(len(source)))

    def prepare(self, batch: State, generator: torch.Generator, train: bool) -> State:
        x = batch["x"]
        return {"x": x + self.noise * torch.randn(x.shape, generator=generator, device=x.device)}

    def attributes(self, x: Tensor) -> dict[str, Tensor]:
        """Whether images show one square and nothing else ("valid"), and whether its centroid is "left" and "top".

        The square is the set of pixels above 0, the middle of the bounds. An image is valid if the smallest box
        around all of them has sides that differ from the square's by at most 1 pixel, and they fill at least 80 percent
        of it.
        """
        on = x[:, 0] > 0
        rows, columns = on.any(2), on.any(1)
        height, width = _extent(rows), _extent(columns)
        right_size = ((height - self.square).abs() <= 1) & ((width - self.square).abs() <= 1)
        from_middle = torch.arange(self.side, device=x.device) - (self.side - 1) / 2
        return {
            "valid": right_size & (on.sum((1, 2)) >= _FILLED * height * width),
            "left": on.sum(1).float() @ from_middle < 0,
            "top": on.sum(2).float() @ from_middle < 0,
        }

    def _images(self) -> Tensor:
        """Every position once, float32 (positions, 1, side, side), from the top left corner row by row."""
        first = torch.arange(self.side - self.square + 1)[:, None]
        pixel = torch.arange(self.side)
        covered = (pixel >= first) & (pixel < first + self.square)
        squares = covered[:, None, :, None] & covered[None, :, None, :]
        return 2 * squares.flatten(0, 1)[:, None].float() - 1


def _extent(on: Tensor) -> Tensor:
    """Pixels from the first to the last that is on, of (N, pixels): (N,); all pixels if none is on."""
    first, after = on.int().argmax(1), on.flip(1).int().argmax(1)
    return on.shape[1] - first - after
