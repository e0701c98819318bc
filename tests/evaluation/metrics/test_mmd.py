"""The kernel two-sample statistic against a double loop and the closed form for normal laws."""

import itertools
import math

import pytest
import torch
from support.oracles import assert_means
from torch import Tensor

from ebm_lightning.evaluation.metrics import MaximumMeanDiscrepancy
from ebm_lightning.evaluation.metrics.mmd import median_bandwidth, mmd2


def _by_double_loop(x: Tensor, y: Tensor, bandwidth: float) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * bandwidth**2))

    within_x = [kernel(a, b) for a, b in itertools.permutations(x, 2)]
    within_y = [kernel(a, b) for a, b in itertools.permutations(y, 2)]
    between = [kernel(a, b) for a, b in itertools.product(x, y)]
    return sum(within_x) / len(within_x) + sum(within_y) / len(within_y) - 2 * sum(between) / len(between)


def test_mmd2_is_the_double_loop() -> None:
    """Images of 2 by 3 numbers, samples of different size."""
    x, y = torch.randn(9, 2, 3, dtype=torch.float64), 1 + 2 * torch.randn(13, 2, 3, dtype=torch.float64)
    assert float(mmd2(x, y, 1.3)) == pytest.approx(_by_double_loop(x, y, 1.3), rel=1e-10)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_mmd2_is_unbiased(shift: float) -> None:
    """Between N(0, 1) and N(d, 1): 2 s / sqrt(s^2 + 2) (1 - exp(-d^2 / (2 (s^2 + 2)))), so 0 where they are equal."""
    s = 0.8
    draws = torch.stack([mmd2(torch.randn(12, 1), shift + torch.randn(20, 1), s) for _ in range(2000)])
    expected = 2 * s / math.sqrt(s**2 + 2) * (1 - math.exp(-(shift**2) / (2 * (s**2 + 2))))
    assert_means(draws[:, None], torch.tensor([expected]))


def test_MaximumMeanDiscrepancy_gathers_batches_of_any_size_and_forgets_on_reset() -> None:
    x, y = torch.randn(10, 3), torch.randn(7, 3)
    metric = MaximumMeanDiscrepancy(1.5)
    metric.update(x[:4], y[:1])
    metric.update(x[4:], y[1:])
    assert torch.allclose(metric.compute(), mmd2(x, y, 1.5))
    metric.reset()
    metric.update(x[:5], x[5:])
    assert torch.allclose(metric.compute(), mmd2(x[:5], x[5:], 1.5))


def test_the_median_bandwidth_is_the_median_of_all_pairs() -> None:
    """0, 1 and 10 lie 1, 9 and 10 apart."""
    assert median_bandwidth(torch.tensor([[0.0], [1.0], [10.0]])) == 9
    x = torch.randn(11, 2, 2, dtype=torch.float64)
    distances = sorted(float((a - b).norm()) for a, b in itertools.combinations(x, 2))
    assert float(median_bandwidth(x)) == pytest.approx(distances[27])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MaximumMeanDiscrepancy(0.0), r"MaximumMeanDiscrepancy\(bandwidth=0.0\)"),
        (lambda: mmd2(torch.zeros(1, 2), torch.zeros(5, 2), 1.0), "at least two examples in each sample, but got 1"),
        (lambda: mmd2(torch.zeros(5, 2), torch.zeros(5, 3), 1.0), "got 2 and 3 numbers each"),
        (lambda: median_bandwidth(torch.zeros(1, 2)), "at least two examples"),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
