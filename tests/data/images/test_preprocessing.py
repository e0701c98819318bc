"""Preprocessing against their means and variances, and augmentations against slices and mirrors."""

import itertools
from collections.abc import Callable

import pytest
import torch
from support.oracles import Z
from torch import Tensor
from torch.nn import functional as F

from ebm_lightning.data import (
    Dequantized,
    Digits,
    DynamicBinarization,
    FixedBinarization,
    Gray,
    HorizontalFlip,
    Preprocessing,
    ReflectPadCrop,
    Threshold,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("preprocessing", "mean", "variance"),
    [
        (Gray(), lambda v: v / 16, lambda v: torch.zeros_like(v)),
        (Dequantized(), lambda v: (v + 0.5) / 17, lambda v: torch.full_like(v, 1 / 12 / 17**2)),
        (DynamicBinarization(), lambda v: v / 16, lambda v: v / 16 * (1 - v / 16)),
        (FixedBinarization(1), lambda v: v / 16, lambda v: v / 16 * (1 - v / 16)),
        (Threshold(0.5), lambda v: (v > 8).double(), lambda v: torch.zeros_like(v)),
        (Threshold(0.0), lambda v: (v > 0).double(), lambda v: torch.zeros_like(v)),
    ],
    ids=lambda value: repr(value) if isinstance(value, Preprocessing) else "",
)
def test_a_pixel_convention_has_its_mean_and_variance(
    preprocessing: Preprocessing, mean: Callable[[Tensor], Tensor], variance: Callable[[Tensor], Tensor]
) -> None:
    n = 20_000
    levels = torch.arange(17, dtype=torch.uint8).expand(n, 1, 1, 17)
    x = preprocessing(levels, 17, torch.arange(n), generator())
    assert x.dtype == torch.float32
    assert x.shape == levels.shape
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    v = torch.arange(17, dtype=torch.float64)
    error = (x.double().flatten(1).mean(0) - mean(v)).abs()
    assert bool((error <= Z * (variance(v) / n).sqrt() + 1e-7).all())
    spread = (x.double().flatten(1).var(0) - variance(v)).abs()
    # For draws in an interval of length 1 (or 1/17) the fourth moment is below the variance times its square.
    width = 1 / 17 if isinstance(preprocessing, Dequantized) else 1.0
    assert bool((spread <= Z * width * (variance(v) / n).sqrt() + 1e-4 * width).all())


def test_fixed_binarization_draws_an_image_once_and_dynamic_again() -> None:
    images = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8)
    index = torch.arange(50) + 7
    g = generator()
    fixed, dynamic = FixedBinarization(1), DynamicBinarization()
    first = fixed(images, 256, index, g)
    order = torch.randperm(50)
    assert torch.equal(fixed(images[order], 256, index[order], g), first[order])
    assert not torch.equal(FixedBinarization(2)(images, 256, index, g), first)
    assert not torch.equal(fixed(images, 256, index + 50, g), first)
    assert not torch.equal(dynamic(images, 256, index, g), dynamic(images, 256, index, g))


def test_fixed_binarization_draws_neighboring_images_independently() -> None:
    grays = torch.full((400, 1, 10, 10), 8, dtype=torch.uint8)
    x = FixedBinarization()(grays, 17, torch.arange(400), generator()).flatten(1)
    for shift in range(3):
        agreement = (x[1:, : 100 - shift] == x[:-1, shift:]).double()
        assert abs(float(agreement.mean()) - 0.5) < Z * 0.5 / agreement.numel() ** 0.5


def test_fixed_binarization_is_the_same_in_training_and_after() -> None:
    data = Digits(75, pixels=FixedBinarization(4), valid=0, seed=1)
    shown = torch.cat([batch["x"] for batch in itertools.islice(data.train_stream(20), 20)]).flatten(1)
    kept = data.tensors("train")["x"].flatten(1)
    assert torch.equal(shown.unique(dim=0), kept.unique(dim=0))
    assert not torch.equal(kept, Digits(75, pixels=FixedBinarization(5), valid=0).tensors("train")["x"].flatten(1))


def test_fixed_binarization_refuses_augmentation() -> None:
    with pytest.raises(ValueError, match="leave out the augmentations"):
        Digits(pixels=FixedBinarization(), augmentations=[HorizontalFlip()])


def test_reflect_pad_crop_is_pad_and_slice() -> None:
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


def test_horizontal_flip_mirrors_with_its_probability() -> None:
    images = torch.randint(256, (4000, 1, 2, 5), dtype=torch.uint8)
    changed = HorizontalFlip(0.3)(images, generator())
    mirrored = (changed == images.flip(-1)).flatten(1).all(1)
    untouched = (changed == images).flatten(1).all(1)
    assert bool((mirrored | untouched).all())
    # An image that equals its mirror has probability 2^-32 and does not matter.
    assert abs(float(mirrored.double().mean()) - 0.3) < Z * (0.3 * 0.7 / 4000) ** 0.5
    assert torch.equal(HorizontalFlip(1.0)(images, generator()), images.flip(-1))
    assert torch.equal(HorizontalFlip(0.0)(images, generator()), images)
