"""Bars and stripes: a distribution over binary images that is known exactly."""

import torch
from torch import Tensor

from ebm_lightning.data.base import DataModule, Subset
from ebm_lightning.data.sources import InMemory

_LARGEST = 12


class BarsAndStripes(DataModule):
    """Binary images (1, side, side) whose rows are all alike or whose columns are, each pattern equally likely.

    There are 2^(side + 1) - 2 distinct patterns: every choice of columns, every choice of rows, and the two uniform
    images, which are both, only once. After MacKay (2003), Information Theory, section 43.2. The training set is the
    list of patterns repeated up to ``samples``, exactly uniform where that is a multiple of their number; the test
    set has every pattern once.

    Args:
        side: Pixels per side, 1..12.
        batch_size: Examples per batch and rank.
        samples: Examples for training and validation together; at least the number of patterns.
        valid: How much of the training set to hold out: a number of examples, or a share below 1.
        split_seed: Of the held-out choice.
        seed: Of the training order; None takes the run's (``seed_everything``), or 0.
        memory_gb: In-memory data of up to this size, in 10^9 bytes, are kept on the training device.

    Raises:
        ValueError: Where a number is out of range.
    """

    bounds = (0.0, 1.0)
    convention = "binary"
    binary = True

    def __init__(
        self,
        side: int = 4,
        *,
        batch_size: int = 128,
        samples: int = 3_000,
        valid: int | float = 0,
        split_seed: int = 0,
        seed: int | None = None,
        memory_gb: float = 4.0,
    ) -> None:
        super().__init__(batch_size, valid=valid, split_seed=split_seed, seed=seed, memory_gb=memory_gb)
        if not 1 <= side <= _LARGEST:
            raise ValueError(f"BarsAndStripes(side={side}): expected 1..{_LARGEST} pixels")
        patterns = 2 ** (side + 1) - 2
        if samples < patterns:
            raise ValueError(f"BarsAndStripes(samples={samples}): side {side} has {patterns} patterns, expected more")
        self.side, self.samples = side, samples

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, self.side, self.side)

    def exact(self) -> tuple[Tensor, Tensor]:
        """The distinct patterns, float32 (P, 1, side, side), and their probabilities 1/P, float64 (P,)."""
        n = self.side
        choices = torch.arange(2**n)[:, None] >> torch.arange(n) & 1
        columns = choices[:, None, :].expand(-1, n, n)
        rows = columns.transpose(1, 2)[1:-1]
        patterns = torch.cat([columns, rows]).to(torch.float32).unsqueeze(1)
        return patterns, torch.full((len(patterns),), 1 / len(patterns), dtype=torch.float64)

    def load(self) -> tuple[Subset, Subset]:
        source = InMemory({"x": self.exact()[0]})
        return Subset(source, torch.arange(self.samples) % len(source)), Subset(source, torch.arange(len(source)))
