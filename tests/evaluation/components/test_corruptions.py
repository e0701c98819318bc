"""What masks hide, and what noise does to an image."""

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, assert_counts

from ebm_lightning.evaluation import AdditiveGaussianNoise, BottomHalf, RandomPixels, SaltAndPepper


def test_BottomHalf_and_RandomPixels_hide_what_they_say() -> None:
    half = BottomHalf().known(torch.zeros(2, 3, 5, 4))
    assert half[:, :, :2].all()
    assert not half[:, :, 2:].any()
    known = RandomPixels(0.3).known(torch.zeros(200, 3, 10, 10))
    assert torch.equal(known, known[:, :1].expand_as(known))
    assert_counts(known[:, 0].flatten().long().bincount(), torch.tensor([0.3, 0.7]))


def test_SaltAndPepper_replaces_its_shares_of_the_pixels_by_two_values() -> None:
    x = torch.full((200, 3, 10, 10), 0.25)
    made = SaltAndPepper(0.1)(x, (-1.0, 1.0))
    assert torch.equal(made, made[:, :1].expand_as(made))
    counts = torch.stack([(made[:, 0] - value).abs().lt(1e-6).sum() for value in (-0.8, 0.8, 0.25)])
    assert counts.sum() == 200 * 100
    assert_counts(counts, torch.tensor([0.1, 0.1, 0.8]))


def test_AdditiveGaussianNoise_has_its_standard_deviation() -> None:
    made = AdditiveGaussianNoise(0.3)(torch.full((50, 1, 20, 20), 0.9), (0.0, 1.0))
    assert stats.kstest(made.flatten().numpy(), stats.norm(0.9, 0.3).cdf).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomPixels(1.0), "a probability between 0 and 1"),
        (lambda: SaltAndPepper(0.6), r"a share in \(0, 1/2\]"),
        (lambda: AdditiveGaussianNoise(0.0), "expected std > 0"),
    ],
)
def test_RandomPixels_SaltAndPepper_and_AdditiveGaussianNoise_refuse_what_cannot_work(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
