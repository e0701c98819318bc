"""Where the samples come from that a protocol judges: published numbers differ by this more than by the model."""

import abc
import copy
import sys
from dataclasses import dataclass
from itertools import islice

import torch

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.feature_extractors import run_folder
from ebm_lightning.generation.samples import blank, fresh_chains
from ebm_lightning.runs import checkpoints
from ebm_lightning.training.module import EBM


class SampleSource(abc.ABC):
    """Draws ``number`` samples of a trained run; final subclasses are frozen dataclasses.

    Raises ValueError where a number is < 1.
    """

    number: int

    @abc.abstractmethod
    def draw(self, module: EBM, data: DataModule) -> State:
        """``number`` samples: x, and beside it the labels of the chains where they have any."""


@dataclass(frozen=True)
class FreshChains(SampleSource):
    """The ends of chains from noise. Labels that the sampler leaves clamped are dealt in turn, as many of each class.

    Args:
        number: chains.
        steps: transitions of each.

    Raises:
        ValueError: where a number is < 1; when drawing, where the run has no sampler.
    """

    number: int
    steps: int

    def __post_init__(self) -> None:
        if min(self.number, self.steps) < 1:
            raise ValueError(f"{self}: expected number >= 1 and steps >= 1")

    def draw(self, module: EBM, data: DataModule) -> State:
        return _walked(module, blank(data, self.number, module.device), self.steps)


@dataclass(frozen=True)
class FromBuffer(SampleSource):
    """A random choice of the persistent chains of the run, as its last checkpoint has them.

    Training has moved them longer than any fresh chain, and under earlier weights. They have labels where the buffer
    keeps some.

    Args:
        number: chains, at most as many as live in the buffer.

    Raises:
        ValueError: where ``number`` < 1; when drawing, where the run has no buffer or fewer chains in it.
    """

    number: int

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"{self}: expected number >= 1")

    def draw(self, module: EBM, data: DataModule) -> State:
        if not module.chains.stateful:
            raise ValueError(
                f"{self} takes the persistent chains of a run, but this one has {type(module.chains).__name__}: "
                "judge FreshChains instead"
            )
        kept = module.chains.examples(sys.maxsize)
        alive = len(kept.get("x", ()))
        if alive < self.number:
            raise ValueError(f"{self} asks for more chains of x than the {alive} in the buffer: take at most as many")
        rows = torch.randperm(alive)[: self.number]
        return {name: value[rows.to(value.device)] for name, value in kept.items()}


@dataclass(frozen=True)
class FromCheckpoints(SampleSource):
    """An ensemble: chains from noise, dealt in equal parts over the newest ``last`` checkpoints of the run.

    Du & Mordatch (2019) report samples of 10 checkpoints. Their released code moves one buffer of chains by each of
    them in turn; here a chain sees one checkpoint alone. Noise that was fitted to the data is that of the checkpoint.

    Args:
        last: checkpoints, at most as many as the run keeps (``checkpoint.keep``).
        number: chains in all, at least ``last``.
        steps: transitions of each.

    Raises:
        ValueError: where a number is out of range; when drawing, where the run has fewer checkpoints that are whole.
    """

    last: int
    number: int
    steps: int

    def __post_init__(self) -> None:
        if not 1 <= self.last <= self.number or self.steps < 1:
            raise ValueError(f"{self}: expected 1 <= last <= number and steps >= 1")

    def draw(self, module: EBM, data: DataModule) -> State:
        run = run_folder(module)
        found = list(islice(checkpoints.whole(run.checkpoints()), self.last))
        if len(found) < self.last:
            raise ValueError(
                f"{self} needs {self.last} checkpoints, but the run {run.path} has {len(found)} that are whole: ask "
                f"for fewer, or train with `checkpoint.keep: {self.last}`"
            )
        batch, own = blank(data, self.number, module.device), copy.deepcopy(module.state_dict())
        parts: list[State] = []
        try:
            for path, rows in zip(found, torch.arange(self.number).tensor_split(self.last), strict=True):
                weights = checkpoints.load(path, module.device)["state_dict"]
                checkpoints.check_weights(module, weights)
                module.load_state_dict(weights)
                mine = {name: value[rows.to(value.device)] for name, value in batch.items()}
                parts.append(_walked(module, mine, self.steps))
        finally:
            module.load_state_dict(own)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _walked(module: EBM, batch: State, steps: int, batch_size: int = 500) -> State:
    """The variables of a batch at the ends of fresh chains, some at a time."""
    ends = []
    for i in range(0, len(batch["x"]), batch_size):
        some = {name: value[i : i + batch_size] for name, value in batch.items()}
        ends.append(fresh_chains(module, some, steps, progress=True))
    return {name: torch.cat([end[name] for end in ends]) for name in batch}
