"""What several tests of data share: preparations of batches, and images with all that is random."""

import torch

from ebm_lightning.core import State
from ebm_lightning.data import Dequantized, Digits, HorizontalFlip, Loading, ReflectPadCrop


def noisy(batch: State, g: torch.Generator) -> State:
    return {"data.index": batch["data.index"], "noise": torch.rand(len(batch["data.index"]), generator=g)}


def generator(seed: int = 0) -> torch.Generator:
    """A generator of its own for what is random in an augmentation or a preprocessing."""
    return torch.Generator().manual_seed(seed)


def decode_number(number: int) -> State:
    return {"x": torch.tensor(float(number)), "y": torch.tensor(number % 3)}


def augmented_digits(**options: int | float) -> Digits:
    return Digits(
        64,
        pixels=Dequantized(),
        augmentations=[ReflectPadCrop(2), HorizontalFlip()],
        bounds=(-1.0, 1.0),
        noise=0.1,
        loading=Loading(seed=3),
        **options,
    )
