"""Annealed importance sampling, forward, backward and of single vectors, against enumeration."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.annealed import CASES, base_data, bernoulli_case, labeled_case, wavy_rbm
from support.oracles import Z, assert_counts, assert_means, bits, index_of, log_partition, probabilities
from torch import Tensor

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.evaluation.metrics import (
    AIS,
    Linear,
    PiecewiseLinear,
    SalakhutdinovMurray,
    ais,
    anneal,
    raise_log_prob,
    reverse_ais,
)


@pytest.mark.parametrize("fit_base", [True, False], ids=["data-base", "own-base"])
@pytest.mark.parametrize("case", CASES)
def test_ais_weights_are_unbiased_and_its_estimate_is_log_z(case, fit_base: bool) -> None:
    """E[w] = Z / Z_0 whatever the number of temperatures, so already with 15 of them."""
    model, states, log_cell = case()
    exact = float(log_partition(model, states)) + log_cell
    estimator = AIS(Linear(15), 3000, fit_base)
    path = estimator.path(model, base_data(states))
    log_weights, end = anneal(path, Linear(15)(), 3000)
    assert log_weights.dtype == torch.float64
    assert end.keys() == set(model.variables)
    assert_means((log_weights + path.log_partition - exact).exp()[:, None], torch.ones(1))
    estimate = estimator(model, base_data(states))
    assert estimate.chains == 3000
    assert estimate.warning == ""
    assert abs(estimate.log_z - exact) < Z * estimate.standard_error < 0.5


def test_annealed_chains_end_as_samples_of_the_model() -> None:
    """Weighted, whatever the number of temperatures: E[w; x] = p(x) Z / Z_0. With 300 the weights hardly matter."""
    model, states = wavy_rbm(), {"x": bits(5)}
    path, p = model.annealing_path(), probabilities(model, states)
    for number in (5, 300):
        log_weights, end = anneal(path, Linear(number)(), 3000)
        w = (log_weights + path.log_partition - float(log_partition(model, states))).exp()
        ends = torch.nn.functional.one_hot(index_of(end["x"]), 32)
        often = p > 0.01
        assert_means((w[:, None] * ends)[:, often], p[often])
    assert_counts(ends.sum(0), p)


def test_too_few_temperatures_are_warned_of() -> None:
    """A strongly coupled machine between two temperatures: far off, and it says so."""
    model = wavy_rbm({"x": Bernoulli([10])}, 10, size=3.0)
    hasty = ais(model.annealing_path(), Linear(1)(), 100)
    assert "log w has a standard deviation" in hasty.warning


def test_PiecewiseLinear_pieces_are_evenly_spaced_between_their_ends() -> None:
    assert PiecewiseLinear([0.5, 1.0], [2, 1])().tolist() == [0.0, 0.25, 0.5, 1.0]
    torch.testing.assert_close(PiecewiseLinear([1.0], [7])(), Linear(7)())


def test_Linear_and_SalakhutdinovMurray_begin_at_0_end_at_1_and_have_the_published_spacing() -> None:
    assert Linear(4)().tolist() == [0, 0.25, 0.5, 0.75, 1]
    betas = SalakhutdinovMurray()()
    assert (betas.dtype, len(betas) - 1, float(betas[0]), float(betas[-1])) == (torch.float64, 14_500, 0.0, 1.0)
    spacing = betas.diff()
    for piece, width in ((spacing[:500], 1e-3), (spacing[500:4500], 1e-4), (spacing[4500:], 1e-5)):
        torch.testing.assert_close(piece, torch.full_like(piece, width), rtol=1e-9, atol=1e-12)


def _exact_draws(model: EnergyModel, states: State, n: int) -> State:
    rows = torch.multinomial(probabilities(model, states), n, replacement=True)
    return {name: value[rows] for name, value in states.items()}


def test_reverse_ais_from_exact_samples_is_unbiased_in_one_over_z_and_brackets() -> None:
    """Both ways; then in one jump with 2 chains at a time: low forward, high backward, the Jensen form higher still."""
    model, states, _ = labeled_case()
    exact = float(log_partition(model, states))
    path = model.annealing_path()
    bound = reverse_ais(path, Linear(15)(), _exact_draws(model, states, 3000))
    error = math.expm1(bound.log_z - bound.low) / 3
    assert abs(bound.log_z - exact) < Z * error < 0.5
    assert bound.low < bound.log_z < min(bound.high, bound.jensen)
    assert bound.chains == 3000
    jump, n = Linear(1)(), 1000
    below = torch.tensor([ais(path, jump, 2).log_z for _ in range(n)])
    above = [reverse_ais(path, jump, _exact_draws(model, states, 2)) for _ in range(n)]
    for excess in (exact - below, torch.tensor([one.log_z for one in above]) - exact):
        assert float(excess.mean()) > Z * float(excess.std()) / math.sqrt(n)
    assert all(one.jensen >= one.log_z - 1e-12 for one in above)
    excess = torch.tensor([one.jensen - one.log_z for one in above])
    assert float(excess.mean()) > Z * float(excess.std()) / math.sqrt(n)


def _annealed_law(model: RBM, betas: Tensor) -> Tensor:
    """p_ann over all states: p_0 T_1 ... T_K by enumeration of v and h, with logits that are linear in beta."""
    v, h = bits(model.units("x").rows), bits(model.hidden)
    weight, b, c = model.weight.detach(), model.units("x").bias.detach(), model.hidden_bias.detach()
    law = torch.softmax(v @ b, 0)
    for beta in betas[1:]:
        to_h = torch.softmax(beta * (v @ weight + c) @ h.T, 1)
        to_v = torch.softmax((beta * h @ weight.T + b) @ v.T, 1)
        law = law @ to_h @ to_v
    return law


@pytest.mark.parametrize(("chains", "n"), [(1, 600), (5, 120)])
def test_raise_log_prob_is_unbiased_for_the_annealed_law(chains: int, n: int) -> None:
    """Even with 3 temperatures, where that law differs from the model's; its logarithm does not lie above."""
    model, v = wavy_rbm({"x": Bernoulli([3])}, 2, size=1.5), bits(3)
    betas = Linear(3)()
    law = _annealed_law(model, betas)
    assert (law / probabilities(model, {"x": v}) - 1).abs().max() > 0.1
    log_p = raise_log_prob(model.annealing_path(), model, betas, {"x": v.repeat(n, 1)}, chains).view(n, 8)
    assert log_p.dtype == torch.float64
    assert_means(log_p.exp(), law)
    excess = (log_p - law.log()).mean(1)
    assert float(excess.mean()) < Z * float(excess.std()) / math.sqrt(n)


