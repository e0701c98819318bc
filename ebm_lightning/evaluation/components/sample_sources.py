"""Sources of samples for the protocols: published numbers depend on the source as much as on the model."""

import abc
import copy
import sys
from dataclasses import dataclass
from itertools import islice

import torch

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.feature_extractors import run_folder
from ebm_lightning.generation.samples import empty_batch, fresh_chains
from ebm_lightning.runs import checkpoints
from ebm_lightning.training.module import EBM


class SampleSource(abc.ABC):
    """A source of ``num_samples`` samples of a trained run; final subclasses are frozen dataclasses."""

    num_samples: int

    @abc.abstractmethod
    def draw(self, module: EBM, data: DataModule) -> State:
        """``num_samples`` samples: x, and the labels of the chains if they have any."""


@dataclass(frozen=True)
class FreshChains(SampleSource):
    """The ends of chains from noise. Labels that the sampler leaves clamped are distributed evenly over the classes.

    Args:
        num_samples: number of chains.
        steps: transitions of each.

    Raises:
        ValueError: if a number is < 1; when drawing, if the run has no sampler.
    """

    num_samples: int
    steps: int

    def __post_init__(self) -> None:
        if min(self.num_samples, self.steps) < 1:
            raise ValueError(f"{self}: expected num_samples >= 1 and steps >= 1")

    def draw(self, module: EBM, data: DataModule) -> State:
        return _sample(module, empty_batch(data, self.num_samples, module.device), self.steps)


@dataclass(frozen=True)
class FromBuffer(SampleSource):
    """A random subset of the persistent chains of the run, from its last checkpoint.

    They have had more transitions than fresh chains, partly under earlier weights. They have labels if the buffer
    stores labels.

    Args:
        num_samples: number of chains, at most the number in the buffer.

    Raises:
        ValueError: if ``num_samples`` < 1; when drawing, if the run has no buffer or fewer chains in it.
    """

    num_samples: int

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"{self}: expected num_samples >= 1")

    def draw(self, module: EBM, data: DataModule) -> State:
        if not module.chains.stateful:
            raise ValueError(
                f"{self} takes the persistent chains of a run, but this one has {type(module.chains).__name__}: "
                "measure FreshChains instead"
            )
        stored = module.chains.examples(sys.maxsize)
        total = len(stored.get("x", ()))
        if total < self.num_samples:
            raise ValueError(f"{self} takes more chains of x than the {total} in the buffer: take at most as many")
        rows = torch.randperm(total)[: self.num_samples]
        return {name: value[rows.to(value.device)] for name, value in stored.items()}


@dataclass(frozen=True)
class FromCheckpoints(SampleSource):
    """An ensemble: chains from noise, distributed evenly over the newest ``last`` checkpoints of the run.

    Du & Mordatch (2019) report samples of 10 checkpoints. Their released code moves one buffer of chains by each of
    them in turn; here each chain is sampled from one checkpoint. Noise fitted to the data is that of the checkpoint.

    Args:
        last: number of checkpoints, at most the number that the run keeps (``checkpoint.keep``).
        num_samples: number of chains in total, at least ``last``.
        steps: transitions of each.

    Raises:
        ValueError: if a number is out of range; when drawing, if the run has fewer valid checkpoints.
    """

    last: int
    num_samples: int
    steps: int

    def __post_init__(self) -> None:
        if not 1 <= self.last <= self.num_samples or self.steps < 1:
            raise ValueError(f"{self}: expected 1 <= last <= num_samples and steps >= 1")

    def draw(self, module: EBM, data: DataModule) -> State:
        run = run_folder(module)
        found = list(islice(checkpoints.valid_checkpoints(run.checkpoints()), self.last))
        if len(found) < self.last:
            raise ValueError(
                f"{self} needs {self.last} checkpoints, but the run {run.path} has {len(found)} that are valid: take "
                f"fewer, or train with `checkpoint.keep: {self.last}`"
            )
        batch, trained = empty_batch(data, self.num_samples, module.device), copy.deepcopy(module.state_dict())
        parts: list[State] = []
        try:
            for path, rows in zip(found, torch.arange(self.num_samples).tensor_split(self.last), strict=True):
                weights = checkpoints.load(path, module.device)["state_dict"]
                checkpoints.check_weights(module, weights)
                module.load_state_dict(weights)
                share = {name: value[rows.to(value.device)] for name, value in batch.items()}
                parts.append(_sample(module, share, self.steps))
        finally:
            module.load_state_dict(trained)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _sample(module: EBM, batch: State, steps: int, batch_size: int = 500) -> State:
    """The variables of a batch at the ends of fresh chains, in batches."""
    ends = []
    for i in range(0, len(batch["x"]), batch_size):
        part = {name: value[i : i + batch_size] for name, value in batch.items()}
        ends.append(fresh_chains(module, part, steps, progress=True))
    return {name: torch.cat([end[name] for end in ends]) for name in batch}
