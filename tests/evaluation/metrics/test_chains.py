"""R-hat and ESS on chains whose autocorrelation is known."""

import math
import statistics

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM
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
    """With means a standard deviation s apart it tends to sqrt(1 + s^2)."""
    x = _ar1(0.5, 2000, 200)
    assert split_r_hat(x) < 1.01
    apart = torch.cat([x - 1, x + 1], 1)
    assert split_r_hat(apart) == pytest.approx(math.sqrt(2), abs=0.02)
    assert split_r_hat(x + torch.linspace(-3, 3, 2000)[:, None]) > 1.1
    assert chain_ess(apart) < chain_ess(x) / 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: split_r_hat(torch.zeros(3, 2)), r"at least 4 steps, got \(3, 2\)"),
        (lambda: chain_ess(torch.zeros(8)), r"expected draws \(steps, chains\)"),
    ],
)
def test_chain_ess_and_split_r_hat_refuse_in_words_what_cannot_work(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
