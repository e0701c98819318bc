"""Augmentations against padding, slicing and flipping by hand."""

from collections.abc import Callable

import pytest
import torch
from support.batches import generator
from support.oracles import Z
from torch.nn import functional as F

from ebm_lightning.data import HorizontalFlip, ReflectPadCrop


def test_ReflectPadCrop_is_pad_and_slice() -> None:
    images = torch.randint(256, (300, 3, 7, 9), dtype=torch.uint8)
    for padding in (1, 4, 6):
        cropped = ReflectPadCrop(padding)(images, generator(1))
        rows, columns = torch.randint(2 * padding + 1, (2, 300), generator=generator(1)).tolist()
        padded = F.pad(images.float(), (padding,) * 4, mode="reflect").to(torch.uint8)
        for k, (row, column) in enumerate(zip(rows, columns, strict=True)):
            assert torch.equal(cropped[k], padded[k, :, row : row + 7, column : column + 9])
    assert rows != columns
    assert {0, 12} <= set(rows)
    with pytest.raises(ValueError, match="larger than its padding"):
        ReflectPadCrop(7)(images, generator())


def test_HorizontalFlip_mirrors_with_its_probability() -> None:
    images = torch.randint(256, (4000, 1, 2, 5), dtype=torch.uint8)
    changed = HorizontalFlip(0.3)(images, generator())
    mirrored = (changed == images.flip(-1)).flatten(1).all(1)
    untouched = (changed == images).flatten(1).all(1)
    assert bool((mirrored | untouched).all())
    # An image that equals its mirror has probability 2^-32 and does not matter.
    assert abs(float(mirrored.double().mean()) - 0.3) < Z * (0.3 * 0.7 / 4000) ** 0.5
    assert torch.equal(HorizontalFlip(1.0)(images, generator()), images.flip(-1))
    assert torch.equal(HorizontalFlip(0.0)(images, generator()), images)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ReflectPadCrop(0), "1 or more pixels"),
        (lambda: HorizontalFlip(1.5), r"in \[0, 1\]"),
    ],
)
def test_augmentation_refuses_what_cannot_work(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