def test_raise_log_prob_with_many_temperatures_is_the_models_log_probability() -> None:
    """From below, and within a hundredth of a nat on average."""
    model, states, _ = labeled_case()
    exact = probabilities(model, states).log()
    n = 60
    many = {name: value.repeat(n, *[1] * (value.ndim - 1)) for name, value in states.items()}
    path = model.annealing_path(base_data(states))
    gap = raise_log_prob(path, model, Linear(200)(), many).view(n, -1).mean(1) - exact.mean()
    error = float(gap.std()) / math.sqrt(n)
    assert float(gap.mean()) < Z * error
    assert abs(float(gap.mean())) < 0.01 + Z * error


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: ais(path, Linear(3)(), 1), r"ais\(chains=1\): expected at least 2"),
        (lambda path: anneal(path, Linear(3)(), 0), r"anneal\(chains=0\)"),
        (lambda path: ais(path, torch.tensor([0.0, 0.7, 0.3, 1.0]), 2), "increase from 0 to 1"),
        (lambda path: ais(path, torch.tensor([0.1, 1.0]), 2), "increase from 0 to 1"),
        (lambda path: reverse_ais(path, Linear(3)(), {"x": bits(5)[:1]}), "use at least 2 chains"),
        (lambda path: raise_log_prob(path, bernoulli_case()[0], Linear(3)(), {"x": bits(5)}, 0), "at least 1 chain"),
        (lambda path: Linear(0), r"Linear\(num_temperatures=0\)"),
        (lambda path: PiecewiseLinear([0.5, 1.0], [3]), "as many ends"),
        (lambda path: PiecewiseLinear([0.5, 0.9], [3, 3]), "from above 0 to 1"),
        (lambda path: PiecewiseLinear([0.0, 1.0], [3, 3]), "from above 0 to 1"),
        (lambda path: PiecewiseLinear([1.0], [0]), "each at least 1"),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(call: Callable[[Any], object], words: str) -> None:
    path = wavy_rbm().annealing_path()
    with pytest.raises(ValueError, match=words):
        call(path)
