"""Predictions of test examples, after each number of steps and with the best of each number of candidates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, HasLocalEnergies, State, evaluating, trajectory
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.protocol import Protocol
from ebm_lightning.generation.samples import init_chains
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.random import capture, drawn_since


@dataclass(frozen=True)
class InferenceBudget:
    """The computation spent on a prediction.

    Args:
        steps: of the sampler; 0 for none.
        candidates: predictions, of which the best is chosen by its energy.
    """

    steps: int
    candidates: int = 1

    def __str__(self) -> str:
        chosen = f", best of {self.candidates}" if self.candidates > 1 else ""
        return f"after {self.steps} step{'' if self.steps == 1 else 's'}{chosen}"


SINGLE_PASS = InferenceBudget(0)
"""The budget of a run without a sampler, which predicts in one pass."""


@dataclass(eq=False)
class CandidateSelection(Protocol):
    """Base of the protocols of predictions: it makes the predictions, its subclasses measure them.

    Args:
        steps: of the sampler, each at least 0; of no effect without one.
        num_examples: test examples, at most: the first ones.
        block: the prediction.
        target: the truth that it is compared with.
        candidates: predictions of which the best is chosen, each number at least 1.

    Raises:
        ValueError: if a number is out of range.
    """

    steps: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 6, 15, 30])
    num_examples: int = 1000
    block: str = "y"
    target: str = "target"
    candidates: list[int] = field(default_factory=lambda: [1])

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 0 or self.num_examples < 1 or min(self.candidates, default=0) < 1:
            raise ValueError(
                f"{self.id}: expected one or more numbers of candidates, each at least 1, and of steps, each at "
                "least 0, and num_examples >= 1"
            )

    @torch.no_grad()
    def errors(self, module: EBM, data: DataModule, error: Callable[[State], Tensor]) -> dict[InferenceBudget, Tensor]:
        """The errors (B, positions, ...) of test examples, summed over positions: (N, ...) for each budget.

        The budgets of one candidate are always included, for comparison.

        Raises:
            ValueError: if block or target is missing, or several candidates are requested and all are equal.
        """
        rows: dict[InferenceBudget, list[Tensor]] = {}
        left = self.num_examples
        with evaluating(module):
            for batch in data.eval_loader("test", device=module.device):
                pos = self.completed(module, {name: value[:left] for name, value in batch.items()})
                for budget, chosen in self._chosen(module, pos, error):
                    rows.setdefault(budget, []).append(chosen.sum(1).cpu())
                left -= len(pos[self.target])
                if left <= 0:
                    break
        return {budget: torch.cat(parts) for budget, parts in rows.items()}

    def completed(self, module: EBM, batch: State) -> State:
        """The batch, completed by the model.

        Raises:
            ValueError: if block or target is missing.
        """
        pos = module.model.positive_phase(batch)
        missing = [name for name in (self.block, self.target) if name not in pos]
        if missing:
            raise ValueError(
                f"{self.id} compares a prediction with its target, but {missing} is not in the state "
                f"{sorted(pos)}: measure a run that predicts, on data with targets"
            )
        return pos

    def predictions(self, module: EBM, pos: State) -> Iterator[tuple[int, State]]:
        """The state of the sampler after each number of steps; of a run without a sampler its one pass, as 0 steps."""
        if module.sampler is None:
            yield 0, pos
            return
        sampler, start = init_chains(module, pos)
        if 0 in self.steps:
            yield 0, start
        chain = trajectory(sampler, module.model, start)
        for k, (state, _) in zip(range(1, max(self.steps) + 1), chain, strict=False):
            if k in self.steps:
                yield k, state

    def _chosen(
        self, module: EBM, pos: State, error: Callable[[State], Tensor]
    ) -> Iterator[tuple[InferenceBudget, Tensor]]:
        """The errors (B, positions, ...) of the best candidates, for each requested number of candidates."""
        requested, sampler = {1, *self.candidates}, module.sampler
        if max(requested) == 1 or sampler is None:
            if max(requested) > 1:
                raise ValueError(
                    f"{self.id} chooses among candidates by their energy, but this run predicts in one pass "
                    "without a sampler: measure it with candidates=[1]"
                )
            for k, state in self.predictions(module, pos):
                yield InferenceBudget(k), error(state)
            return
        best: dict[int, tuple[Tensor, Tensor]] = {}
        before = capture()
        for n in range(1, max(requested) + 1):
            for k, state in self.predictions(module, pos):
                energy, errors = _local_energies(module.model, sampler.energy_input(state)), error(state)
                energy = energy.reshape(len(energy), -1)
                if k in best:
                    lowest, kept = best[k]
                    lower = (energy < lowest).view(*energy.shape, *[1] * (errors.ndim - 2))
                    errors, energy = torch.where(lower, errors, kept), torch.minimum(energy, lowest)
                best[k] = energy, errors
                if n in requested:
                    yield InferenceBudget(k, n), errors
            if not drawn_since(before):
                raise ValueError(
                    f"{self.id} chooses among candidates, but all candidates of this run are equal, since it starts at "
                    "one place and moves without noise: measure it with candidates=[1]"
                )


def _local_energies(model: EnergyModel, state: State) -> Tensor:
    """The energies (B, ...) by which candidates are chosen: one for each part, or one for each example."""
    return model.local_energies(state) if isinstance(model, HasLocalEnergies) else model.energy(state)
