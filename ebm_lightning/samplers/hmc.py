"""Hamiltonian Monte Carlo: Metropolis-Hastings with proposals by Hamiltonian dynamics."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, Info, Sampler, State, energy_grad, select_variable, step_info


def velocity_verlet(
    model: EnergyModel, state: State, block: str, momentum: Tensor, grad: Tensor, step_size: float, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(position, momentum, grad, energy) after ``steps`` >= 1 leapfrog steps of dx/dt = p, dp/dt = -dE/dx, unit mass.

    ``grad`` is dE/dblock at the start, so a trajectory costs ``steps`` gradients: inner half steps of the momentum are
    merged into full steps. Positions, momenta and gradients have the block's shape (B, ...), the energy is (B,).
    The map is reversible and preserves volume; the error of E + |p|^2/2 over a fixed time is O(step_size^2).
    Neal (2011), MCMC using Hamiltonian dynamics, eqs. 5.18 to 5.20.
    """
    assert steps >= 1
    x = state[block]
    momentum = momentum - step_size / 2 * grad
    for _ in range(steps):
        x = x + step_size * momentum
        grad, energy = energy_grad(model, {**state, block: x}, block)
        momentum = momentum - step_size * grad
    return x, momentum + step_size / 2 * grad, grad, energy


@dataclass(frozen=True)
class HMC(Sampler):
    """Hamiltonian Monte Carlo: a new momentum, ``leapfrog`` steps, accepted with probability min(1, exp(H - H_end)).

    H = E(x) + |momentum|^2 / 2 with a momentum from N(0, 1) for each transition. One transition takes
    ``leapfrog`` + 1 gradients. Positions are unbounded. In high dimension the optimal acceptance rate is near 0.65
    (Beskos et al. 2013).
    Info: ``energy`` at the end of the transition, ``grad_norm`` at its start, ``accept``, the share of accepted
    trajectories.
    Duane et al. (1987); Neal (2011), section 5.3.

    Args:
        step_size: step size of the leapfrog integrator, > 0, in units of the variable (mass 1).
        leapfrog: integrator steps of one trajectory, at least 1.
        free: the one variable that moves, shape (B, ...).

    Raises:
        ValueError: if ``step_size`` <= 0, ``leapfrog`` < 1, or ``free`` does not name exactly one variable.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> _ = torch.manual_seed(0)
    >>> energy = Gaussian(mean=[0.0], covariance=[1.0])
    >>> state, info = HMC(0.01).step(energy, {"x": torch.randn(100, 1)})
    >>> round(info["accept"].item(), 1)  # the integrator's error is O(step_size^2)
    1.0
    """

    step_size: float
    _: KW_ONLY
    leapfrog: int = 10
    free: tuple[str, ...] = ("x",)

    def __post_init__(self) -> None:
        if not (self.step_size > 0 and self.leapfrog >= 1):
            raise ValueError(
                f"HMC(step_size={self.step_size}, leapfrog={self.leapfrog}): expected step_size > 0 and leapfrog >= 1"
            )
        _ = self.block

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        block, x = self.block, select_variable(model, state, self.block)
        grad, energy = energy_grad(model, state, block)
        p = torch.randn_like(x)
        y, p_end, _, energy_end = velocity_verlet(model, state, block, p, grad, self.step_size, self.leapfrog)
        log_ratio = energy - energy_end + (p.square() - p_end.square()).detach().flatten(1).sum(1) / 2
        accepted = torch.rand_like(log_ratio).log() < log_ratio
        end = torch.where(accepted.view(-1, *[1] * (x.ndim - 1)), y, x)
        if not with_info:
            return {**state, block: end}, {}
        info = step_info(torch.where(accepted, energy_end, energy), grad)
        return {**state, block: end}, info | {"accept": accepted.to(log_ratio.dtype).mean()}
