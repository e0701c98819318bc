"""Descent on a candidate: how an energy-based transformer reaches its prediction."""

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, Info, Sampler, State, energy_grad, report

SMALLEST = 1e-4
"""Below which no step size falls, however it is learned."""


class Descent(Sampler, nn.Module):
    """y <- y - alpha dE/dy, with a step size that may be learned: each step is a thought about one variable.

    In order: y is detached from earlier steps where ``detach`` says so; noise N(0, 1) times ``noise`` is added; y
    becomes p = softmax(y) where ``normalize`` does; g = dE/dp is taken at p and clipped to +-clip / alpha; y <- p -
    alpha g. So the energy sees a distribution, while what comes out are logits, which the next step normalizes. Without
    noise this is descent, at temperature 0; the noise is that of a chain at the temperature noise^2 / (2 alpha).

    In train mode the step size is drawn afresh at every step, uniformly from [alpha / spread, alpha spread]; in eval
    mode it is alpha. (The released code draws it once for all steps of a prediction.) The path, too, is kept in train
    mode alone: thinking long would fill the memory with it.
    The rider "step" (B,), int64, grows by 1 where the state has one.
    Info: ``energy`` and ``grad_norm`` where the gradient is taken, before clipping, ``alpha``, and ``clip_share``, the
    share of clipped gradient elements, where ``clip`` is set. Gladstone et al. (2025) and their released code.

    | recipe           | step_size | learned, lr_multiplier | detach, return_trajectory | noise | spread | steps, backprop      |
    |------------------|-----------|----------------------|-------------------|-------|--------|----------------------|
    | text, System 1   | 500       | yes, 1500            | yes, yes          | 0     | 1      | 2, 2                 |
    | text, System 2   | 5         | no                   | no, no            | 3     | 2      | RandomSteps(2, 3), 1 |
    | images, System 1 | 3000      | yes, 9000            | yes, no           | 0     | 1      | 1, 1                 |

    Steps and backprop are EBM's. Text is normalized, images are not.

    Args:
        step_size: alpha, at least 1e-4, in units of the variable squared per unit of energy.
        free: the one variable that moves, shape (B, ...).
        learned: whether alpha is a parameter; it then acts as max(alpha, 1e-4).
        lr_multiplier: of the optimizer's learning rate, for a learned alpha, > 0.
        min_lr_ratio: the share of that rate below which :class:`~ebm_lightning.training.schedules.ScheduledLR` does not
            take it, in [0, 1]; a warm-up begins at 0 all the same. Other schedulers do not know it. None is 0.
        detach: whether every step starts from a constant, so that each is judged on its own.
        noise: standard deviation of the noise of one step, >= 0, in units of the variable.
        normalize: whether a softmax over the last axis precedes every step.
        clip: how far one element may move in a step of size alpha, in units of the variable; None is any distance.
        spread: s >= 1; 1 leaves the step size as it is.
        step_size_jitter_axes: how many leading axes have step sizes of their own: 1 is one for each example, 2 one for
            each example and position, as for text.
        return_trajectory: whether ``extend`` makes the state carry where every step ended, "<block>_path" (B, steps,
            ...), and the energies (B, steps) where every step began, "<block>_energies".

    Raises:
        ValueError: where a number is out of range, or ``free`` does not name exactly one variable.
    """

    alpha: Tensor

    def __init__(
        self,
        step_size: float,
        *,
        free: tuple[str, ...] = ("y",),
        learned: bool = False,
        lr_multiplier: float = 1.0,
        min_lr_ratio: float | None = None,
        detach: bool = False,
        noise: float = 0.0,
        normalize: bool = False,
        clip: float | None = None,
        spread: float = 1.0,
        step_size_jitter_axes: int = 1,
        return_trajectory: bool = False,
    ) -> None:
        super().__init__()
        if not (step_size >= SMALLEST and lr_multiplier > 0 and noise >= 0):
            raise ValueError(
                f"Descent(step_size={step_size}, lr_multiplier={lr_multiplier}, noise={noise}): expected "
                f"step_size >= {SMALLEST}, lr_multiplier > 0 and noise >= 0"
            )
        if not 0 <= (min_lr_ratio or 0.0) <= 1:
            raise ValueError(f"Descent(min_lr_ratio={min_lr_ratio}): expected a share in [0, 1], or None for no floor")
        if not (spread >= 1 and step_size_jitter_axes >= 1):
            raise ValueError(
                f"Descent(spread={spread}, step_size_jitter_axes={step_size_jitter_axes}): expected numbers of "
                f"at least 1"
            )
        if clip is not None and not clip > 0:
            raise ValueError(f"Descent(clip={clip}): expected a number > 0, or None for no clipping")
        self.free, self.lr_multiplier, self.min_lr_ratio = tuple(free), lr_multiplier, min_lr_ratio or 0.0
        self.detach, self.noise, self.normalize = detach, noise, normalize
        self.clip, self.spread, self.step_size_jitter_axes, self.return_trajectory = (
            clip,
            spread,
            step_size_jitter_axes,
            return_trajectory,
        )
        _ = self.block
        alpha = torch.tensor(float(step_size))
        if learned:
            self.alpha = nn.Parameter(alpha)
        else:
            self.register_buffer("alpha", alpha, persistent=False)

    def augment_state(self, state: State) -> State:
        """Adds the path and its energies, both of no steps yet, where they are to be kept."""
        if not (self.return_trajectory and self.training):
            return state
        y = state[self.block]
        path, energies = y.new_empty(len(y), 0, *y.shape[1:]), y.new_empty(len(y), 0)
        return {**state, f"{self.block}_path": path, f"{self.block}_energies": energies}

    def energy_input(self, state: State) -> State:
        """The state with p = softmax(y) in place of y, where ``normalize`` does that."""
        return {**state, self.block: state[self.block].softmax(-1)} if self.normalize else state

    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        block, y = self.block, model.value(state, self.block)
        if self.detach:
            y = y.detach()
        if self.noise > 0:
            y = y + self.noise * torch.randn_like(y)
        seen = self.energy_input({**state, block: y})
        y = seen[block]
        grad, energy = energy_grad(model, seen, block)
        alpha = self.alpha.clamp(min=SMALLEST)
        bound = None if self.clip is None else self.clip / alpha
        info = {**report(energy, grad, bound), "alpha": alpha.detach()}
        if bound is not None:
            grad = grad.clamp(-bound, bound)
        y = y - self._randomized(alpha, y) * grad
        end = {**state, block: y}
        if "step" in state:
            end["step"] = state["step"] + 1
        if f"{block}_path" in state:
            for name, reached in ((f"{block}_path", y), (f"{block}_energies", energy)):
                end[name] = torch.cat([state[name], reached[:, None].to(state[name].dtype)], 1)
        return end, info

    def _randomized(self, alpha: Tensor, y: Tensor) -> Tensor:
        if not self.training or self.spread == 1:
            return alpha
        drawn = y.shape[: self.step_size_jitter_axes]
        share = torch.rand(*drawn, *[1] * (y.ndim - len(drawn)), dtype=y.dtype, device=y.device)
        return alpha / self.spread + share * (alpha * self.spread - alpha / self.spread)
