"""Samplers at another temperature and in stages against recursions, quadrature and enumeration."""

import math

import pytest
import torch
from support.oracles import Z, assert_counts, bits, index_of
from support.targets import Normal, SmallRBM, Tilted, Well, assert_normal, tilted_state

from ebm_lightning.core import run_chain
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.samplers import (
    HMC,
    MALA,
    SGLD,
    Annealed,
    FastWeights,
    Gibbs,
    Langevin,
    Masked,
    ParallelTempering,
    Tempered,
    TrajectoryTempering,
)

F64 = torch.float64


def test_Tempered_langevin_is_langevin_at_that_temperature() -> None:
    """x - s dE/T + sqrt(2 s) z is the coupled step of size s/T at temperature T."""
    model, state = Tilted(), tilted_state()
    torch.manual_seed(1)
    wrapped, _ = run_chain(Tempered(Langevin(0.3), temperature=3.0), model, state, steps=4)
    torch.manual_seed(1)
    plain, _ = run_chain(Langevin(0.1, temperature=3.0), model, state, steps=4)
    assert torch.allclose(wrapped["x"], plain["x"], rtol=1e-12)


def test_Annealed_langevin_has_the_variance_of_its_recursion() -> None:
    """On N(0, 1) a step at temperature T takes the variance v to (1 - s/T)^2 v + 2 s."""
    temperatures, step = (4.0, 2.0, 1.0), 0.3
    sampler = Annealed(Langevin(step), temperatures=temperatures)
    end, _ = run_chain(sampler, Normal(), {"x": torch.zeros(100_000, 1)}, steps=2)
    variance = 0.0
    for temperature in temperatures * 2:
        variance = (1 - step / temperature) ** 2 * variance + 2 * step
    assert_normal(end["x"], 0, variance)


def test_Annealed_carries_chains_over_a_barrier() -> None:
    """A barrier of 12 holds chains in one well; a pass from T = 20 leaves them in either with equal chances."""
    n, model = 4000, Well(height=12.0, tilt=0.0)
    start, kernel = torch.ones(n, 1), HMC(0.15, leapfrog=5)
    pass_ = Annealed(kernel, temperatures=(20.0,) * 40 + (5.0,) * 5 + (1.0,) * 5)
    stuck, _ = run_chain(kernel, model, {"x": start}, steps=20)
    spread, _ = run_chain(pass_, model, {"x": start}, steps=1)
    assert (stuck["x"] > 0).float().mean() > 0.99
    assert abs((spread["x"] > 0).float().mean() - 0.5) < Z * 0.5 / math.sqrt(n)


def test_Tempered_Annealed_and_Masked_show_the_free_variables_and_bounds_of_what_they_wrap() -> None:
    inner = SGLD(0.1, noise=0.1, bounds=(-1.0, 1.0), free=("y",))
    for sampler in (Tempered(inner, temperature=2.0), Annealed(inner, temperatures=(2.0, 1.0)), Masked(inner)):
        assert (sampler.free, sampler.bounds) == (("y",), (-1.0, 1.0))
    assert Tempered(Annealed(MALA(0.1), temperatures=(2.0,)), temperature=2.0).bounds is None
    replicas = ParallelTempering(inner, betas=(1.0, 0.5))
    hot = Tempered(replicas, temperature=2.0)
    assert hot.free == replicas.free == ("y", "y.replicas")
    assert hot.augment_state({"y": torch.zeros(3, 2)})["y.replicas"].shape == (3, 1, 2)


@pytest.mark.parametrize("wrap", [lambda k, t: Tempered(k, temperature=t), lambda k, t: Annealed(k, temperatures=(t,))])
def test_Tempered_gibbs_reaches_the_enumerated_law_of_the_joint_energy_at_that_temperature(wrap) -> None:
    """p(v) ~ sum over h of exp(-E(v, h) / T): not the free energy over T, which the same counts refuse."""
    temperature, v, h = 2.5, bits(4), bits(3)
    model, state = RBM({"v": Bernoulli([4])}, 3, weight_std=3.0).double(), {"v": torch.zeros(20_000, 4, dtype=F64)}
    sampler = wrap(Gibbs(("h", "v")), temperature)
    with torch.no_grad():
        model.hidden_bias.uniform_(-2, 2)
        joint = torch.stack([model.joint({"v": v, "h": unit.expand(len(v), -1)}) for unit in h], 1)
        truth = (-joint / temperature).flatten().softmax(0).view_as(joint).sum(1)
        free = (-model.energy({"v": v}) / temperature).softmax(0)
        for _ in range(60):
            state, _ = sampler.step(model, state)
    counts = index_of(state["v"]).bincount(minlength=16)
    assert_counts(counts, truth)
    with pytest.raises(AssertionError, match="chi-square"):
        assert_counts(counts, free)


def test_Tempered_gibbs_on_an_energy_over_both_layers_is_gibbs_with_all_parameters_divided() -> None:
    model, state = SmallRBM(3, 2), {"v": torch.ones(50, 3, dtype=F64)}
    divided = SmallRBM(3, 2)
    divided.load_state_dict({name: value / 2 for name, value in model.state_dict().items()})
    torch.manual_seed(1)
    ours, _ = Tempered(Gibbs(("h", "v")), temperature=2.0).step(model, state)
    torch.manual_seed(1)
    theirs, _ = Gibbs(("h", "v")).step(divided, state)
    assert torch.equal(ours["v"], theirs["v"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Tempered(MALA(0.1), temperature=0.0), r"Tempered\(temperature=0.0\)"),
        (lambda: Annealed(MALA(0.1), temperatures=()), "at least one number"),
        (
            lambda: Tempered(Gibbs(("x",)), temperature=2.0).step(Tilted(), tilted_state()),
            "Tilted is not GibbsSampleable, it has no conditional",
        ),
        (
            lambda: Tempered(FastWeights(MALA(0.1), rate=0.1), temperature=2.0),
            r"Tempered\(FastWeights\): an adaptive sampler has to be the outermost one",
        ),
        (
            lambda: Annealed(TrajectoryTempering(MALA(0.1), rungs=1), temperatures=(1.0,)),
            r"Annealed\(TrajectoryTempering\): an adaptive sampler has to be the outermost one",
        ),
    ],
)
def test_Tempered_and_Annealed_refuse_what_cannot_work_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
