"""Bars: distributions over binary images that are known exactly."""

import torch
from torch import Tensor

from ebm_lightning.data.base import DataModule, Loading, Subset
from ebm_lightning.data.sources import InMemory
from ebm_lightning.utils.random import mix

_LARGEST = 12


class BarsAndStripes(DataModule):
    """Binary images (1, side, side) whose rows are all equal or whose columns are, each pattern equally likely.

    There are 2^(side + 1) - 2 distinct patterns: every choice of columns, every choice of rows, and the two uniform
    images, which are both, only once. After MacKay (2003), Information Theory, section 43.2. The training set is the
    list of patterns repeated up to ``samples``, exactly uniform if that is a multiple of their number; the test
    set has every pattern once.

    Args:
        side: Pixels per side, 1..12.
        batch_size: Examples per batch and rank.
        samples: Examples for training and validation together; at least the number of patterns.
        val_size: Examples of the training set to hold out for validation: a number, or a share below 1.
        loading: Seeds, limits and device cache.

    Raises:
        ValueError: If a number is out of range.
    """

    bounds = (0.0, 1.0)
    preprocessing = "binary"
    binary = True

    def __init__(
        self,
        side: int = 4,
        *,
        batch_size: int = 128,
        samples: int = 3_000,
        val_size: int | float = 0,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, val_size=val_size, loading=loading)
        if not 1 <= side <= _LARGEST:
            raise ValueError(f"BarsAndStripes(side={side}): expected 1..{_LARGEST} pixels")
        patterns = 2 ** (side + 1) - 2
        if samples < patterns:
            raise ValueError(f"BarsAndStripes(samples={samples}): side {side} has {patterns} patterns, expected more")
        self.side, self.samples = side, samples

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, self.side, self.side)

    def true_distribution(self) -> tuple[Tensor, Tensor]:
        """The distinct patterns, float32 (P, 1, side, side), and their probabilities 1/P, float64 (P,)."""
        columns, rows, _ = _images(self.side)
        patterns = torch.cat([columns, rows[1:-1]])
        return patterns, torch.full((len(patterns),), 1 / len(patterns), dtype=torch.float64)

    def load(self) -> tuple[Subset, Subset]:
        source = InMemory({"x": self.true_distribution()[0]})
        return Subset(source, torch.arange(self.samples) % len(source)), Subset(source, torch.arange(len(source)))


class Bars(DataModule):
    """Binary images (1, side, side) of vertical or of horizontal bars, each on independently, as for wake-sleep.

    The orientation is drawn first, then which of its ``side`` bars are on, independently. With 4 bars, vertical with
    2/3 and on with 0.2, the entropy is 3.428 bits. Hinton, Dayan, Frey & Neal (1995), figure 2. The training set is
    ``samples`` independent draws by ``loading.split_seed``; the test set has every pattern once, so its means are not
    those of the distribution.

    Args:
        side: Pixels per side and bars of each orientation, 1..12.
        batch_size: Examples per batch and rank.
        vertical: Probability of the vertical orientation, in [0, 1].
        on: Probability that a bar of the orientation is on, in (0, 1).
        samples: Examples for training and validation together.
        val_size: Examples of the training set to hold out for validation: a number, or a share below 1.
        loading: Seeds, limits and device cache.

    Raises:
        ValueError: If a number is out of range.
    """

    bounds = (0.0, 1.0)
    preprocessing = "binary"
    binary = True

    def __init__(
        self,
        side: int = 4,
        *,
        batch_size: int = 128,
        vertical: float = 2 / 3,
        on: float = 0.2,
        samples: int = 200_000,
        val_size: int | float = 0,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, val_size=val_size, loading=loading)
        if not 1 <= side <= _LARGEST or samples < 1:
            raise ValueError(
                f"Bars(side={side}, samples={samples}): expected 1..{_LARGEST} pixels and a sample or more"
            )
        if not (0 <= vertical <= 1 and 0 < on < 1):
            raise ValueError(f"Bars(vertical={vertical}, on={on}): expected vertical in [0, 1] and on in (0, 1)")
        self.side, self.samples, self.vertical, self.on = side, samples, vertical, on

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, self.side, self.side)

    def true_distribution(self) -> tuple[Tensor, Tensor]:
        """The 2^(side + 1) - 2 distinct patterns, float32 (P, 1, side, side), and their probabilities, float64 (P,)."""
        columns, rows, bars = _images(self.side)
        p = self.on**bars * (1 - self.on) ** (self.side - bars)
        vertical, horizontal = self.vertical * p, (1 - self.vertical) * p
        vertical[[0, -1]] += horizontal[[0, -1]]  # no bars and all bars are the same image in both orientations
        return torch.cat([columns, rows[1:-1]]), torch.cat([vertical, horizontal[1:-1]])

    def load(self) -> tuple[Subset, Subset]:
        patterns, probabilities = self.true_distribution()
        source, generator = InMemory({"x": patterns}), torch.Generator().manual_seed(mix(self.loading.split_seed))
        drawn = torch.multinomial(probabilities, self.samples, replacement=True, generator=generator)
        return Subset(source, drawn), Subset(source, torch.arange(len(source)))


def _images(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """All images of columns, and in the same order of rows, float32 (2^side, 1, side, side); the bars on, float64.

    The first has no bar and the last one all.
    """
    choices = torch.arange(2**side)[:, None] >> torch.arange(side) & 1
    columns = choices[:, None, None, :].expand(-1, 1, side, side).to(torch.float32)
    return columns, columns.transpose(2, 3), choices.sum(1).double()
