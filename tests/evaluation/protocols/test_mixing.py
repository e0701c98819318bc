"""R-hat and ESS on chains whose autocorrelation is known, and long chains of samplers that mix or do not."""

import math
import statistics
from dataclasses import dataclass

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, Examples, assert_means
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import Conditional, EnergyModel, Info, Sampler, State
from ebm_lightning.distributions import CategoricalConditional, GaussianNoise
from ebm_lightning.energies import Gaussian
from ebm_lightning.evaluation import Mixing, OwnClassifier
from ebm_lightning.evaluation.metrics import chain_ess, split_r_hat
from ebm_lightning.evaluation.protocols.mixing import entropy
from ebm_lightning.objectives import ContrastiveDivergence


def _ar1(rho: float, steps: int, chains: int) -> Tensor:
    """Stationary chains x_t = rho x_t-1 + noise of variance 1."""
    x = torch.empty(steps, chains, dtype=torch.float64)
    x[0] = torch.randn(chains, dtype=torch.float64)
    noise = math.sqrt(1 - rho**2) * torch.randn(steps, chains, dtype=torch.float64)
    for t in range(1, steps):
        x[t] = rho * x[t - 1] + noise[t]
    return x


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_ess_of_autoregressive_chains(rho: float) -> None:
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


def test_of_a_single_short_chain_the_sums_are_those_of_a_double_loop() -> None:
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
def test_r_hat_is_its_formula_written_out(steps: int, chains: int) -> None:
    draws = torch.randn(steps, chains, dtype=torch.float64) + torch.arange(chains)
    assert split_r_hat(draws) == pytest.approx(_r_hat_by_hand(draws), rel=1e-12)


def test_r_hat_sees_chains_apart_and_chains_that_move_and_is_one_where_neither_is() -> None:
    """With means a standard deviation s apart it tends to sqrt(1 + s^2)."""
    x = _ar1(0.5, 2000, 200)
    assert split_r_hat(x) < 1.01
    apart = torch.cat([x - 1, x + 1], 1)
    assert split_r_hat(apart) == pytest.approx(math.sqrt(2), abs=0.02)
    assert split_r_hat(x + torch.linspace(-3, 3, 2000)[:, None]) > 1.1
    assert chain_ess(apart) < chain_ess(x) / 10


@dataclass(frozen=True)
class Exact(Sampler):
    """Draws afresh: a sampler that mixes in one step."""

    free: tuple[str, ...] = ("x",)

    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        return {**state, "x": model.sample(len(state["x"]))}, {"energy": model.energy(state).mean()}


@dataclass(frozen=True)
class Frozen(Sampler):
    """Hardly moves."""

    free: tuple[str, ...] = ("x",)

    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        x = state["x"]
        return {**state, "x": x + 1e-6 * torch.randn_like(x)}, {"energy": model.energy(state).mean()}


LAW = Gaussian([0.0] * 4, [1.0] * 4)


def _measure(sampler: Sampler | None, free_noise: float = 1.0, **settings: object):
    module = EBM(LAW, ContrastiveDivergence(), sampler=sampler, chains=NoiseChains(GaussianNoise(std=free_noise)))
    return Mixing(**settings).measure(module, Examples(LAW.sample(500)))


def test_a_sampler_that_mixes_forgets_its_start_and_has_the_energies_of_the_data() -> None:
    findings = _measure(Exact(), 9.0, num_chains=80, steps=100, points=100)
    found = findings.measurements
    z = stats.norm.isf(FALSE_ALARM / 2)
    assert found["R-hat of the energy"].value < 1.01
    for start in ("data", "noise"):
        gap = found[f"energy from {start} minus data's, sd"]
        assert abs(gap.value) < z * gap.standard_error
        assert not gap.warning
    gone = found["drift from data"]
    assert abs(gone.value - 1) < 2 * z * gone.standard_error, "end and start are as far apart as two examples"
    assert 0.8 < found["ESS of the energy, of 8000"].value / 8000 < 1.25
    assert findings.pictures.keys() == {"energies", "from-data", "from-noise"}


