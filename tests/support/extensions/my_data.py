"""A data set defined outside the package: points around a circle in the plane."""

import torch

from ebm_lightning.data import Loading
from ebm_lightning.data.base import DataModule, Subset
from ebm_lightning.data.sources import InMemory


class Ring(DataModule):
    """Points (2,) at uniform angles, whose distances from the origin are normal around a radius.

    Args:
        radius: mean distance from the origin.
        width: standard deviation of the distance.
        batch_size: examples per batch and rank.
        samples: points for training and validation together.
        test_size: points for test.
        val_size: examples of the training set to hold out for validation: a number, or a share below 1.
        loading: seeds, limits and device cache; None takes the defaults.
    """

    def __init__(
        self,
        radius: float = 2.0,
        width: float = 0.1,
        *,
        batch_size: int = 64,
        samples: int = 1000,
        test_size: int = 200,
        val_size: int | float = 0.1,
        loading: Loading | None = None,
    ) -> None:
        super().__init__(batch_size, val_size=val_size, loading=loading or Loading())
        self.radius, self.width, self.samples, self.test_size = radius, width, samples, test_size

    @property
    def shape(self) -> tuple[int]:
        return (2,)

    def load(self) -> tuple[Subset, Subset]:
        generator = torch.Generator().manual_seed(self.loading.split_seed)
        n = self.samples + self.test_size
        angle = 2 * torch.pi * torch.rand(n, generator=generator)
        distance = self.radius + self.width * torch.randn(n, generator=generator)
        source = InMemory({"x": torch.stack([distance * angle.cos(), distance * angle.sin()], 1)})
        train, test = torch.arange(n).split([self.samples, self.test_size])
        return Subset(source, train), Subset(source, test)
