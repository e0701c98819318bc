"""Machines whose partition function is a sum over all states, for what estimates it."""

import math
from typing import Any

import torch

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli, Gaussian, Softmax, Units
from support.oracles import bits


def wavy_rbm(visible: dict[str, Units] | None = None, hidden: int = 4, size: float = 1.0, **settings: Any) -> RBM:
    """A machine in float64 whose every parameter has its own value, of size about ``size``, whatever the seed."""
    model = RBM(visible or {"x": Bernoulli([5])}, hidden, **settings).double().eval()
    with torch.no_grad():
        for k, parameter in enumerate([*model.parameters(), *model.buffers()]):
            values = size * torch.sin(7.0 * torch.arange(1, parameter.numel() + 1) + k)
            parameter.copy_(values.view_as(parameter))
    return model


def bernoulli_case() -> tuple[EnergyModel, State, float]:
    return wavy_rbm(), {"x": bits(5)}, 0.0


def labeled_case() -> tuple[EnergyModel, State, float]:
    states = {"x": bits(4).repeat(3, 1), "y": torch.arange(3).repeat_interleave(16)}
    return wavy_rbm({"x": Bernoulli([4]), "y": Softmax(3)}), states, 0.0


def gaussian_case() -> tuple[EnergyModel, State, float]:
    """Two real-valued units, on a grid fine and wide enough that its sum is the integral."""
    axis = torch.linspace(-14, 14, 500, dtype=torch.float64)
    grid = {"x": torch.cartesian_prod(axis, axis)}
    return wavy_rbm({"x": Gaussian([2])}), grid, 2 * math.log(28 / 499)


def centered_case() -> tuple[EnergyModel, State, float]:
    return wavy_rbm(centering=0.1), {"x": bits(5)}, 0.0


CASES = [bernoulli_case, labeled_case, gaussian_case, centered_case]


def base_data(states: State) -> list[State]:
    """Some training data for the base of a path: a third of the states."""
    return [{name: value[::3] for name, value in states.items()}]
