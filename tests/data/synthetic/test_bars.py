"""Bars against the story that draws them."""

import math

import pytest
import torch
from support.oracles import assert_counts, bits, index_of

from ebm_lightning.data import Bars

F64 = torch.float64


@pytest.mark.parametrize(("vertical", "on"), [(2 / 3, 0.2), (0.5, 0.7), (1.0, 0.5)])
def test_the_probabilities_of_bars_are_those_of_their_story(vertical: float, on: float) -> None:
    patterns, p = Bars(3, vertical=vertical, on=on).true_distribution()
    assert len(patterns.flatten(1).unique(dim=0)) == len(patterns) == 14
    assert float(p.sum()) == pytest.approx(1)
    expected = torch.zeros(2**9, dtype=F64)
    for is_vertical, share in ((True, vertical), (False, 1 - vertical)):
        for bars in bits(3):
            image = bars.expand(3, 3) if is_vertical else bars[:, None].expand(3, 3)
            chance = share * math.prod(on if bar else 1 - on for bar in bars.tolist())
            expected[index_of(image.reshape(1, 9))] += chance
    torch.testing.assert_close(p, expected[index_of(patterns.flatten(1))])


def test_the_bars_of_the_paper_have_3_428_bits() -> None:
    data = Bars(samples=20_000)
    patterns, p = data.true_distribution()
    assert float(-(p * p.log2()).sum()) == pytest.approx(3.428, abs=5e-4)
    images = data.tensors("train")["x"]
    which = (images.flatten(1)[:, None] == patterns.flatten(1)).all(2).long().argmax(1)
    assert_counts(torch.bincount(which, minlength=30), p)
    assert torch.equal(data.tensors("test")["x"], patterns)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bars(13), "side=13"),
        (lambda: Bars(samples=0), "samples=0"),
        (lambda: Bars(on=1.0), "on=1.0"),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
