"""Gibbs sweeps and mean fields against enumeration and the variational free energy."""

import pytest
import torch
from support.oracles import assert_counts, bits, index_of, probabilities
from support.targets import SmallRBM, Tilted, tilted_state
from torch import Tensor

from ebm_lightning.core import State, run_chain
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.samplers import Gibbs, MeanField

F64 = torch.float64


def test_gibbs_reaches_the_enumerated_law() -> None:
    n, model = 20_000, SmallRBM(3, 2)
    state = {"v": torch.zeros(n, 3, dtype=F64), "h": torch.zeros(n, 2, dtype=F64)}
    end, _ = run_chain(Gibbs(("h", "v")), model, state, steps=40)
    units = bits(5)
    truth = (-model(units[:, :3], units[:, 3:])).softmax(0).detach()
    assert_counts(index_of(torch.cat([end["v"], end["h"]], 1)).bincount(minlength=32), truth)


def test_gibbs_on_the_restricted_boltzmann_machine_reaches_its_enumerated_law() -> None:
    """Hidden units are drawn from v, so that the chain may start without them."""
    model, state = RBM({"v": Bernoulli([4])}, 3, weight_std=1.0).double(), {"v": torch.zeros(20_000, 4, dtype=F64)}
    sampler = Gibbs(("h", "v"))
    with torch.no_grad():
        for _ in range(40):
            state, _ = sampler.step(model, state)
    assert_counts(index_of(state["v"]).bincount(minlength=16), probabilities(model, {"v": bits(4)}))


def test_gibbs_draws_a_block_that_is_not_yet_in_the_state_and_leaves_clamped_ones() -> None:
    model, v = SmallRBM(3, 2), torch.ones(4, 3, dtype=F64)
    end, info = Gibbs(("h",)).step(model, {"v": v})
    assert end["v"] is v
    assert end["h"].shape == (4, 2)
    assert info == {}


def test_MeanField_uses_each_new_mean_at_once() -> None:
    """h = sigmoid(c + v W), then v = sigmoid(b + W h) with that h."""
    model, v = SmallRBM(4, 3), torch.rand(8, 4, dtype=F64)
    end, _ = MeanField(("h", "v")).step(model, {"v": v, "h": torch.rand(8, 3, dtype=F64)})
    h = torch.sigmoid(model.c + v @ model.weight)
    assert torch.allclose(end["h"], h)
    assert torch.allclose(end["v"], torch.sigmoid(model.b + h @ model.weight.T))


def test_MeanField_descends_the_variational_free_energy_to_a_fixed_point() -> None:
    """F = E(means) - entropy of independent units: no sweep raises it, and its slope vanishes at the end."""
    model = SmallRBM(4, 3)
    sampler = MeanField(("h", "v"))
    state: State = {"v": torch.rand(8, 4, dtype=F64), "h": torch.rand(8, 3, dtype=F64)}

    def free_energy(state: State) -> Tensor:
        entropy = sum(torch.special.entr(m).sum(1) + torch.special.entr(1 - m).sum(1) for m in state.values())
        return model.energy(state) - entropy

    before = free_energy(state)
    for _ in range(10):
        state, _ = sampler.step(model, state)
        after = free_energy(state)
        assert (after <= before + 1e-12).all()
        before = after
    state, _ = run_chain(sampler, model, state, steps=2000)
    leaves = {name: value.detach().requires_grad_() for name, value in state.items()}
    slopes = torch.autograd.grad(free_energy(leaves).sum(), list(leaves.values()))
    assert all(slope.abs().max() < 1e-8 for slope in slopes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gibbs(()), "names of the blocks in the order"),
        (lambda: MeanField(("h", "h")), "each once"),
        (lambda: Gibbs(("x",)).step(Tilted(), tilted_state()), "Tilted is not GibbsSampleable, it has no conditional"),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
