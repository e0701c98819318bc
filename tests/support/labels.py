"""Given examples with labels that protocols are measured on."""

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.data import Loading
from ebm_lightning.data.base import DataModule, Subset
from ebm_lightning.data.sources import InMemory


class Labels(DataModule):
    """Given examples with labels, the same law for training and test."""

    def __init__(self, x: Tensor, y: Tensor | None, classes: int | None = 2) -> None:
        super().__init__(1000, val_size=0, loading=Loading(seed=0))
        self.rows: State = {"x": x} if y is None else {"x": x, "y": y}
        self.classes = classes

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows["x"].shape[1:])

    def load(self) -> tuple[Subset, Subset]:
        source = InMemory(self.rows)
        half = torch.arange(len(source)) < len(source) // 2
        return Subset(source, half.nonzero().flatten()), Subset(source, (~half).nonzero().flatten())


NO_LABELS = Labels(torch.zeros(8, 1), None, classes=None)
