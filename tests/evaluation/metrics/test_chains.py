"""R-hat and ESS on chains whose autocorrelation is known."""

import math
import statistics

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, Z
from torch import Tensor

from ebm_lightning.evaluation.metrics import chain_ess, split_r_hat


def _ar1(rho: float, steps: int, chains: int) -> Tensor:
    """Stationary chains x_t = rho x_t-1 + noise of variance 1."""
    x = torch.empty(steps, chains, dtype=torch.float64)
    x[0] = torch.randn(chains, dtype=torch.float64)
    noise = math.sqrt(1 - rho**2) * torch.randn(steps, chains, dtype=torch.float64)
    for t in range(1, steps):
        x[t] = rho * x[t - 1] + noise[t]
    return x


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_chain_ess_of_autoregressive_chains(rho: float) -> None:
    """N / T with T = (1 + rho) / (1 - rho).

    Of a sum over M lags the relative variance of T is 2 (2 M + 1) / N (Madras & Sokal 1988). Pairs are summed until
    their noise, about 1 / sqrt(N), makes one negative: where rho^M is about that, and somewhat beyond.
    """
    steps, chains = 1000, 1000
    total, time = steps * chains, (1 + rho) / (1 - rho)
    lags = 2 + (math.log(total) / -math.log(abs(rho)) if rho else 0)
    error = math.sqrt(2 * (2 * lags + 1) / total) * max(time, 1)
    found = total / chain_ess(_ar1(rho, steps, chains))
    assert abs(found - time) < stats.norm.isf(FALSE_ALARM / 2) * error


def test_chain_ess_of_a_single_short_chain_has_the_sums_of_a_double_loop() -> None:
    draws = _ar1(0.8, 60, 1)
    halves = [draws[:30, 0].tolist(), draws[30:, 0].tolist()]
    means = [statistics.mean(half) for half in halves]
    apart = statistics.variance(means)

    def covariance(t: int) -> float:
        each = [
            sum((half[i] - mean) * (half[i + t] - mean) for i in range(30 - t)) / (30 - t)
            for half, mean in zip(halves, means, strict=True)
        ]
        return statistics.mean(each) + apart

    time, lowest = -1.0, math.inf
    for t in range(0, 30, 2):
        pair = (covariance(t) + covariance(t + 1)) / covariance(0)
        if pair <= 0:
            break
        lowest = min(lowest, pair)
        time += 2 * lowest
    assert chain_ess(draws) == pytest.approx(60 / time, rel=1e-10)


def _r_hat_by_hand(draws: Tensor) -> float:
    n = len(draws) // 2
    halves = [part for chain in draws.T.tolist() for part in (chain[:n], chain[-n:])]
    within = statistics.mean(map(statistics.variance, halves))
    between = n * statistics.variance(map(statistics.mean, halves))
    return math.sqrt(((n - 1) / n * within + between / n) / within)


@pytest.mark.parametrize(("steps", "chains"), [(20, 3), (21, 1), (4, 2)])
def test_split_r_hat_is_its_formula_written_out(steps: int, chains: int) -> None:
    draws = torch.randn(steps, chains, dtype=torch.float64) + torch.arange(chains)
    assert split_r_hat(draws) == pytest.approx(_r_hat_by_hand(draws), rel=1e-12)


def test_split_r_hat_sees_chains_apart_and_chains_that_move_and_is_one_where_neither_is() -> None:
    """R^2 = (n - 1) / n + b / w with b the variance of the means of k halves, w that within a half of n steps.

    A half's mean has the variance T / n with T = 3; where they differ by nothing else, b n / (w T) has the law F. With
    true means a and -a, b gains a^2 k / (k - 1); a slope of 3 over a half gives means 1.5 and -1.5, and 3^2 / 12 to w.
    The error of b is then 2 a sqrt(T / (n k)), that of w its variance of squares, (1 + rho^2) / (1 - rho^2) = 5 / 3.
    """
    x, n, time = _ar1(0.5, 2000, 200), 1000, 3
    assert split_r_hat(x) < math.sqrt(1 + (time * stats.f.isf(FALSE_ALARM, 399, 400 * (n - 1) / time) - 1) / n)
    apart, slope = torch.cat([x - 1, x + 1], 1), torch.linspace(-3, 3, 2000, dtype=torch.float64)[:, None]
    for draws, a, w in ((apart, 1.0, 1.0), (x + slope, 1.5, 1.75)):
        k = 2 * draws.shape[1]
        b = a**2 * k / (k - 1) + time / n
        error = math.hypot(
            2 * a * math.sqrt(time / (n * k)) / w, b / w**2 * math.sqrt((2 * 5 / 3 + 4 * time * (w - 1)) / (n * k))
        )
        assert abs(split_r_hat(draws) ** 2 - (n - 1) / n - b / w) < Z * error + (time / n) ** 2 + time / n * (w - 1)
    assert chain_ess(apart) < chain_ess(x) / 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: split_r_hat(torch.zeros(3, 2)), r"at least 4 steps, got \(3, 2\)"),
        (lambda: chain_ess(torch.zeros(8)), r"expected draws \(steps, chains\)"),
    ],
)
def test_chain_ess_and_split_r_hat_refuse_what_cannot_work_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
