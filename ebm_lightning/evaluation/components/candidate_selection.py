"""Predictions of test examples, after each number of steps and with the best of each number of candidates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, HasLocalEnergies, State, evaluating, trajectory
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.protocol import Protocol
from ebm_lightning.generation.samples import begun
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.random import capture, drawn_since


@dataclass(frozen=True)
class Thought:
    """How a prediction was made: by so many steps, from the best of so many candidates."""

    steps: int
    candidates: int = 1

    def __str__(self) -> str:
        chosen = f", best of {self.candidates}" if self.candidates > 1 else ""
        return f"after {self.steps} step{'' if self.steps == 1 else 's'}{chosen}"


PASS = Thought(0)
"""The one pass of a run without a sampler."""


@dataclass(eq=False)
class Thinking(Protocol):
    """A protocol of predictions: made here, measured by its subclasses.

    Args:
        steps: of the sampler, each at least 0; of no effect without one.
        number: test examples, at most: the first ones.
        block: the prediction.
        target: what it is compared with.
        candidates: of which the best is taken, each at least 1.

    Raises:
        ValueError: where a number is out of range.
    """

    steps: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 6, 15, 30])
    number: int = 1000
    block: str = "y"
    target: str = "target"
    candidates: list[int] = field(default_factory=lambda: [1])

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 0 or self.number < 1 or min(self.candidates, default=0) < 1:
            raise ValueError(
                f"{self.id}: expected one or more numbers of candidates, each at least 1, and of steps, each at "
                "least 0, and number >= 1"
            )

    @torch.no_grad()
    def errors(self, module: EBM, data: DataModule, error: Callable[[State], Tensor]) -> dict[Thought, Tensor]:
        """The errors (B, positions, ...) of test examples, summed over positions: (N, ...).

        Those of one candidate are always there, for comparison.
        Raises ValueError where block or target is missing, or several candidates are asked for and do not differ.
        """
        rows: dict[Thought, list[Tensor]] = {}
        left = self.number
        with evaluating(module):
            for batch in data.eval_loader("test", device=module.device):
                pos = self.completed(module, {name: value[:left] for name, value in batch.items()})
                for thought, found in self._chosen(module, pos, error):
                    rows.setdefault(thought, []).append(found.sum(1).cpu())
                left -= len(pos[self.target])
                if left <= 0:
                    break
        return {thought: torch.cat(parts) for thought, parts in rows.items()}

    def completed(self, module: EBM, batch: State) -> State:
        """The batch as the model completes it. Raises ValueError where block or target is missing."""
        pos = module.model.positive_phase(batch)
        missing = [name for name in (self.block, self.target) if name not in pos]
        if missing:
            raise ValueError(
                f"{self.id} compares a prediction with its target, but {missing} is not in the state "
                f"{sorted(pos)}: measure a run that predicts, on data with targets"
            )
        return pos

    def predictions(self, module: EBM, pos: State) -> Iterator[tuple[int, State]]:
        """Where the sampler is after each number of steps; the one pass of a run without a sampler is 0."""
        if module.sampler is None:
            yield 0, pos
            return
        sampler, start = begun(module, pos)
        if 0 in self.steps:
            yield 0, start
        walk = trajectory(sampler, module.model, start)
        for k, (state, _) in zip(range(1, max(self.steps) + 1), walk, strict=False):
            if k in self.steps:
                yield k, state

    def _chosen(self, module: EBM, pos: State, error: Callable[[State], Tensor]) -> Iterator[tuple[Thought, Tensor]]:
        """The errors (B, positions, ...) of the best candidates so far, whenever there are as many as asked for."""
        wanted, sampler = {1, *self.candidates}, module.sampler
        if max(wanted) == 1 or sampler is None:
            if max(wanted) > 1:
                raise ValueError(
                    f"{self.id} chooses among candidates by their energy, but this run predicts in one pass "
                    "without a sampler: measure it with candidates=[1]"
                )
            for k, state in self.predictions(module, pos):
                yield Thought(k), error(state)
            return
        best: dict[int, tuple[Tensor, Tensor]] = {}
        before = capture()
        for n in range(1, max(wanted) + 1):
            for k, state in self.predictions(module, pos):
                energy, found = _local_energies(module.model, sampler.energy_input(state)), error(state)
                energy = energy.reshape(len(energy), -1)
                if k in best:
                    least, kept = best[k]
                    found = torch.where((energy < least).view(*energy.shape, *[1] * (found.ndim - 2)), found, kept)
                    energy = torch.minimum(energy, least)
                best[k] = energy, found
                if n in wanted:
                    yield Thought(k, n), found
            if not drawn_since(before):
                raise ValueError(
                    f"{self.id} chooses among candidates, but every prediction of this run starts at the same "
                    "place and moves without noise, so that all are alike: measure it with candidates=[1]"
                )


def _local_energies(model: EnergyModel, state: State) -> Tensor:
    """The energies (B, ...) by which candidates are chosen: one for each part, or one for each example."""
    return model.local_energies(state) if isinstance(model, HasLocalEnergies) else model.energy(state)
