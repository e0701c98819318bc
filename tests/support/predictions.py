"""Predictions whose descent is known, for the tests of what measures them."""

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.data import Loading
from ebm_lightning.data.base import DataModule, Subset
from ebm_lightning.data.sources import InMemory
from support.oracles import Examples


class Pairs(Examples):
    """Given test examples {"x", "target"}, in batches of 7."""

    def __init__(self, x: Tensor, target: Tensor, bounds: tuple[float, float] | None = None) -> None:
        super().__init__(x, bounds=bounds)
        self.rows, self.batch_size = {"x": x, "target": target}, 7

    def prepare(self, batch: State, generator: torch.Generator, train: bool) -> State:
        return {name: batch[name] for name in ("x", "target")}


def random_tokens() -> Pairs:
    """Twenty texts of six tokens out of five, with independent targets."""
    return Pairs(torch.randint(0, 5, (20, 6)), torch.randint(0, 5, (20, 6)))


class TowardsHalf(EnergyModel):
    """E(y) = |y|^2 / 4: a step of size 1 halves y."""

    def forward(self, y: Tensor) -> Tensor:
        return y.square().flatten(1).sum(1) / 4

    def positive_phase(self, batch: State) -> State:
        return {"y": batch["x"], **batch}


class Cycle(DataModule):
    """Windows of a text that runs through its tokens in turn."""

    def __init__(self, vocabulary: int = 4, positions: int = 6) -> None:
        super().__init__(8, val_size=16, loading=Loading())
        self.vocabulary, self.positions = vocabulary, positions

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.positions,)

    def load(self) -> tuple[Subset, Subset]:
        tokens = (torch.arange(64)[:, None] + torch.arange(self.positions + 1)) % self.vocabulary
        rows = InMemory({"x": tokens[:, :-1], "target": tokens[:, 1:]})
        return Subset(rows, torch.arange(48)), Subset(rows, torch.arange(48, 64))

    def prepare(self, batch: State, generator: torch.Generator, train: bool) -> State:
        return {name: batch[name] for name in ("x", "target")}
