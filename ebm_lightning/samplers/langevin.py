"""Langevin dynamics: the unadjusted chain, the one of deep energy models with decoupled noise, and MALA."""

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ebm_lightning.core import Bounds, EnergyModel, Info, Sampler, State, energy_grad, select_variable, step_info


@dataclass(frozen=True)
class Langevin(Sampler):
    """Unadjusted Langevin dynamics: x <- x - s dE/dx + sqrt(2 s T) N(0, 1), with step size s and temperature T.

    As s -> 0 the stationary distribution tends to exp(-E/T), normalized; at finite s its bias is O(s). For a standard
    normal p, at T = 1, the stationary variance is 1 / (1 - s/2). T = 0 is gradient descent.
    Info: ``energy`` and ``grad_norm`` at the start of the step. Roberts & Tweedie (1996).

    Args:
        step_size: s > 0, in units of the variable squared per unit of energy.
        temperature: T >= 0.
        free: the one variable that moves, shape (B, ...).

    Raises:
        ValueError: if ``step_size`` <= 0, ``temperature`` < 0, or ``free`` does not name exactly one variable.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> energy = Gaussian(mean=[0.0], covariance=[1.0])
    >>> state, info = Langevin(0.25, temperature=0.0).step(energy, {"x": torch.ones(1, 1)})
    >>> state["x"].item(), info["energy"].item()  # x - s x; x^2 / 2 at the start
    (0.75, 0.5)
    """

    step_size: float
    _: KW_ONLY
    temperature: float = 1.0
    free: tuple[str, ...] = ("x",)

    def __post_init__(self) -> None:
        _ = self.block
        if not (self.step_size > 0 and self.temperature >= 0):
            raise ValueError(
                f"Langevin(step_size={self.step_size}, temperature={self.temperature}): expected step_size > 0 and "
                "temperature >= 0"
            )

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        block, x = self.block, select_variable(model, state, self.block)
        grad, energy = energy_grad(model, state, block)
        noise = math.sqrt(2 * self.step_size * self.temperature) * torch.randn_like(x)
        return {**state, block: x - self.step_size * grad + noise}, step_info(energy, grad) if with_info else {}


@dataclass(frozen=True)
class SGLD(Sampler):
    """Langevin dynamics of deep energy models, with decoupled noise: x <- x - step_size dE/dx + noise N(0, 1).

    This is :class:`Langevin` at the temperature noise^2 / (2 step_size): without clip and bounds, and for small steps,
    its stationary distribution is near p^(1/temperature), not p. All published settings have temperatures far below 1,
    at which chains are closer to gradient descent than to samples from p:

    | source                                    | step_size | noise | clip | bounds  | noise_first | temperature |
    |-------------------------------------------|-----------|-------|------|---------|-------------|-------------|
    | IGEBM, CIFAR-10 (Du & Mordatch 2019)      | 10        | 0.005 | 0.01 | (0, 1)  | yes         | 1.25e-6     |
    | JEM (Grathwohl et al. 2020)               | 1         | 0.01  | none | none    | no          | 5e-5        |
    | JEM++ (Yang & Ji 2021), SADA-JEM (2023)   | 1         | 0     | 1    | (-1, 1) | -           | 0           |
    | improved CD, CIFAR-10 (Du et al. 2021)    | 100       | 0.001 | none | (0, 1)  | yes         | 5e-9        |
    | UvA deep-learning tutorial 8, MNIST       | 10        | 0.005 | 0.03 | (-1, 1) | yes         | 1.25e-6     |

    These are the settings of the released code. JEM++ has inner steps of size 0.2, see :class:`ProximalSGLD`; improved
    CD has step size 500 on CelebA; the UvA tutorial also clamps between the noise and the gradient. JEM writes
    x + df/dx with f = -E.
    Info: ``energy`` and ``grad_norm`` (before clipping) where the gradient is taken, and ``clip_share``, the share of
    clipped gradient elements, if ``clip`` is set.

    Args:
        step_size: factor of the gradient, > 0, in units of the variable squared per unit of energy.
        noise: standard deviation of the noise of one step, >= 0, in units of the variable.
        clip: every element of the gradient is clipped to [-clip, clip]; None for no clipping.
        bounds: the interval to which positions are clamped at the end of a step; None for no bounds.
        noise_first: whether the noise is added before the gradient is taken, which is then taken at the noised position
            (IGEBM), or after it (JEM).
        free: the one variable that moves, shape (B, ...).

    Raises:
        ValueError: if ``step_size`` <= 0, ``noise`` < 0, ``clip`` <= 0, ``bounds`` are not (low, high) with
            low < high, or ``free`` does not name exactly one variable.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> energy = Gaussian(mean=[0.0], covariance=[1.0])
    >>> sampler = SGLD(2.0, noise=0.0, clip=0.1)
    >>> round(sampler.step(energy, {"x": torch.ones(1, 1)})[0]["x"].item(), 4), sampler.temperature  # 1 - 2 * 0.1
    (0.8, 0.0)
    """

    step_size: float
    _: KW_ONLY
    noise: float
    clip: float | None = None
    bounds: Bounds | None = None
    noise_first: bool = False
    free: tuple[str, ...] = ("x",)

    def __post_init__(self) -> None:
        _ = self.block
        if not (self.step_size > 0 and self.noise >= 0):
            raise ValueError(
                f"SGLD(step_size={self.step_size}, noise={self.noise}): expected step_size > 0 and noise >= 0"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"SGLD(clip={self.clip}): expected a number > 0, or None for no clipping")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"SGLD(bounds={self.bounds}): expected (low, high) with low < high, or None")

    @property
    def temperature(self) -> float:
        """noise^2 / (2 step_size): the temperature of :class:`Langevin` with the same step."""
        return self.noise**2 / (2 * self.step_size)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        block, x = self.block, select_variable(model, state, self.block)
        if self.noise_first:
            x = self._noised(x)
        grad, energy = energy_grad(model, {**state, block: x}, block)
        info = step_info(energy, grad, self.clip) if with_info else {}
        if self.clip is not None:
            grad = grad.clamp(-self.clip, self.clip)
        x = x - self.step_size * grad
        if not self.noise_first:
            x = self._noised(x)
        if self.bounds is not None:
            x = x.clamp(*self.bounds)
        return {**state, block: x}, info

    def _noised(self, x: Tensor) -> Tensor:
        return x + self.noise * torch.randn_like(x) if self.noise > 0 else x


