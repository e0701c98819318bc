"""Energy-based transformers against one pass for every prefix."""

import pytest
import torch
from support.oracles import perturbed, text
from support.transformers import every_condition, small_text_ebt
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import State, energy_grad
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.energies import ImageEBT, StepAdaLN, StepToken, TextEBT

F64 = torch.float64


def prefix_by_prefix(model: TextEBT, state: State) -> Tensor:
    """(B, S): each prefix of the tokens followed by its candidate, alone in an ordinary causal pass."""
    found = []
    for t in range(state["x"].shape[1]):
        parts = [model.embedding(state["x"][:, : t + 1]), (state["y"][:, t] @ model.candidate.weight.T)[:, None]]
        embedded = None
        if model.landscape is not None:
            embedded = model.landscape(state["descent.step"].clamp(max=1))
        if isinstance(model.condition, StepToken):
            parts.insert(0, embedded[:, None])
        out = model.trunk(torch.cat(parts, 1), embedded if isinstance(model.condition, StepAdaLN) else None)
        found.append(out[:, -1] @ model.head.weight[0])
    return torch.stack(found, 1)


@every_condition
def test_TextEBT_one_pass_over_all_positions_is_one_pass_for_every_prefix(condition) -> None:
    """Energies, their derivatives, and those of dE/dy in the parameters, through which training goes.

    The prefixes take the attention of torch that can be differentiated twice; the one pass needs none.
    """
    model, state = small_text_ebt(condition), text(4, 5)(3)
    y, parameters = state["y"].requires_grad_(), list(model.parameters())
    direction = torch.randn_like(y)

    def derivatives(energies: Tensor) -> tuple[object, ...]:
        of_parameters = torch.autograd.grad(energies.sum(), parameters, retain_graph=True)
        (slope,) = torch.autograd.grad(energies.sum(), y, create_graph=True)
        return energies, of_parameters, slope, torch.autograd.grad((slope * direction).sum(), parameters)

    ours = derivatives(model.local_energies(state))
    with sdpa_kernel(SDPBackend.MATH):
        torch.testing.assert_close(ours, derivatives(prefix_by_prefix(model, state)), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(model.energy(state), ours[0].sum(1))
    assert all(slope.abs().max() > 0 for slope in ours[3])


@every_condition
def test_TextEBT_a_position_sees_the_past_and_its_own_candidate_alone(condition) -> None:
    model, state = small_text_ebt(condition), text(6, 5)(2)
    before = model.local_energies(state)
    later = {**state, "x": state["x"].clone(), "y": state["y"].clone()}
    later["x"][:, 3:] = (later["x"][:, 3:] + 1) % 5
    later["y"][:, 3:] += 1
    after = model.local_energies(later)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-12)
    assert (before[:, 3:] - after[:, 3:]).abs().min() > 1e-6
    other = {**state, "y": state["y"].clone()}
    other["y"][:, 2] += 1
    assert ((model.local_energies(other) - before).abs() > 1e-12).any(0).tolist() == [i == 2 for i in range(6)]


@pytest.mark.parametrize("condition", [StepToken(2), StepAdaLN(2)])
def test_StepToken_and_StepAdaLN_beyond_the_landscapes_are_those_of_the_last(condition) -> None:
    model, state = small_text_ebt(condition), text(3, 5)(2)
    first, last, beyond = (model.energy({**state, "descent.step": torch.full((2,), step)}) for step in (0, 1, 7))
    assert torch.equal(last, beyond)
    assert not torch.allclose(first, last)


def test_TextEBT_a_batch_is_completed_by_the_shape_of_its_candidates() -> None:
    x = torch.randint(0, 5, (3, 4))
    state = small_text_ebt(StepToken(2)).positive_phase({"x": x})
    assert state["y"].shape == (3, 4, 5)
    assert state["y"].dtype == F64
    assert state["y"].untyped_storage().nbytes() == 8
    assert state["descent.step"].tolist() == [0, 0, 0]
    torch.manual_seed(1)
    initial = NoiseChains(GaussianNoise()).start(state, ("y",))
    assert initial["y"].is_contiguous()
    torch.manual_seed(1)
    assert torch.equal(initial["y"], torch.randn(3, 4, 5, dtype=F64))
    assert "descent.step" not in small_text_ebt().positive_phase({"x": x})
    y = torch.ones(3, 4, 5)
    assert small_text_ebt().positive_phase({"x": x, "y": y})["y"] is y


@pytest.mark.parametrize("x", [torch.zeros(2, 3), torch.full((2, 3), 5), torch.full((2, 3), -1), torch.ones(2).long()])
def test_TextEBT_what_is_no_token_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"takes tokens 0\.\.4 of dtype int64"):
        small_text_ebt().check({"x": x})


@pytest.mark.parametrize("make", [lambda: StepToken(0), lambda: TextEBT(0), lambda: TextEBT(5, heads=5)])
def test_TextEBT_and_StepToken_refuse_impossible_numbers(make) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


def test_ImageEBT_is_the_mean_over_patches_and_starts_flat() -> None:
    model = ImageEBT(4, patch=2, channels=1, layers=1, heads=1, dim=4).double()
    state = model.positive_phase({"x": torch.randn(3, 1, 4, 4, dtype=F64)})
    assert state["y"] is state["x"]
    grad, energy = energy_grad(model, state, "y")
    assert energy.eq(0).all()
    assert grad.eq(0).all()
    model = perturbed(model)
    assert model.per_patch(state).shape == (3, 4)
    torch.testing.assert_close(model.energy(state), model.per_patch(state).sum(1) / 4)


def test_ImageEBT_can_be_differentiated_twice() -> None:
    model = perturbed(ImageEBT(4, patch=2, channels=1, layers=1, heads=2, dim=4))
    y = torch.randn(1, 1, 4, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(model, y)


@pytest.mark.parametrize("settings", [{"size": 5}, {"dim": 6}, {"heads": 3}, {"layers": 0}])
def test_ImageEBT_images_that_cannot_be_cut_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="a size divisible by patch"):
        ImageEBT(**{"size": 4, "patch": 2, "layers": 1, "heads": 2, "dim": 8, **settings})
