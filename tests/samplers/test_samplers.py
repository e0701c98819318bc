"""What every sampler keeps: the graph, the clamped variables, the derivative of a chain, the law it is adjusted to."""

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, assert_counts
from support.targets import Flat, Normal, Tilted, Well, assert_normal, tilted_state
from torch import Tensor

from ebm_lightning.core import Sampler, run_chain
from ebm_lightning.samplers import (
    HMC,
    MALA,
    SGLD,
    Annealed,
    Descent,
    FastWeights,
    Langevin,
    Masked,
    ParallelTempering,
    Tempered,
    TrajectoryTempering,
)

F64 = torch.float64


KERNELS = {
    "Langevin": Langevin(0.05),
    "SGLD like IGEBM": SGLD(0.2, noise=0.05, clip=0.6, bounds=(-1.0, 1.0), noise_first=True),
    "SGLD like JEM": SGLD(0.1, noise=0.05),
    "SGLD without noise": SGLD(0.1, noise=0.0, clip=1.0),
    "Descent": Descent(0.1, free=("x",)),
    "Descent like System 2": Descent(
        0.1, free=("x",), learned=True, noise=0.1, softmax=True, clip=0.05, step_size_jitter=2.0
    ),
    "MALA": MALA(0.05),
    "HMC": HMC(0.1, leapfrog=3),
    "Tempered": Tempered(MALA(0.05), temperature=2.0),
    "Annealed": Annealed(HMC(0.1, leapfrog=2), temperatures=(3.0, 1.0)),
    "Masked": Masked(HMC(0.1, leapfrog=2)),
    "ParallelTempering": ParallelTempering(MALA(0.05), betas=(1.0, 0.5, 0.2)),
    "TrajectoryTempering": TrajectoryTempering(MALA(0.05), rungs=2),
}


kernels = pytest.mark.parametrize("sampler", KERNELS.values(), ids=KERNELS.keys())


WITHOUT_GRAPH = {"FastWeights": FastWeights(MALA(0.05), rate=0.1)}
"""Kernels that cannot stay in the autograd graph."""


@pytest.mark.parametrize("sampler", [*KERNELS.values(), *WITHOUT_GRAPH.values()], ids=[*KERNELS, *WITHOUT_GRAPH])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_chain_leaves_no_graph_no_gradient_and_the_clamped_object(sampler: Sampler, context) -> None:
    model = Tilted()
    with context():
        state = sampler.augment_state(tilted_state())
        end, info = run_chain(sampler, model, state, steps=3)
    assert end["context"] is state["context"]
    assert end["x"].shape == state["x"].shape
    assert not torch.equal(end["x"], state["x"])
    assert not end["x"].requires_grad
    assert model.scale.grad is None
    assert all(value.ndim == 0 and not value.requires_grad for value in info.values())


@kernels
def test_backprop_gives_the_derivative_of_the_end_in_a_parameter(sampler: Sampler) -> None:
    """Autograd through all steps equals central differences of the same chain with the same random numbers."""
    model, state = Tilted(), sampler.augment_state(tilted_state())

    def end() -> Tensor:
        torch.manual_seed(1)
        return run_chain(sampler, model, state, steps=3, backprop=3)[0]["x"].square().sum()

    (ours,) = torch.autograd.grad(end(), model.scale)
    sides = []
    for shift in (1e-6, -1e-6):
        with torch.no_grad():
            model.scale += shift
            sides.append(end())
            model.scale -= shift
    assert ours != 0
    assert torch.allclose(ours, (sides[0] - sides[1]) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "sampler",
    [Langevin(0.5, temperature=0.0), SGLD(0.5, noise=0.0, noise_first=True), Descent(0.5, free=("x",), clip=10.0)],
)
def test_without_noise_a_step_descends_and_without_slope_it_moves_nothing(sampler: Sampler) -> None:
    x = torch.randn(5, 2, dtype=F64)
    still, _ = run_chain(sampler, Flat(), {"x": x}, steps=3)
    assert torch.equal(still["x"], x)
    moved, _ = run_chain(sampler, Normal(), {"x": x}, steps=3)
    assert torch.allclose(moved["x"], x * 0.5**3)


@pytest.mark.parametrize(
    ("sampler", "temperature"),
    [
        (MALA(0.2), 1.0),
        (HMC(0.3, leapfrog=4), 1.0),
        (Tempered(MALA(0.4), temperature=2.0), 2.0),
        (Tempered(HMC(0.2, leapfrog=4), temperature=0.5), 0.5),
    ],
    ids=["MALA", "HMC", "hot MALA", "cold HMC"],
)
def test_adjusted_samplers_reach_a_normal_law_from_afar(sampler: Sampler, temperature: float) -> None:
    model = Normal(mean=1.5, precision=2.0)
    end, info = run_chain(sampler, model, {"x": 2 * torch.randn(40_000, 1)}, steps=60)
    assert_normal(end["x"], 1.5, temperature / 2)
    assert 0.3 < info["accept"] < 0.999


@pytest.mark.parametrize("sampler", [MALA(0.15), HMC(0.35, leapfrog=3)], ids=["MALA", "HMC"])
def test_adjusted_samplers_keep_the_law_and_balance_every_flow(sampler: Sampler) -> None:
    """From exact draws of a tilted double well, ends follow p, and as many go from bin i to j as from j to i."""
    n, number, model = 50_000, 12, Well()
    start = model.quantile(torch.rand(n, dtype=F64))[:, None]
    before, _ = run_chain(sampler, model, {"x": start}, steps=10)
    after, info = run_chain(sampler, model, before, steps=1)
    assert 0.3 < info["accept"] < 0.99
    i, j = model.bins(before["x"], number), model.bins(after["x"], number)
    for visited in (i, j):
        assert_counts(visited.bincount(minlength=number), torch.full((number,), 1 / number))
    flow = (i * number + j).bincount(minlength=number**2).view(number, number).double()
    there, back = flow[*torch.triu_indices(number, number, 1)], flow.T[*torch.triu_indices(number, number, 1)]
    both = there + back
    enough = both >= 20
    statistic = ((there - back).square() / both)[enough].sum()
    assert enough.sum() > number
    assert statistic < stats.chi2.isf(FALSE_ALARM, int(enough.sum()))


@pytest.mark.parametrize(("tiny", "coarse"), [(MALA(1e-9), MALA(1.0)), (HMC(1e-6), HMC(1.5))], ids=["MALA", "HMC"])
def test_acceptance_is_one_for_tiny_steps_alone(tiny: Sampler, coarse: Sampler) -> None:
    """The error of the energy is of the order of step^1.5 for MALA and step^2 for HMC: none of 1000 is rejected."""
    state = tilted_state(500)
    assert run_chain(tiny, Tilted(), state, steps=2)[1]["accept"] == 1
    assert run_chain(coarse, Tilted(), state, steps=2)[1]["accept"] < 0.5


@pytest.mark.parametrize(("sampler", "calls"), [(Langevin(0.1), 1), (MALA(0.1), 2), (HMC(0.1, leapfrog=7), 8)])
def test_a_step_takes_no_more_gradients_than_it_must(sampler: Sampler, calls: int) -> None:
    model = Normal()
    sampler.step(model, {"x": torch.randn(4, 2)})
    assert model.calls == calls
