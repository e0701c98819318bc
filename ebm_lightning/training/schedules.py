"""Schedules: numbers as functions of the training step, and the scheduler that applies them to an optimizer."""

import math
from dataclasses import dataclass

import torch
from torch.optim.lr_scheduler import LRScheduler

from ebm_lightning.core import Schedule
from ebm_lightning.utils.random import mix


@dataclass(frozen=True)
class Linear(Schedule):
    """From ``first`` at step 0 to ``last`` at step ``steps``, and ``last`` from there on.

    Args:
        first: the number at the start.
        last: the number at the end.
        steps: training steps from one to the other, at least 1.
    """

    first: float
    last: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Linear(steps={self.steps}): expected at least 1 training step")

    def __call__(self, step: int) -> float:
        return self.first + (self.last - self.first) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 at step 0 to ``last`` at step ``steps`` along half a cosine, and ``last`` from there on.

    last + (1 - last) (1 + cos(pi step / steps)) / 2. Loshchilov & Hutter (2017), without restarts.

    Args:
        steps: training steps from one to the other, at least 1.
        last: the number at the end.
    """

    steps: int
    last: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Cosine(steps={self.steps}): expected at least 1 training step")

    def __call__(self, step: int) -> float:
        return self.last + (1 - self.last) * (1 + math.cos(math.pi * min(step / self.steps, 1.0))) / 2


@dataclass(frozen=True)
class StepIncrease(Schedule):
    """min(first + step // every, last): ``first``, and 1 more after each ``every`` training steps.

    CD-k with a growing k: Salakhutdinov & Murray (2008) go from 1 to 25.

    Args:
        first: the number at the start.
        last: the largest number.
        every: training steps between increases, at least 1.
    """

    first: int
    last: int
    every: int

    def __post_init__(self) -> None:
        if self.every < 1 or self.last < self.first:
            raise ValueError(
                f"StepIncrease(first={self.first}, last={self.last}, every={self.every}): expected every >= 1 and "
                "last >= first"
            )

    def __call__(self, step: int) -> float:
        return min(self.first + step // self.every, self.last)


@dataclass(frozen=True)
class RandomSteps(Schedule):
    """A uniformly random integer from ``low`` to ``high`` for each training step, by hashing.

    It depends on the training step and the seed only, so that all ranks and a continued run have the same numbers.

    Args:
        low: the smallest number, at least 1.
        high: the largest number.
        seed: seed of the hash.
    """

    low: int
    high: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"RandomSteps(low={self.low}, high={self.high}): expected 1 <= low <= high")

    def __call__(self, step: int) -> float:
        return self.low + mix(self.seed, step) % (self.high - self.low + 1)


@dataclass(frozen=True)
class Piecewise(Schedule):
    """``before`` up to training step ``at``, ``after`` from there on: momentum 0.5, then 0.9 (Hinton 2010).

    Args:
        before: the number at the start.
        after: the number later.
        at: the first step of ``after``.
    """

    before: float
    after: float
    at: int

    def __call__(self, step: int) -> float:
        return self.before if step < self.at else self.after


@dataclass(frozen=True)
class Milestones(Schedule):
    """``factor`` to the power of the number of milestones reached: 1, then ``factor``, then its square.

    Args:
        at: the milestones, training steps.
        factor: the number.
    """

    at: tuple[int, ...]
    factor: float

    def __call__(self, step: int) -> float:
        return float(self.factor ** sum(step >= milestone for milestone in self.at))


@dataclass(frozen=True)
class WarmUp(Schedule):
    """A schedule with a linear warm-up from 0: inner(step) min(step / steps, 1).

    Args:
        steps: training steps of the warm-up, at least 1.
        inner: the schedule; None is 1 throughout.
    """

    steps: int
    inner: Schedule | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"WarmUp(steps={self.steps}): expected at least 1 training step")

    def __call__(self, step: int) -> float:
        return min(step / self.steps, 1.0) * (1.0 if self.inner is None else self.inner(step))


@dataclass(frozen=True)
class Inverse(Schedule):
    """1 / schedule(step): a learning rate that falls as the k of CD-k grows.

    Args:
        inner: the schedule, never 0.
    """

    inner: Schedule

    def __call__(self, step: int) -> float:
        return 1 / self.inner(step)


class ScheduledLR(LRScheduler):
    """A scheduler that multiplies the learning rate by ``factor`` and sets the momentum.

    Momentum is outside the learning rate, as in torch's SGD: buf = momentum buf + gradient, p -= lr buf.

    A parameter group may have a ``min_lr_ratio`` r in [0, 1], which is part of the optimizer's checkpoint: its factor
    is max(factor, r), and for a warm-up min(step / steps, 1) max(inner(step), r).

    Args:
        optimizer: the optimizer, with a momentum if ``momentum`` is given.
        factor: factor of the optimizer's initial learning rate; None is 1.
        momentum: the momentum; None does not change it.

    Raises:
        ValueError: if ``momentum`` is given and the optimizer has none.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, factor: Schedule | None = None, momentum: Schedule | None = None
    ) -> None:
        if momentum is not None and any("momentum" not in group for group in optimizer.param_groups):
            raise ValueError(
                f"{type(optimizer).__name__} has no momentum that could follow a schedule: use torch.optim.SGD"
            )
        self.factor, self.momentum = factor, momentum
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """The learning rate of each group; as a side effect the momentum is set."""
        step, groups = max(self.last_epoch, 0), self.optimizer.param_groups
        for group in groups:
            if self.momentum is not None:
                group["momentum"] = self.momentum(step)
        factors = [_at_least(group.get("min_lr_ratio", 0.0), self.factor, step) for group in groups]
        return [rate * factor for rate, factor in zip(self.base_lrs, factors, strict=True)]

    def state_dict(self) -> dict[str, int]:
        """The position only; the schedules are part of the configuration."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}


def _at_least(lowest: float, factor: Schedule | None, step: int) -> float:
    """max(factor(step), lowest); a warm-up multiplies the result for its inner schedule."""
    if factor is None:
        return 1.0
    if isinstance(factor, WarmUp):
        return WarmUp(factor.steps)(step) * _at_least(lowest, factor.inner, step)
    return max(factor(step), lowest)
