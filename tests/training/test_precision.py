"""bfloat16 in the matrix products of an energy moves no chain away from where it belongs, within the error stated.

Autocast rounds factors to 8 bits, a relative error below 2^-8 each; positions, noise and updates stay float32. All
chains are independent, so that a mean over N of them has a standard error of std / sqrt(N); 5 of them are allowed, a
false alarm below 1e-6, beside the bias that the rounding may have.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, run_chain
from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import MLP
from ebm_lightning.samplers import Langevin

N, ROUNDED = 20_000, 2**-8


class Rotated(EnergyModel):
    """E(x) = |W x|^2 / 2 through a linear layer: a normal distribution of covariance (W^T W)^-1."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, 0.5, 0.0], [-0.5, 1.0, 0.3], [0.2, 0.0, 1.3]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).float().square().sum(1) / 2


class Hills(EnergyModel):
    """E(x) = |x|^2 / 2 - log cosh(w.x) through a linear layer: 1/2 N(w, I) + 1/2 N(-w, I), with |w| = 1.5."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.2, 0.9]]))

    def forward(self, x: Tensor) -> Tensor:
        along = self.linear(x).float().squeeze(1)
        return x.square().sum(1) / 2 - (along.abs() + torch.log1p(torch.exp(-2 * along.abs())))


def _ends(model: EnergyModel, x: Tensor, step_size: float, steps: int, half: bool) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        return run_chain(Langevin(step_size), model, {"x": x}, steps, with_info=False)[0]["x"]


def _check_moments(x: Tensor, covariance: Tensor, bias: float) -> None:
    """The mean is zero, and the second moments are those of a normal distribution of this covariance."""
    variance = covariance.diagonal()
    assert (x.mean(0).abs() <= 5 * (variance / N).sqrt()).all()
    found = x.T @ x / N
    spread = ((variance[:, None] * variance[None] + covariance.square()) / N).sqrt()
    assert ((found - covariance).abs() <= 5 * spread + bias * (variance[:, None] * variance[None]).sqrt()).all()


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_the_second_moments_of_a_gaussian(half: bool) -> None:
    """The chain's own law at this step size: covariance (P - s P^2 / 2)^-1 for a precision P, exactly."""
    model, s = Rotated(), 0.1
    precision = (model.linear.weight.T @ model.linear.weight).detach()
    own = torch.linalg.inv(precision - s * precision @ precision / 2)
    start = torch.randn(N, 3) @ torch.linalg.cholesky(own).T
    # Both factors of both passes are rounded: four times the bound of one.
    _check_moments(_ends(model, start, s, 60, half), own, 4 * ROUNDED if half else 0.0)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_both_hills_keep_their_share_and_their_moments(half: bool) -> None:
    """From one hill: half of the chains are on the other in the end; E[x x^T] = I + w w^T, up to the step's bias."""
    model, s = Hills(), 0.05
    w = model.linear.weight.detach().squeeze(0)
    x = _ends(model, w + torch.randn(N, 2), s, 400, half)
    assert abs(float(((x @ w) > 0).float().mean()) - 0.5) <= 5 * 0.5 / math.sqrt(N)
    variance = 1 + w.square()
    spread = 5 * (3 * variance.square() / N).sqrt()  # a fourth moment of a mixture is below 3 times the square
    bias = s * variance + (4 * ROUNDED * variance if half else 0)
    assert ((x.square().mean(0) - variance).abs() <= spread + bias).all()


def test_a_trained_net_has_the_same_gap_and_the_same_samples() -> None:
    """An MLP fitted to two hills: energies of data and of chains, and moments of chains, in both precisions."""
    torch.manual_seed(1)
    model = DeepEnergy(MLP(2, [64, 64]))
    data = torch.randn(N, 2) * 0.3 + torch.tensor([1.0, -1.0]).where(torch.rand(N, 1) < 0.5, torch.tensor([-1.0, 1.0]))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for batch in data[: 60 * 256].split(256):
        chains = _ends(model, batch, 0.02, 10, half=False)
        loss = model(batch).mean() - model(chains).mean() + 0.1 * model(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ends = {half: _ends(model, data, 0.02, 60, half) for half in (False, True)}
    with torch.no_grad():
        exact = {half: model(x) for half, x in ends.items()}
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(data).float()
        true = model(data)
    scale = float(true.std())
    assert scale > 0.05, "the net has learned something"
    # Of the same examples: rounding alone. Of other chains: their standard error beside it.
    assert abs(float((rounded - true).mean())) <= 4 * ROUNDED * float(true.abs().mean()) + 4 * ROUNDED * scale
    error = math.sqrt(2 / N)
    assert abs(float(exact[True].mean() - exact[False].mean())) <= 5 * error * float(exact[False].std())
    for moment in (lambda x: x, torch.square, lambda x: x.prod(1, keepdim=True)):
        one, other = (moment(ends[half]) for half in (True, False))
        assert ((one.mean(0) - other.mean(0)).abs() <= 5 * error * other.std(0)).all()
