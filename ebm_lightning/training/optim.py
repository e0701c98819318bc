"""Optimizers that recipes of energy-based models name."""

from collections.abc import Callable
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class SigmaClippedAdam(torch.optim.Adam):
    """Adam (Kingma & Ba 2015) that first clips every element of the gradient by its own history (Du & Mordatch 2019).

    In step t: g_t <- clip(g_t, -c_t, c_t) with c_t = sigmas sqrt(v_{t-1} / (1 - beta2^t)) + slack, then Adam's step
    with the clipped g_t, so that both moments see clipped gradients. v_{t-1} is the second moment before this step and
    v_0 = 0, so that the first step clips at ``slack``; the correction already counts this step, as in the authors'
    code, which makes c_t tighter than the usual estimate during the first few steps. The parameters' ``.grad`` hold
    the clipped gradient afterwards. The state is that of Adam. The authors' code adds eps to sqrt(v), this one to
    sqrt(v / (1 - beta2^t)): the same where gradients are far above eps.

    Raises ValueError where sigmas is negative or slack not positive, and for Adam's own arguments as Adam does.

    Args:
        params: The parameters, or parameter groups, which may set sigmas and slack of their own.
        lr: The learning rate.
        betas: The decay of the first and of the second moment, per step; the paper has no momentum.
        eps: What keeps the division by the second moment's root finite, in units of the gradient.
        sigmas: How many root mean squares of its past an element may reach.
        slack: What an element may reach beyond that, in units of the gradient; positive.
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
                "step clips at slack, so that without any nothing would ever be learned"
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
        """One step; the gradients are clipped after ``closure``, if any, has computed them. Returns its loss."""
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
