"""Persistent chains defined outside the package: a queue, whose oldest chains go on."""

import torch
from torch import Tensor

from ebm_lightning.core import Chains, Info, State


class ChainQueue(Chains):
    """Chains in a first-in, first-out queue that is filled from the data.

    Args:
        size: chains in the queue; a batch must not be larger.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.queue: Tensor | None = None

    def start(self, pos: State, free: tuple[str, ...]) -> State:
        x = pos["x"].detach()
        if self.queue is None:
            self.queue = x.repeat(-(-self.size // len(x)), *[1] * (x.ndim - 1))[: self.size].clone()
        n = len(x)
        return {**{name: value.detach() for name, value in pos.items()}, "x": self.queue[:n]}

    def finish(self, end: State) -> None:
        assert self.queue is not None
        self.queue = torch.cat([self.queue[len(end["x"]) :], end["x"]])

    def state_dict(self) -> State:
        return {} if self.queue is None else {"queue": self.queue}

    def load_state_dict(self, state: State) -> None:
        self.queue = state["queue"]

    def info(self) -> Info:
        return {} if self.queue is None else {"mean": self.queue.mean()}
