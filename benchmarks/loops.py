"""Alternatives to our samplers: the loops of the papers, and those of the packages torchebm and ebmkit.

Each takes ``steps`` transitions from ``x`` for an energy (B, ...) -> (B,) and returns the end of the chains.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Energy = Callable[[Tensor], Tensor]


def lower_bound(energy: Energy, x: Tensor, steps: int) -> Tensor:
    """One forward pass and one backward pass to the input alone, for each step; x does not change."""
    x = x.detach().requires_grad_()
    for _ in range(steps):
        torch.autograd.grad(energy(x).sum(), x)
    return x.detach()


def jem(energy: Energy, x: Tensor, steps: int, step_size: float = 1.0, noise: float = 0.01) -> Tensor:
    """x <- x + a df/dx + s N(0, 1) with f = -E: Grathwohl et al. (2020), algorithm 1.

    x is one leaf, whose values are changed without autograd.
    """
    x = x.detach().clone().requires_grad_()
    for _ in range(steps):
        (slope,) = torch.autograd.grad(-energy(x).sum(), x)
        x.data += step_size * slope + noise * torch.randn_like(x)
    return x.detach()


def igebm(net: nn.Module, x: Tensor, steps: int) -> Tensor:
    """x <- clamp(x + n - 10 clip(dE/dx)), the gradient at x + n: Du & Mordatch (2019), algorithm 1 and its settings.

    The noise n has standard deviation 0.005 and is drawn into one tensor; the gradient is clipped to 0.01 and is in
    ``x.grad``. The parameters are frozen during sampling: a backward pass that computes their gradients too would take
    half as long again.
    """
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    x = x.detach().clone().requires_grad_()
    noise = torch.empty_like(x)
    for _ in range(steps):
        noise.normal_(0, 0.005)
        x.data.add_(noise)
        net(x).sum().backward()
        x.grad.data.clamp_(-0.01, 0.01)
        x.data.add_(x.grad.data, alpha=-10)
        x.grad.zero_()
        x.data.clamp_(0, 1)
    for parameter in trained:
        parameter.requires_grad_(True)
    return x.detach()


def torchebm_langevin(
    net: nn.Module, step_size: float, noise: float, bounds: tuple[float, float] | None
) -> Callable[[Tensor, int], Tensor]:
    """(x, steps) -> x by the package torchebm, whose noise is in units of sqrt(2 step_size)."""
    from torchebm.samplers import LangevinDynamics

    sampler = LangevinDynamics(_torchebm(net), step_size, noise / math.sqrt(2 * step_size), clamp=bounds)
    return lambda x, steps: sampler.sample(x, n_steps=steps)


def torchebm_hmc(net: nn.Module, step_size: float, leapfrog: int) -> Callable[[Tensor, int], Tensor]:
    """(x, trajectories) -> x by the package torchebm."""
    from torchebm.samplers import HamiltonianMonteCarlo

    sampler = HamiltonianMonteCarlo(_torchebm(net), step_size, leapfrog)
    return lambda x, steps: sampler.sample(x, n_steps=steps)


def _torchebm(net: nn.Module) -> nn.Module:
    from torchebm.core import BaseModel

    class Wrapped(BaseModel):
        def __init__(self) -> None:
            super().__init__(device=next(net.parameters()).device)
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    return Wrapped()


def ebmkit_langevin(
    net: nn.Module, step_size: float, noise: float, bounds: tuple[float, float] | None, clip: float | None
) -> Callable[[Tensor, int], Tensor]:
    """(x, steps) -> x by the package ebmkit."""
    import ebm

    sampler = ebm.LangevinDynamics(step_size, noise_scale=noise, grad_clip=clip, clamp=bounds)
    return lambda x, steps: sampler.sample(net, x, steps=steps)


def ebmkit_hmc(net: nn.Module, step_size: float, leapfrog: int) -> Callable[[Tensor, int], Tensor]:
    """(x, trajectories) -> x by the package ebmkit."""
    import ebm

    sampler = ebm.HMC(step_size, leapfrog)
    return lambda x, steps: sampler.sample(net, x, steps=steps)
