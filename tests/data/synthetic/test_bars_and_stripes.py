"""BarsAndStripes against the enumeration of all images."""

from collections.abc import Callable

import pytest
import torch

from ebm_lightning.data import BarsAndStripes


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_BarsAndStripes_are_every_pattern_once(side: int) -> None:
    data = BarsAndStripes(side, samples=(2 ** (side + 1) - 2) * 100)
    states, probabilities = data.true_distribution()
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * side**2).view(-1, 1, side, side)
    alike = [(images == images.roll(1, axis)).flatten(1).all(1) for axis in (2, 3)]
    expected = images[alike[0] | alike[1]]
    assert len(states) == 2 ** (side + 1) - 2
    assert torch.equal(states.flatten(1).unique(dim=0), expected.flatten(1).unique(dim=0))
    assert torch.equal(probabilities, torch.full((len(states),), 1 / len(states), dtype=torch.float64))
    _, counts = data.tensors("train")["x"].flatten(1).unique(dim=0, return_counts=True)
    assert counts.tolist() == [100] * len(states)
    assert torch.equal(data.tensors("test")["x"], states)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BarsAndStripes(0), "side=0"),
        (lambda: BarsAndStripes(4, samples=29), "30 patterns"),
    ],
)
def test_BarsAndStripes_refuses_what_cannot_work(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
