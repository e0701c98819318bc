"""Energies of one line for objectives to be compared with closed forms on."""

import math

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, State, Terms

F64 = torch.float64


class Bell(EnergyModel):
    """E(x) = precision (x - mean)^2 / 2 + log_z in one dimension.

    exp(-E) is normalized where log_z = log(2 pi / precision) / 2, as it is where none is given.
    """

    def __init__(self, mean: float = 0.0, precision: float = 1.0, log_z: float | None = None) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=F64))
        self.precision = nn.Parameter(torch.tensor(precision, dtype=F64))
        normalized = math.log(2 * math.pi / precision) / 2
        self.log_z = nn.Parameter(torch.tensor(normalized if log_z is None else log_z, dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return self.precision * (x[:, 0] - self.mean).square() / 2 + self.log_z


class Quartic(EnergyModel):
    """E(x, context) = sum(scale x^4 / 4 + context x): its Hessian in x is diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return (self.scale * x.pow(4) / 4 + context * x).flatten(1).sum(1)


MEAN, STD = 0.7, 0.6
"""Of the normal law that a Bell is taught."""


def normal_draws(n: int) -> Tensor:
    """n draws (n, 1) from N(MEAN, STD^2), float64."""
    return MEAN + STD * torch.randn(n, 1, dtype=F64)


def gradients_of(model: EnergyModel, terms: Terms) -> dict[str, Tensor]:
    """The gradient of the loss by parameter; raises where the loss does not depend on one of them."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(terms["loss"], parameters), strict=True))


def quartic_state(n: int = 7) -> State:
    return {"x": torch.randn(n, 2, 3, dtype=F64), "context": torch.randn(n, 2, 3, dtype=F64)}
