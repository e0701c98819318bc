"""Energies made of energies, against normal laws and enumeration."""

import math
from collections.abc import Iterator

import pytest
import torch
from support.oracles import assert_means, bits, log_partition, perturbed, probabilities
from torch import Tensor

from ebm_lightning.core import EnergyModel, energy_grad, run_chain
from ebm_lightning.energies import (
    RBM,
    ConditionalDeepEnergy,
    Gaussian,
    GaussianMixture,
    HelmholtzMachine,
    Mixture,
    Negation,
    Product,
)
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax
from ebm_lightning.evaluation.metrics import Exact
from ebm_lightning.samplers import HMC, Gibbs

A = ([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]])
B = ([-1.0, 0.5], [[1.0, -0.3], [-0.3, 1.5]])


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """Energies in closed form keep their numbers in the precision that is the default when they are made."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _gaussian(law: tuple[list[float], list[list[float]]]) -> EnergyModel:
    return Gaussian(*law).double()


def _law(signs: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a normal law whose precision and whose precision times mean are sums over A and B."""
    pairs = [(torch.tensor(m).double(), torch.linalg.inv(torch.tensor(c).double())) for m, c in (A, B)]
    precision = sum(sign * p for sign, (_, p) in zip(signs, pairs, strict=True))
    covariance = torch.linalg.inv(precision)
    return covariance @ sum(sign * p @ m for sign, (m, p) in zip(signs, pairs, strict=True)), covariance


@pytest.mark.parametrize("strength", [None, 0.2])
def test_a_product_of_normal_laws_is_normal_and_a_negation_takes_its_precision_away(strength: float | None) -> None:
    other = _gaussian(B) if strength is None else Negation(_gaussian(B), strength)
    mean, covariance = _law((1.0, 1.0 if strength is None else -strength))
    expected = Gaussian(mean.tolist(), ((covariance + covariance.T) / 2).tolist()).double()
    state = {"x": torch.randn(50, 2, dtype=torch.float64)}
    difference = Product([_gaussian(A), other]).energy(state) - expected.energy(state)
    torch.testing.assert_close(difference, difference[:1].expand(50))  # the energies may differ by a constant


@pytest.mark.parametrize("strength", [None, 0.2])
def test_a_composition_is_sampled_by_the_samplers_there_are(strength: float | None) -> None:
    """A trajectory of 0.9 is far from half a period of either axis, which would only turn the start around."""
    other = _gaussian(B) if strength is None else Negation(_gaussian(B), strength)
    mean, covariance = _law((1.0, 1.0 if strength is None else -strength))
    start = {"x": torch.randn(4000, 2, dtype=torch.float64) * 2}
    x = run_chain(HMC(0.3, leapfrog=3), Product([_gaussian(A), other]), start, steps=150)[0]["x"]
    assert_means(x, mean)
    centered = x - mean
    assert_means(centered[:, :, None] * centered[:, None, :], covariance)


def test_a_mixture_weighs_unnormalized_densities() -> None:
    """With the weight share / Z of every part it is the normalized mixture."""
    means, std, shares = [[-1.0, 0.0], [1.0, 0.5]], 0.5, [0.7, 0.3]
    parts: list[EnergyModel] = [Gaussian(mean, [std**2, std**2]).double() for mean in means]
    z = 2 * math.pi * std**2
    mixture = Mixture(parts, [share / z for share in shares])
    state = {"x": torch.randn(50, 2, dtype=torch.float64)}
    assert torch.allclose(mixture.energy(state), GaussianMixture(means, std, shares).double().energy(state))
    assert float(mixture.log_partition()) == pytest.approx(0, abs=1e-12)
    alone = Mixture(parts)
    expected = -torch.log(sum(torch.exp(-part.energy(state)) for part in parts))
    assert torch.allclose(alone.energy(state), expected)


def test_a_mixture_far_from_all_parts_neither_overflows_nor_loses_its_slope() -> None:
    x = torch.full((1, 2), 1e3, dtype=torch.float64, requires_grad=True)
    parts = [_gaussian(A), _gaussian(B)]
    energy = Mixture(parts).energy({"x": x})
    (slope,) = torch.autograd.grad(energy.sum(), x)
    assert bool(energy.isfinite())
    nearest = min(parts, key=lambda part: float(part.energy({"x": x}).detach()))  # by e^-10^5 the only one that counts
    torch.testing.assert_close(slope, energy_grad(nearest, {"x": x.detach()}, "x")[0])


def _rbm(visible: int = 4) -> EnergyModel:
    return perturbed(RBM({"x": Bernoulli([visible])}, 3, weight_std=1.0))


def test_products_mixtures_and_negations_of_boltzmann_machines_equal_the_enumeration() -> None:
    a, b, states = _rbm(), _rbm(), {"x": bits(4)}
    p, q = probabilities(a, states), probabilities(b, states)

    def assert_law(model: EnergyModel, unnormalized: Tensor) -> None:
        assert torch.allclose(probabilities(model, states), unnormalized / unnormalized.sum())

    assert_law(Product([a, b]), p * q)
    assert_law(Product([a, Negation(b, 0.5)]), p * q**-0.5)
    log_z = log_partition(a, states), log_partition(b, states)
    assert_law(Mixture([a, b], [0.5, 2.0]), 0.5 * p * log_z[0].exp() + 2 * q * log_z[1].exp())
    mixture = Mixture([a, b], [0.5, 2.0])
    assert float(mixture.log_partition()) == pytest.approx(float(log_partition(mixture, states)))


def test_the_variables_are_the_union_and_shared_by_name() -> None:
    conditional = perturbed(RBM({"x": Bernoulli([4]), "y": Softmax(2)}, 3, weight_std=1.0))
    both = Product([_rbm(), conditional])
    assert both.variables == ("x", "y")
    state = {"x": bits(4), "y": torch.arange(16) % 2}
    assert torch.allclose(both.energy(state), both.models[0].energy(state) + both.models[1].energy(state))
    assert Negation(conditional).variables == ("x", "y")


def test_parts_complete_what_the_batch_leaves_open_and_check_it() -> None:
    helmholtz = perturbed(HelmholtzMachine({"x": Bernoulli([4])}, [3], weight_std=1.0))
    for model in (Product([_rbm(), helmholtz]), Mixture([helmholtz, _rbm()]), Negation(helmholtz)):
        full = model.positive_phase({"x": bits(4)})
        assert full.keys() >= {"x", "h1"}
        assert torch.equal(full["x"], bits(4))
        assert model.energy(full).shape == (16,)
        with pytest.raises(ValueError, match="binar"):
            model.check({**full, "x": full["x"] + 0.5})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Product([]), r"Product\(models=\[\]\): expected at least one energy"),
        (lambda: Mixture([]), r"Mixture\(models=\[\]\): expected at least one energy"),
        (lambda: Mixture([_gaussian(A)], [1.0, 2.0]), "expected 1 numbers > 0, one for each part"),
        (lambda: Mixture([_gaussian(A)], [0.0]), "expected 1 numbers > 0"),
        (lambda: Negation(_gaussian(A), -1.0), "expected a finite number >= 0"),
        (
            lambda: Mixture([_gaussian(A), ConditionalDeepEnergy(torch.nn.Identity())]).log_partition(),
            r"over different variables, got \[\('x',\), \('x', 'y'\)\]",
        ),
        (lambda: Exact()(Product([_gaussian(A)]), []), "Product is not ExactlyNormalized, it has no log_partition"),
        (lambda: Gibbs(("x",)).step(Product([_gaussian(A), _rbm()]), {"x": bits(2)}), "use a gradient sampler"),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
