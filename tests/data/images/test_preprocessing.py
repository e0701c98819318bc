"""Preprocessing of pixels against its mean and variance, and fixed against dynamic binarization."""

import itertools
from collections.abc import Callable

import pytest
import torch
from support.batches import generator
from support.oracles import Z
from torch import Tensor

from ebm_lightning.data import (
    Dequantized,
    Digits,
    DynamicBinarization,
    FixedBinarization,
    Gray,
    HorizontalFlip,
    Loading,
    Preprocessing,
    Threshold,
)


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
def test_Preprocessing_has_its_mean_and_variance(
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


def test_FixedBinarization_draws_an_image_once_and_DynamicBinarization_again() -> None:
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


def test_FixedBinarization_draws_neighboring_images_independently() -> None:
    grays = torch.full((400, 1, 10, 10), 8, dtype=torch.uint8)
    x = FixedBinarization()(grays, 17, torch.arange(400), generator()).flatten(1)
    for shift in range(3):
        agreement = (x[1:, : 100 - shift] == x[:-1, shift:]).double()
        assert abs(float(agreement.mean()) - 0.5) < Z * 0.5 / agreement.numel() ** 0.5


def test_FixedBinarization_is_the_same_in_training_and_evaluation() -> None:
    data = Digits(75, pixels=FixedBinarization(4), val_size=0, loading=Loading(seed=1))
    shown = torch.cat([batch["x"] for batch in itertools.islice(data.train_stream(20), 20)]).flatten(1)
    kept = data.tensors("train")["x"].flatten(1)
    assert torch.equal(shown.unique(dim=0), kept.unique(dim=0))
    assert not torch.equal(kept, Digits(75, pixels=FixedBinarization(5), val_size=0).tensors("train")["x"].flatten(1))


def test_FixedBinarization_refuses_augmentation() -> None:
    with pytest.raises(ValueError, match="leave out the augmentations"):
        Digits(pixels=FixedBinarization(), augmentations=[HorizontalFlip()])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Threshold(1.0), "threshold < 1"),
    ],
)
def test_Threshold_refuses_what_cannot_work(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
