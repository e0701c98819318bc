"""Every energy keeps the contract."""

import copy
from collections.abc import Callable

import pytest
import torch
from support.oracles import ENERGIES, Case, assert_means, perturbed, spins, unit_probabilities
from torch import Tensor, nn

from ebm_lightning.core import State, energy_grad
from ebm_lightning.energies import RBM, Ising
from ebm_lightning.energies.boltzmann.units import Bernoulli

every_energy = pytest.mark.parametrize("case", ENERGIES, ids=lambda case: case.name)


@every_energy
@pytest.mark.parametrize("examples", [1, 4])
def test_energy_is_one_number_per_example(case: Case, examples: int) -> None:
    energy = case.model().energy(case.state(examples))
    assert energy.shape == (examples,)
    assert energy.dtype == torch.float64
    assert energy.isfinite().all()


@every_energy
def test_examples_do_not_see_each_other(case: Case) -> None:
    model, state = case.model(), case.state(4)
    alone = [model.energy({name: value[i : i + 1] for name, value in state.items()}) for i in range(4)]
    together = model.energy(state)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-11, atol=1e-11)
    assert together.unique().numel() > 1


@every_energy
def test_gradient_equals_finite_differences(case: Case) -> None:
    model, state, eps = case.model(), case.state(2), 1e-6
    for block in (name for name in model.variables if state[name].is_floating_point()):
        grad, energy = energy_grad(model, state, block)
        torch.testing.assert_close(energy, model.energy(state))
        for unit in range(grad[0].numel()):
            ends = []
            for sign in (1, -1):
                moved = state[block].clone()
                moved.flatten(1)[:, unit] += sign * eps
                ends.append(model.energy({**state, block: moved}))
            difference = (ends[0] - ends[1]) / (2 * eps)
            torch.testing.assert_close(grad.flatten(1)[:, unit], difference, rtol=1e-6, atol=1e-7)


@every_energy
def test_what_rides_along_is_ignored_and_what_is_missing_is_named(case: Case) -> None:
    model, state = case.model(), case.state(3)
    assert torch.equal(model.energy({**state, "rider": torch.zeros(3)}), model.energy(state))
    for name in model.variables:
        rest = {other: value for other, value in state.items() if other != name}
        with pytest.raises(ValueError, match=rf"\['{name}'\] is not in the state .*supply it in the batch"):
            model.energy(rest)


@every_energy
def test_copies_and_state_dicts_keep_the_energy(case: Case) -> None:
    model, state = case.model(), case.state(3)
    fresh = case.model()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.energy(state), model.energy(state))
    assert torch.equal(copy.deepcopy(model).energy(state), model.energy(state))


def ising() -> tuple[Ising, Callable[[State], Tensor], State]:
    model = Ising(side=6, coupling=0.7, field=-0.2)
    return model, model.energy, spins(6)(3)


def ising_of_side_two() -> tuple[Ising, Callable[[State], Tensor], State]:
    model = Ising(side=2, coupling=-0.4, field=0.3)
    return model, model.energy, spins(2)(3)


def rbm() -> tuple[RBM, Callable[[State], Tensor], State]:
    model = RBM({"v": Bernoulli([5])}, 3, weight_std=1.0)
    perturbed(model)
    state = {"v": torch.randint(0, 2, (4, 5)).double(), "h": torch.randint(0, 2, (4, 3)).double()}
    return model, model.joint, state


@pytest.mark.parametrize(("make", "low"), [(ising, -1.0), (ising_of_side_two, -1.0), (rbm, 0.0)])
def test_conditionals_equal_the_energy_differences_unit_by_unit(
    make: Callable[[], tuple[RBM | Ising, Callable[[State], Tensor], State]], low: float
) -> None:
    model, energy, state = make()
    for block in state:
        on = unit_probabilities(energy, state, block, low)
        mean = on if low == 0 else 2 * on - 1
        torch.testing.assert_close(model.conditional(block, state).mean, mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("make", "low"), [(ising, -1.0), (rbm, 0.0)])
def test_conditionals_sample_their_means(
    make: Callable[[], tuple[RBM | Ising, Callable[[State], Tensor], State]], low: float
) -> None:
    model, _, state = make()
    for block in state:
        conditional = model.conditional(
            block, {name: value[:1].expand(20000, *value.shape[1:]) for name, value in state.items()}
        )
        draws = conditional.sample()
        assert set(draws.unique().tolist()) == {low, 1.0}
        assert_means(draws, conditional.mean[0])


@pytest.mark.parametrize("model", [Ising(2, 1.0), RBM({"v": Bernoulli([2])}, 2)])
def test_an_unknown_block_has_no_conditional(model: Ising | RBM) -> None:
    with pytest.raises(ValueError, match=r"got 'x'"):
        model.conditional("x", {})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RBM({"v": Bernoulli([0])}, 3), "at least one unit"),
        (lambda: RBM({"v": Bernoulli([2])}, 0), "at least one unit"),
    ],
)
def test_bad_values_are_refused_with_a_message(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
