"""Toy2D: distributions in the plane, whose energies can be plotted."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule, Loading, Subset
from ebm_lightning.data.sources import InMemory
from ebm_lightning.utils.random import mix

Points = tuple[Tensor, Tensor | None]
"""Points (N, 2), and the part (N,) of each if the distribution has parts."""


class Toy2D(DataModule):
    """Points (2,) of a distribution in the plane, centered and divided by one scale.

    The scale is the training sample's root mean square over both coordinates, so that angles are kept. ``y`` is the
    part a point belongs to: 2 moons, 2 circles, 8 Gaussians, 5 arms of the pinwheel. The swiss roll and the
    checkerboard have no parts. The formulas are those customary since FFJORD (Grathwohl et al. 2019).

    Args:
        name: Name of the distribution.
        batch_size: Examples per batch and rank.
        samples: Points for training and validation together.
        test_size: Points for test.
        val_size: Examples of the training set to hold out for validation: a number, or a share below 1.
        loading: Seeds, limits and device cache.

    Raises:
        ValueError: If the name is unknown or a number is out of range.
    """

    def __init__(
        self,
        name: Literal["moons", "circles", "swiss_roll", "eight_gaussians", "checkerboard", "pinwheel"],
        *,
        batch_size: int = 128,
        samples: int = 10_000,
        test_size: int = 2_000,
        val_size: int | float = 0.1,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, val_size=val_size, loading=loading)
        if name not in _DISTRIBUTIONS:
            raise ValueError(f"Toy2D(name={name!r}): expected one of {', '.join(_DISTRIBUTIONS)}")
        if samples < 2 or test_size < 1:
            raise ValueError(f"Toy2D(samples={samples}, test_size={test_size}): expected samples >= 2, test_size >= 1")
        self.name, self.samples, self.test_size = name, samples, test_size
        self._draw, self.classes = _DISTRIBUTIONS[name]

    @property
    def shape(self) -> tuple[int]:
        return (2,)

    def load(self) -> tuple[Subset, Subset]:
        generator = torch.Generator().manual_seed(mix(self.loading.split_seed, 1))
        x, parts = self._draw(self.samples + self.test_size, generator)
        train = x[: self.samples]
        center = train.mean(0)
        x = (x - center) / (train - center).square().mean().sqrt()
        tensors: State = {"x": x} if parts is None else {"x": x, "y": parts}
        rows = torch.arange(len(x))
        source = InMemory(tensors)
        return Subset(source, rows[: self.samples]), Subset(source, rows[self.samples :])


def _seed(generator: torch.Generator) -> int:
    """A seed for scikit-learn, which takes 32 bits."""
    return int(torch.randint(2**32, (), generator=generator))


def _moons(n: int, generator: torch.Generator) -> Points:
    from sklearn.datasets import make_moons

    x, y = make_moons(n, noise=0.1, random_state=_seed(generator))
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def _circles(n: int, generator: torch.Generator) -> Points:
    from sklearn.datasets import make_circles

    x, y = make_circles(n, noise=0.08, factor=0.5, random_state=_seed(generator))
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def _swiss_roll(n: int, generator: torch.Generator) -> Points:
    from sklearn.datasets import make_swiss_roll

    x, _ = make_swiss_roll(n, noise=1.0, random_state=_seed(generator))
    return torch.from_numpy(x[:, [0, 2]]).float(), None


def _eight_gaussians(n: int, generator: torch.Generator) -> Points:
    """N(m_k, 0.5^2 I) with m_k on a circle of radius 4."""
    part = torch.randint(8, (n,), generator=generator)
    angle = part * (math.pi / 4)
    centers = 4 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return centers + 0.5 * torch.randn(n, 2, generator=generator), part


def _checkerboard(n: int, generator: torch.Generator) -> Points:
    """Uniform on the eight unit squares of [-2, 2)^2 in which floor(x1) + floor(x2) is even."""
    square = torch.randint(8, (n,), generator=generator)
    column, pair = square % 4 - 2, square // 4
    row = 2 * pair - 2 + column.remainder(2)
    return torch.stack([column, row], dim=1) + torch.rand(n, 2, generator=generator), None


def _pinwheel(n: int, generator: torch.Generator) -> Points:
    """Five arms: (1 + 0.3 e1, 0.1 e2), turned by 2 pi k / 5 + exp(first coordinate) / 4 (Johnson et al. 2016)."""
    part = torch.randint(5, (n,), generator=generator)
    e = torch.randn(n, 2, generator=generator)
    along, across = 1 + 0.3 * e[:, 0], 0.1 * e[:, 1]
    angle = part * (2 * math.pi / 5) + along.exp() / 4
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([along * cos - across * sin, along * sin + across * cos], dim=1), part


_DISTRIBUTIONS: dict[str, tuple[Callable[[int, torch.Generator], Points], int | None]] = {
    "moons": (_moons, 2),
    "circles": (_circles, 2),
    "swiss_roll": (_swiss_roll, None),
    "eight_gaussians": (_eight_gaussians, 8),
    "checkerboard": (_checkerboard, None),
    "pinwheel": (_pinwheel, 5),
}
