"""Masked chains against known conditional laws."""

import pytest
import torch
from scipy import linalg
from support.oracles import assert_counts, assert_means, bits, index_of, perturbed, probabilities
from support.pictures import Picture, conditional_law
from torch import Tensor

from ebm_lightning.core import Sampler, run_chain
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.samplers import HMC, MALA, SGLD, FastWeights, Gibbs, Langevin, Masked, ParallelTempering, Tempered

F64 = torch.float64


S = 0.1


def _coupled(precision: Tensor) -> Tensor:
    """x <- A x + sqrt(2 s) z has the covariance C = A C A^T + 2 s I."""
    a = torch.eye(len(precision), dtype=F64) - S * precision
    return torch.tensor(linalg.solve_discrete_lyapunov(a.numpy(), 2 * S * torch.eye(len(a), dtype=F64).numpy()))


def _noise_first(precision: Tensor) -> Tensor:
    """x <- A (x + 0.3 z)."""
    a = torch.eye(len(precision), dtype=F64) - S * precision
    return torch.tensor(linalg.solve_discrete_lyapunov(a.numpy(), 0.09 * (a @ a.T).numpy()))


@pytest.mark.parametrize(
    ("sampler", "law"),
    [
        (Langevin(S), _coupled),
        (SGLD(S, noise=0.3, noise_first=True), _noise_first),
        (MALA(0.2), torch.linalg.inv),
        (HMC(0.35, leapfrog=2), torch.linalg.inv),
        (Tempered(MALA(0.3), temperature=2.0), lambda precision: 2 * torch.linalg.inv(precision)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_hidden_values_have_the_conditional_law_and_known_ones_never_move(sampler: Sampler, law) -> None:
    """The mean and the covariance of each sampler's own law, given known values that differ from chain to chain.

    The trajectory of HMC is not half a period of the narrowest direction, which it would never leave.
    """
    n, known, hidden = 8000, [0, 2], [1, 3]
    x = Picture().sample(n) + 1
    mask = torch.tensor([True, False, True, False]).expand(n, 4).view(n, 1, 2, 2)
    start = {"x": torch.where(mask, x.view(n, 1, 2, 2), 3 * torch.randn(n, 1, 2, 2, dtype=F64)), "x.known": mask}
    with torch.no_grad():
        end, _ = run_chain(Masked(sampler), Picture(), start, steps=100)
    drawn = end["x"].flatten(1)
    assert torch.equal(drawn[:, known], x[:, known])
    mean, covariance = conditional_law(known, hidden, x[:, known])
    off = drawn[:, hidden] - mean
    expected = law(torch.linalg.inv(covariance))
    assert_means(off, torch.zeros(2, dtype=F64))
    assert_means(off[:, :, None] * off[:, None, :], expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_masked_gibbs_reaches_the_enumerated_conditional_of_a_boltzmann_machine(temperature: float) -> None:
    model = perturbed(RBM({"v": Bernoulli([4])}, 3, weight_std=1.0))
    n, known = 4000, torch.tensor([True, False, False, True])
    start = {"v": torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=F64).repeat(n, 1), "v.known": known.repeat(n, 1)}
    sampler = Masked(Tempered(Gibbs(("h", "v")), temperature=temperature))
    with torch.no_grad():
        end, _ = run_chain(sampler, model, start, steps=40)
    assert torch.equal(end["v"][:, known], start["v"][:, known])
    states = bits(4)
    agree = (states[:, known] == start["v"][0, known]).all(1)
    p = probabilities(model.tempered(1 / temperature), {"v": states}) * agree
    assert_counts(index_of(end["v"]).bincount(minlength=16), p / p.sum())


def test_a_variable_without_a_mask_moves_as_a_whole_and_the_inner_info_is_handed_on() -> None:
    state = {"x": torch.randn(5, 1, 2, 2, dtype=F64)}
    torch.manual_seed(1)
    expected, info = MALA(0.1).step(Picture(), state)
    torch.manual_seed(1)
    end, said = Masked(MALA(0.1)).step(Picture(), state)
    assert torch.equal(end["x"], expected["x"])
    assert said == info


def _masked(mask: Tensor) -> None:
    Masked(MALA(0.1)).step(Picture(), {"x": torch.zeros(2, 1, 2, 2), "x.known": mask})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _masked(torch.ones(2, 1, 2, 2)), "expected bool of shape .*got torch.float32"),
        (lambda: _masked(torch.ones(1, 2, 2, dtype=torch.bool)), r"got torch.bool of shape \(1, 2, 2\)"),
        (lambda: Masked(FastWeights(MALA(0.1), rate=0.1)), r"Masked\(FastWeights\): an adaptive sampler has to be"),
        (
            lambda: Masked(ParallelTempering(MALA(0.1), betas=(1.0, 0.5))).augment_state({"x": torch.zeros(2, 1)}),
            "cannot hold the known values of x.replicas",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
