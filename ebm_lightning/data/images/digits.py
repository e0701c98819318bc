"""Handwritten digits of 8 x 8 pixels from scikit-learn: real data without a download."""

import torch

from ebm_lightning.data.base import Subset
from ebm_lightning.data.images.base import ImageModule
from ebm_lightning.data.sources import InMemory

_TEST = 297


class Digits(ImageModule):
    """1797 digits (1, 8, 8) of 17 gray levels in 10 classes: 1500 for training and validation, 297 for test.

    The test set is always the same 297. From Alpaydin & Kaynak (1998), the UCI optical recognition test set.
    """

    classes = 10
    levels = 17

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, 8, 8)

    def load(self) -> tuple[Subset, Subset]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
        source = InMemory({"x": images, "y": torch.from_numpy(digits.target).to(torch.int64)})
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
        return Subset(source, order[_TEST:]), Subset(source, order[:_TEST])
