"""The contract: the loop, gradients in x, and what the state may carry."""

import pytest
import torch
from torch import Tensor

from ebm_lightning.core import (
    EnergyModel,
    GibbsSampleable,
    Info,
    Sampler,
    State,
    energy_grad,
    evaluating,
    require,
    run_chain,
)


class Quartic(EnergyModel):
    """E(x, y) = scale * sum(x^4) + y . x"""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.scale * x.pow(4).sum(1) + (x * y).sum(1)


class Descend(Sampler):
    free = ("x",)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        grad, energy = energy_grad(model, state, "x")
        return {**state, "x": state["x"] - 0.1 * grad}, {"energy": energy.mean()}


def _state() -> State:
    return {"x": torch.randn(5, 3, dtype=torch.float64), "y": torch.randn(5, 3, dtype=torch.float64)}


def test_the_variables_are_the_arguments_of_forward() -> None:
    assert Quartic().variables == ("x", "y")


def test_energy_ignores_riders_and_names_what_is_missing() -> None:
    model, state = Quartic(), _state()
    assert torch.equal(model.energy({**state, "chain": torch.arange(5)}), model(**state))
    with pytest.raises(ValueError, match=r"Quartic is an energy over \('x', 'y'\), but \['y'\] is not in the state"):
        model.energy({"x": state["x"]})


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_gradient_in_x_is_the_closed_form_in_every_grad_mode(context) -> None:
    model, state = Quartic(), _state()
    with context():
        inside = {name: value.clone() for name, value in state.items()}
        grad, energy = energy_grad(model, inside, "x")
    assert torch.allclose(grad, 4 * model.scale * state["x"] ** 3 + state["y"])
    assert torch.allclose(energy, model(**state))
    assert model.scale.grad is None


def test_a_chain_leaves_no_graph_no_gradient_and_the_clamped_object() -> None:
    model, state = Quartic(), _state()
    end, info = run_chain(Descend(), model, state, steps=4)
    assert end["y"] is state["y"]
    assert not end["x"].requires_grad
    assert model.scale.grad is None
    assert torch.allclose(info["drift_x"], (end["x"] - state["x"]).norm(dim=1).mean().float())


@pytest.mark.parametrize("backprop", [1, 2, 4])
def test_backprop_differentiates_the_last_steps_alone(backprop: int) -> None:
    """The gradient in the parameter equals that of a loop written out, detached before the last steps."""
    model, state = Quartic(), _state()
    end, _ = run_chain(Descend(), model, state, steps=4, backprop=backprop)
    (ours,) = torch.autograd.grad(end["x"].sum(), model.scale)
    x = state["x"]
    for k in range(4):
        x = x.detach() if k <= 4 - backprop else x
        x = x - 0.1 * (4 * model.scale * x**3 + state["y"])
    (theirs,) = torch.autograd.grad(x.sum(), model.scale)
    assert torch.allclose(ours, theirs)


@pytest.mark.parametrize(("steps", "backprop"), [(0, 0), (2, 3), (2, -1)])
def test_run_refuses_impossible_numbers_of_steps(steps: int, backprop: int) -> None:
    with pytest.raises(ValueError, match="expected steps >= 1 and 0 <= backprop <= steps"):
        run_chain(Descend(), Quartic(), _state(), steps, backprop)


def test_a_model_without_conditionals_says_so() -> None:
    with pytest.raises(ValueError, match="Quartic is not GibbsSampleable, it has no conditional"):
        require(Quartic(), GibbsSampleable)


def test_evaluating_puts_every_part_back_into_its_own_mode() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.BatchNorm1d(2))).train()
    model[1].eval()
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == [True, True, False, False]


def test_energies_are_float32_under_autocast() -> None:
    class Linear(EnergyModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).squeeze(1)

    model, x = Linear(), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        assert model.energy({"x": x}).dtype == torch.float32
        grad, energy = energy_grad(model, {"x": x}, "x")
    assert grad.dtype == energy.dtype == torch.float32