def test_chains_that_stay_where_they_began_are_found_out() -> None:
    """From noise of standard deviation 3 the energy is 9 times that of the data: 8 E / sd = 8 * 2 / sqrt(2) above."""
    found = _measure(Frozen(), 3.0, num_chains=200, steps=64, points=64).measurements
    assert found["R-hat of the energy"].value > 2
    assert "have not mixed in 64 transitions" in found["R-hat of the energy"].warning
    gap = found["energy from noise minus data's, sd"]
    relative = stats.norm.isf(FALSE_ALARM / 2) * (gap.standard_error / gap.value + 1 / math.sqrt(500))
    assert gap.value == pytest.approx(16 / math.sqrt(2), rel=relative)
    assert gap.warning
    assert found["drift from data"].value < 1e-4
    assert found["ESS of the energy, of 12800"].value < 450, "about one for each of the 400 chains"


class Quadrants(Gaussian):
    """A normal law whose classes are the signs of its first two coordinates: 2 x0 > 0, 1 for x1 > 0."""

    def conditional(self, block: str, state: State) -> Conditional:
        x, y = (state["x"][:, i, None] for i in (0, 1))
        return CategoricalConditional(torch.cat([-x - y, -x + y, x - y, x + y], 1))


@dataclass(frozen=True)
class Turned(Sampler):
    """Turns every x whose first coordinate is negative to the other side."""

    free: tuple[str, ...] = ("x",)

    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        x = state["x"].clone()
        x[:, 0] = x[:, 0].abs()
        return {**state, "x": x + 1e-6 * torch.randn_like(x)}, {}


def _modes(sampler: Sampler, x: Tensor, number: int):
    module = EBM(Quadrants([0.0] * 2, [1.0] * 2), ContrastiveDivergence(), sampler=sampler)
    protocol = Mixing(num_chains=number, steps=8, points=8, classifier=OwnClassifier())
    return protocol.measure(module, Examples(x)).measurements


def test_the_classes_at_the_ends_are_counted_and_those_that_changed() -> None:
    """Of 10, 20, 30 and 40 examples in the four quadrants, 30 change sides; noise in [0, 1) is all in the last."""
    corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    x = corners.repeat_interleave(torch.tensor([10, 20, 30, 40]), 0) * (0.5 + torch.rand(100, 1))
    found = _modes(Turned(), x, 100)
    assert found["classes found from data"].value == 2
    assert found["classes found from noise"].value == 1
    assert found["entropy of the classes from data, nats"].value == pytest.approx(stats.entropy([40, 60]))
    assert found["entropy of the classes from noise, nats"].value == 0
    changed = found["chains from data that changed class, percent"]
    assert (changed.value, changed.standard_error) == pytest.approx((30, 100 * (0.3 * 0.7 / 100) ** 0.5))


def test_a_sampler_that_mixes_changes_three_classes_of_four_and_finds_all() -> None:
    found = _modes(Exact(), Quadrants([0.0] * 2, [1.0] * 2).sample(3000), 3000)
    changed = found["chains from data that changed class, percent"]
    assert abs(changed.value - 75) < stats.norm.isf(FALSE_ALARM / 2) * changed.standard_error
    for start in ("data", "noise"):
        assert found[f"classes found from {start}"].value == 4
        lost = 3000 * 2 * (math.log(4) - found[f"entropy of the classes from {start}, nats"].value)
        assert 0 <= lost < stats.chi2.isf(FALSE_ALARM, 3), "2 N (log 4 - H) is the likelihood ratio of equal classes"


def test_the_standard_error_of_the_entropy_is_its_spread_over_repeated_samples() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    repeated = [entropy(torch.multinomial(p, 1000, replacement=True)) for _ in range(1000)]
    values = torch.tensor([found.value for found in repeated], dtype=torch.float64)
    errors = torch.tensor([found.standard_error for found in repeated], dtype=torch.float64)
    assert_means(((values - values.mean()).square() - errors.square())[:, None], torch.zeros(1, dtype=torch.float64))
    bias = stats.entropy(p) - 3 / (2 * 1000)
    assert_means(values[:, None], torch.tensor([bias], dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mixing(num_chains=1), "expected num_chains >= 2"),
        (lambda: Mixing(points=4), "8 <= points <= steps"),
        (lambda: Mixing(steps=10), "8 <= points <= steps"),
        (lambda: _measure(None), "has no sampler that moves x"),
        (lambda: _measure(Exact(free=("h",))), "has no sampler that moves x"),
        (
            lambda: _measure(Exact(), num_chains=2, steps=8, points=8, classifier=OwnClassifier()),
            "a classifier .* is needed, and there is none here",
        ),
        (lambda: split_r_hat(torch.zeros(3, 2)), r"at least 4 steps, got \(3, 2\)"),
        (lambda: chain_ess(torch.zeros(8)), r"expected draws \(steps, chains\)"),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
