"""Optimizers and parameter groups of energy-based models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT


class SigmaClippedAdam(torch.optim.Adam):
    """Adam (Kingma & Ba 2015) that first clips every element of the gradient by its own history (Du & Mordatch 2019).

    In step t: g_t <- clip(g_t, -c_t, c_t) with c_t = sigmas sqrt(v_{t-1} / (1 - beta2^t)) + slack, then Adam's step
    with the clipped g_t, so that both moments are of clipped gradients. v_{t-1} is the second moment before this step
    and v_0 = 0, so that the first step clips at ``slack``; the bias correction includes this step, as in the authors'
    code, which makes c_t smaller than the usual estimate during the first few steps. Afterwards ``.grad`` of the
    parameters is the clipped gradient. The state is that of Adam. The authors' code adds eps to sqrt(v), this one to
    sqrt(v / (1 - beta2^t)): the same for gradients much larger than eps.

    Raises ValueError if sigmas is negative, slack is not positive, or an argument of Adam is out of range.

    Args:
        params: the parameters, or parameter groups, which may set their own sigmas and slack.
        lr: the learning rate.
        betas: the decay of the first and of the second moment, per step; the paper has no momentum.
        eps: the term added to the root of the second moment, in units of the gradient.
        sigmas: the clipping threshold in units of the root mean square of past gradients, >= 0.
        slack: the constant added to the threshold, in units of the gradient, > 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.0, 0.999),
        eps: float = 1e-8,
        sigmas: float = 3.0,
        slack: float = 0.1,
    ) -> None:
        if sigmas < 0 or slack <= 0:
            raise ValueError(
                f"SigmaClippedAdam(sigmas={sigmas}, slack={slack}): expected sigmas >= 0 and slack > 0; the first "
                "step clips at slack, so that with slack 0 nothing is learned"
            )
        super().__init__(params, lr=lr, betas=betas, eps=eps)
        self.defaults.update(sigmas=sigmas, slack=slack)
        for group in self.param_groups:
            group.setdefault("sigmas", sigmas)
            group.setdefault("slack", slack)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; gradients are clipped after ``closure``, if any, has computed them. Return its loss."""
        if closure is None:
            self._clip()
            super().step()
            return None

        def closure_then_clip() -> float:
            loss = closure()
            self._clip()
            return loss

        return super().step(closure_then_clip)

    @torch.no_grad()
    def _clip(self) -> None:
        for group in self.param_groups:
            beta2 = float(group["betas"][1])
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state: dict[str, Any] = self.state[parameter]
                if not state:
                    parameter.grad.clamp_(-group["slack"], group["slack"])
                    continue
                second_moment, t = cast(Tensor, state["exp_avg_sq"]), float(state["step"]) + 1
                bound = (second_moment / (1 - beta2**t)).sqrt_().mul_(group["sigmas"]).add_(group["slack"])
                parameter.grad.clamp_(-bound, bound)


@dataclass(frozen=True)
class SamplerParamGroup:
    """The learning rate of the parameters of a sampler, such as a learned step size.

    Args:
        lr_multiplier: factor of the optimizer's learning rate, > 0.
        min_lr_ratio: lower bound of the factor of :class:`~ebm_lightning.training.schedules.ScheduledLR`, in [0, 1],
            which does not apply to a warm-up. Other schedulers ignore it.

    Raises:
        ValueError: if a number is out of range.
    """

    lr_multiplier: float = 1.0
    min_lr_ratio: float = 0.0

    def __post_init__(self) -> None:
        if not (self.lr_multiplier > 0 and 0 <= self.min_lr_ratio <= 1):
            raise ValueError(f"{self}: expected lr_multiplier > 0 and min_lr_ratio in [0, 1]")


def exclude_biases_from_weight_decay(optimizer: torch.optim.Optimizer) -> None:
    """Put parameters of one dimension, biases and gains, into groups of their own without weight decay."""
    for group in [group for group in optimizer.param_groups if group.get("weight_decay")]:
        excluded = [p for p in group["params"] if p.ndim < 2]
        group["params"] = [p for p in group["params"] if p.ndim >= 2]
        if excluded:
            optimizer.add_param_group({**group, "params": excluded, "weight_decay": 0.0})


def add_sampler_param_group(optimizer: torch.optim.Optimizer, sampler: nn.Module, settings: SamplerParamGroup) -> None:
    """Put the parameters of a sampler into groups of their own, with their own learning rate."""
    own = {id(p) for p in sampler.parameters()}
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in own]
        group["params"] = [p for p in group["params"] if id(p) not in own]
        if moved:
            rates = {"lr": settings.lr_multiplier * group["lr"], "min_lr_ratio": settings.min_lr_ratio}
            optimizer.add_param_group({**group, "params": moved, **rates})
