"""ImageModule: scaling, noise and augmentation, against the images they are made of."""

from collections.abc import Callable

import pytest
import torch
from support.oracles import Z

from ebm_lightning.data import Digits, HorizontalFlip, Images


def test_ImageModule_scales_to_its_bounds_and_then_adds_noise() -> None:
    plain, scaled = Digits(), Digits(bounds=(-1.0, 1.0))
    assert scaled.bounds == (-1.0, 1.0)
    torch.testing.assert_close(scaled.tensors("test")["x"], 2 * plain.tensors("test")["x"] - 1, rtol=0, atol=1e-6)
    noisy_digits = Digits(64, bounds=(-1.0, 1.0), noise=0.2, test_noise=0.03)
    residue = noisy_digits.tensors("test")["x"].double() - scaled.tensors("test")["x"]
    n = residue.numel()
    assert abs(float(residue.mean())) < Z * 0.03 / n**0.5
    assert abs(float(residue.std()) / 0.03 - 1) < Z / (2 * n) ** 0.5
    clean = next(iter(Digits(64, bounds=(-1.0, 1.0)).train_stream(1)))["x"].double()
    residue = next(iter(noisy_digits.train_stream(1)))["x"] - clean
    assert abs(float(residue.std()) / 0.2 - 1) < Z / (2 * residue.numel()) ** 0.5


def test_ImageModule_augments_training_images_only() -> None:
    flipped = Digits(64, augmentations=[HorizontalFlip(1.0)])
    assert torch.equal(next(iter(flipped.train_stream(1)))["x"], next(iter(Digits(64).train_stream(1)))["x"].flip(-1))
    assert torch.equal(flipped.tensors("val")["x"], Digits(64).tensors("val")["x"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Digits(noise=-0.1), "standard deviation"),
        (lambda: Digits(bounds=(1.0, -1.0)), "lower value first"),
        (lambda: Images("imagenet"), "there is no image data set"),
        (lambda: Images("mnist", labels_per_class=0), "labels_per_class=0.*: expected 1 or more, or null"),
    ],
)
def test_ImageModule_refuses_what_cannot_work(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
