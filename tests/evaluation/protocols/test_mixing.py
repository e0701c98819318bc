"""Long chains of samplers that mix or do not."""

import math
from dataclasses import dataclass

import pytest
import torch
from scipy import stats
from support.measured import IndependentDraws
from support.oracles import FALSE_ALARM, Examples, assert_means
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import Conditional, EnergyModel, Info, Sampler, State
from ebm_lightning.distributions import CategoricalConditional, GaussianNoise
from ebm_lightning.energies import Gaussian
from ebm_lightning.evaluation import Mixing, OwnClassifier
from ebm_lightning.evaluation.protocols.mixing import entropy
from ebm_lightning.objectives import ContrastiveDivergence


@dataclass(frozen=True)
class Frozen(Sampler):
    """Hardly moves."""

    free: tuple[str, ...] = ("x",)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        x = state["x"]
        return {**state, "x": x + 1e-6 * torch.randn_like(x)}, {"energy": model.energy(state).mean()}


LAW = Gaussian([0.0] * 4, [1.0] * 4)


def _measure(sampler: Sampler | None, free_noise: float = 1.0, **settings: object):
    module = EBM(LAW, ContrastiveDivergence(), sampler=sampler, chains=NoiseChains(GaussianNoise(std=free_noise)))
    return Mixing(**settings).measure(module, Examples(LAW.sample(500)))


def test_a_sampler_that_mixes_forgets_its_start_and_has_the_energies_of_the_data() -> None:
    result = _measure(IndependentDraws(), 9.0, num_chains=80, steps=100, points=100)
    found = result.measurements
    z = stats.norm.isf(FALSE_ALARM / 2)
    # the energy, a Gamma law of shape 2, has the excess kurtosis 3, which takes from the degrees of freedom of F
    f = stats.f.isf(FALSE_ALARM, 159 / (1 + 3 / (2 * 50)), 160 * 49 / (1 + 3 / 2))
    assert found["energy_r_hat"].value < math.sqrt(1 + (f - 1) / 50)
    for start in ("data", "noise"):
        gap = found[f"energy_from_{start}_minus_data_sd"]
        assert abs(gap.value) < z * gap.standard_error
        assert not gap.warning
    gone = found["drift_from_data"]
    assert abs(gone.value - 1) < 2 * z * gone.standard_error, "end and start are as far apart as two examples"
    # the relative variance of a sum over M lags is 2 (2 M + 1) / N (Madras & Sokal 1988); of independent draws, M <= 2
    time = 8000 / found["energy_ess"].value
    assert abs(time - 1) < z * math.sqrt(2 * (2 * 2 + 1) / 8000)
    assert result.pictures.keys() == {"energies", "from-data", "from-noise"}


def test_chains_that_stay_where_they_began_are_found_out() -> None:
    """From noise of standard deviation 3 the energy is 9 times that of the data: 8 E / sd = 8 * 2 / sqrt(2) above."""
    found = _measure(Frozen(), 3.0, num_chains=200, steps=64, points=64).measurements
    assert found["energy_r_hat"].value > 2
    assert "have not mixed in 64 transitions" in found["energy_r_hat"].warning
    gap = found["energy_from_noise_minus_data_sd"]
    relative = stats.norm.isf(FALSE_ALARM / 2) * (gap.standard_error / gap.value + 1 / math.sqrt(500))
    assert gap.value == pytest.approx(16 / math.sqrt(2), rel=relative)
    assert gap.warning
    assert found["drift_from_data"].value < 1e-4
    assert found["energy_ess"].value < 450, "about one for each of the 400 chains"


class Quadrants(Gaussian):
    """A normal law whose classes are the signs of its first two coordinates: 2 x0 > 0, 1 for x1 > 0."""

    def conditional(self, block: str, state: State) -> Conditional:
        x, y = (state["x"][:, i, None] for i in (0, 1))
        return CategoricalConditional(torch.cat([-x - y, -x + y, x - y, x + y], 1))


@dataclass(frozen=True)
class Turned(Sampler):
    """Turns every x whose first coordinate is negative to the other side."""

    free: tuple[str, ...] = ("x",)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        x = state["x"].clone()
        x[:, 0] = x[:, 0].abs()
        return {**state, "x": x + 1e-6 * torch.randn_like(x)}, {}


def _modes(sampler: Sampler, x: Tensor, num_chains: int):
    module = EBM(Quadrants([0.0] * 2, [1.0] * 2), ContrastiveDivergence(), sampler=sampler)
    protocol = Mixing(num_chains=num_chains, steps=8, points=8, classifier=OwnClassifier())
    return protocol.measure(module, Examples(x)).measurements


def test_Mixing_by_OwnClassifier_counts_the_classes_at_the_ends_and_those_that_changed() -> None:
    """Of 10, 20, 30 and 40 examples in the four quadrants, 30 change sides; noise in [0, 1) is all in the last."""
    corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    x = corners.repeat_interleave(torch.tensor([10, 20, 30, 40]), 0) * (0.5 + torch.rand(100, 1))
    found = _modes(Turned(), x, 100)
    assert found["classes_from_data"].value == 2
    assert found["classes_from_noise"].value == 1
    assert found["class_entropy_from_data_nats"].value == pytest.approx(stats.entropy([40, 60]))
    assert found["class_entropy_from_noise_nats"].value == 0
    changed = found["changed_class_percent"]
    assert (changed.value, changed.standard_error) == pytest.approx((30, 100 * (0.3 * 0.7 / 100) ** 0.5))


def test_a_sampler_that_mixes_changes_three_classes_of_four_and_finds_all() -> None:
    found = _modes(IndependentDraws(), Quadrants([0.0] * 2, [1.0] * 2).sample(3000), 3000)
    changed = found["changed_class_percent"]
    assert abs(changed.value - 75) < stats.norm.isf(FALSE_ALARM / 2) * changed.standard_error
    for start in ("data", "noise"):
        assert found[f"classes_from_{start}"].value == 4
        lost = 3000 * 2 * (math.log(4) - found[f"class_entropy_from_{start}_nats"].value)
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
        (lambda: _measure(IndependentDraws(free=("h",))), "has no sampler that moves x"),
        (
            lambda: _measure(IndependentDraws(), num_chains=2, steps=8, points=8, classifier=OwnClassifier()),
            "a classifier .* is needed, and there is none here",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
