"""Descent on a candidate: the prediction of an energy-based transformer."""

import torch
from torch import Tensor, nn

from ebm_lightning.core import (
    ENERGIES,
    STEP,
    TRAJECTORY,
    EnergyModel,
    Info,
    Sampler,
    State,
    energy_grad,
    select_variable,
    step_info,
)

MIN_STEP_SIZE = 1e-4
"""Lower bound of a learned step size."""


class Descent(nn.Module, Sampler):  # in this order: state_dict is the module's
    """y <- y - alpha dE/dy, with a step size alpha that may be learned (Gladstone et al. 2025 and their released code).

    In order: y is detached from earlier steps if ``detach``; noise N(0, 1) times ``noise`` is added; y becomes
    p = softmax(y) if ``softmax``; g = dE/dp is taken at p and clipped to +-clip / alpha; y <- p - alpha g. So the
    energy is evaluated at a distribution, while the results are logits, which the next step normalizes. Without noise
    this is gradient descent, at temperature 0; with noise the temperature is noise^2 / (2 alpha).

    In train mode the step size is redrawn at every step, uniformly from [alpha / s, s alpha] with s the
    ``step_size_jitter``; in eval mode it is alpha. (The released code draws it once for all steps of a prediction.) The
    trajectory is kept in train mode only, since many steps would need too much memory.
    The metadata "descent.step" (B,), int64, grows by 1 if the state has it.
    Info: ``energy`` and ``grad_norm`` where the gradient is taken, before clipping, ``alpha``, and ``clip_share``, the
    share of clipped gradient elements, if ``clip`` is set.

    | recipe           | step_size | learned | detach, return_trajectory | noise | jitter | steps, backprop      |
    |------------------|-----------|---------|---------------------------|-------|--------|----------------------|
    | text, System 1   | 500       | yes     | yes, yes                  | 0     | 1      | 2, 2                 |
    | text, System 2   | 5         | no      | no, no                    | 3     | 2      | RandomSteps(2, 3), 1 |
    | images, System 1 | 3000      | yes     | yes, no                   | 0     | 1      | 1, 1                 |

    The ``lr_multiplier`` of a learned step size is 3 ``step_size``. Steps and backprop are arguments of EBM. Text uses
    ``softmax``, images do not.

    Args:
        step_size: alpha, at least 1e-4, in units of the variable squared per unit of energy.
        free: the one variable that moves, shape (B, ...).
        learned: whether alpha is a parameter; the step size is then max(alpha, 1e-4).
        detach: whether every step starts from a constant, so that no loss is differentiated through earlier steps.
        noise: standard deviation of the noise of one step, >= 0, in units of the variable.
        softmax: whether a softmax over the last axis precedes every step.
        clip: the largest change of one element in a step of size alpha, in units of the variable; None for no limit.
        step_size_jitter: s >= 1; 1 for no jitter.
        step_size_jitter_axes: the number of leading axes with independent step sizes: 1 is one per example, 2 is one
            per example and position, as for text.
        return_trajectory: whether the state holds the end of each step, "<block>.trajectory" (B, steps, ...), and the
            energies at the start of each step, "<block>.energies" (B, steps).

    Raises:
        ValueError: if a number is out of range, or ``free`` does not name exactly one variable.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> energy = Gaussian(mean=[1.0], covariance=[1.0])
    >>> state, info = Descent(0.5, free=("x",)).step(energy, {"x": torch.zeros(1, 1)})
    >>> state["x"].item()
    0.5
    """

    alpha: Tensor

    def __init__(
        self,
        step_size: float,
        *,
        free: tuple[str, ...] = ("y",),
        learned: bool = False,
        detach: bool = False,
        noise: float = 0.0,
        softmax: bool = False,
        clip: float | None = None,
        step_size_jitter: float = 1.0,
        step_size_jitter_axes: int = 1,
        return_trajectory: bool = False,
    ) -> None:
        super().__init__()
        if not (step_size >= MIN_STEP_SIZE and noise >= 0):
            raise ValueError(
                f"Descent(step_size={step_size}, noise={noise}): expected step_size >= {MIN_STEP_SIZE} and noise >= 0"
            )
        if not (step_size_jitter >= 1 and step_size_jitter_axes >= 1):
            raise ValueError(
                f"Descent(step_size_jitter={step_size_jitter}, step_size_jitter_axes={step_size_jitter_axes}): "
                "expected numbers of at least 1"
            )
        if clip is not None and not clip > 0:
            raise ValueError(f"Descent(clip={clip}): expected a number > 0, or None for no clipping")
        self.free = tuple(free)
        self.detach, self.noise, self.softmax = detach, noise, softmax
        self.step_size_jitter, self.step_size_jitter_axes = step_size_jitter, step_size_jitter_axes
        self.clip, self.return_trajectory = clip, return_trajectory
        _ = self.block
        alpha = torch.tensor(float(step_size))
        if learned:
            self.alpha = nn.Parameter(alpha)
        else:
            self.register_buffer("alpha", alpha, persistent=False)

    def augment_state(self, state: State) -> State:
        """The state with an empty trajectory, if ``return_trajectory`` in train mode."""
        if not (self.return_trajectory and self.training):
            return state
        y = state[self.block]
        steps, energies = y.new_empty(len(y), 0, *y.shape[1:]), y.new_empty(len(y), 0)
        return {**state, self.block + TRAJECTORY: steps, self.block + ENERGIES: energies}

    def energy_input(self, state: State) -> State:
        """The state with p = softmax(y) in place of y, if ``softmax`` is set."""
        return {**state, self.block: state[self.block].softmax(-1)} if self.softmax else state

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        block, y = self.block, select_variable(model, state, self.block)
        if self.detach:
            y = y.detach()
        if self.noise > 0:
            y = y + self.noise * torch.randn_like(y)
        at = self.energy_input({**state, block: y})
        y = at[block]
        grad, energy = energy_grad(model, at, block)
        alpha = self.alpha.clamp(min=MIN_STEP_SIZE)
        bound = None if self.clip is None else self.clip / alpha
        info = step_info(energy, grad, bound) | {"alpha": alpha.detach()} if with_info else {}
        if bound is not None:
            grad = grad.clamp(-bound, bound)
        y = y - self._jittered(alpha, y) * grad
        return _counted({**state, block: y}, {block + TRAJECTORY: y, block + ENERGIES: energy}), info

    def _jittered(self, alpha: Tensor, y: Tensor) -> Tensor:
        if not self.training or self.step_size_jitter == 1:
            return alpha
        shape = y.shape[: self.step_size_jitter_axes]
        share = torch.rand(*shape, *[1] * (y.ndim - len(shape)), dtype=y.dtype, device=y.device)
        return alpha / self.step_size_jitter + share * (alpha * self.step_size_jitter - alpha / self.step_size_jitter)


def _counted(end: State, reached: State) -> State:
    """The end of a step, with the step counted and its values appended to the trajectory, if the state has one."""
    counted = {STEP: end[STEP] + 1} if STEP in end else {}
    added = {name: value[:, None].to(end[name].dtype) for name, value in reached.items() if name in end}
    return end | counted | {name: torch.cat([end[name], value], 1) for name, value in added.items()}