@dataclass(frozen=True)
class MALA(Sampler):
    """Metropolis-adjusted Langevin algorithm: :class:`Langevin` at temperature 1 as the proposal; p is invariant.

    y = x - s dE(x) + sqrt(2 s) z is taken with probability min(1, p(y) q(x|y) / (p(x) q(y|x))), where
    log q(x|y) = -|z - sqrt(s/2) (dE(x) + dE(y))|^2 / 2 and log q(y|x) = -|z|^2 / 2, up to the same constant.
    Positions are unbounded. In high dimension the optimal acceptance rate is near 0.57 (Roberts & Rosenthal 1998).
    Info: ``energy`` at the end of the step, ``grad_norm`` at its start, ``accept``, the share of accepted proposals.
    Roberts & Tweedie (1996).

    Args:
        step_size: s > 0, in units of the variable squared per unit of energy.
        free: the one variable that moves, shape (B, ...).

    Raises:
        ValueError: if ``step_size`` <= 0, or ``free`` does not name exactly one variable.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> _ = torch.manual_seed(0)
    >>> energy = Gaussian(mean=[0.0], covariance=[1.0])
    >>> state, info = MALA(1e-3).step(energy, {"x": torch.randn(100, 1)})
    >>> round(info["accept"].item(), 1)  # tends to 1 as the step size tends to 0
    1.0
    """

    step_size: float
    _: KW_ONLY
    free: tuple[str, ...] = ("x",)

    def __post_init__(self) -> None:
        _ = self.block
        if not self.step_size > 0:
            raise ValueError(f"MALA(step_size={self.step_size}): expected a number > 0")

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        block, x, s = self.block, select_variable(model, state, self.block), self.step_size
        grad_x, energy_x = energy_grad(model, state, block)
        z = torch.randn_like(x)
        y = x - s * grad_x + math.sqrt(2 * s) * z
        grad_y, energy_y = energy_grad(model, {**state, block: y}, block)
        back = z - math.sqrt(s / 2) * (grad_x + grad_y)
        log_ratio = energy_x - energy_y + (z.square() - back.square()).detach().flatten(1).sum(1) / 2
        accepted = torch.rand_like(log_ratio).log() < log_ratio
        end = torch.where(accepted.view(-1, *[1] * (x.ndim - 1)), y, x)
        energy = torch.where(accepted, energy_y, energy_x)
        info = step_info(energy, grad_x) | {"accept": accepted.to(log_ratio.dtype).mean()} if with_info else {}
        return {**state, block: end}, info
