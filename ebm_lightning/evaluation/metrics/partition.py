"""Estimators of log Z, for protocols and monitors."""

import abc
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import (
    Annealable,
    AnnealingPath,
    EnergyModel,
    ExactlyNormalized,
    State,
    evaluating,
    free_energy,
    require,
)
from ebm_lightning.evaluation.metrics.annealing import Betas, ais
from ebm_lightning.evaluation.metrics.weights import LogPartition


class PartitionEstimator(abc.ABC):
    """An estimator of log Z of a model. Final subclasses are frozen dataclasses; ``kind`` is their name in results."""

    kind: str

    @abc.abstractmethod
    def __call__(self, model: EnergyModel, batches: Iterable[State]) -> LogPartition:
        """log Z of the model.

        Under torch.distributed every rank calls it, each with a random stream of its own.

        Args:
            model: the model.
            batches: a pass over the training data on the model's device, used only if needed.
        """


@dataclass(frozen=True)
class Exact(PartitionEstimator):
    """log Z by the model's own closed form or enumeration.

    Args:
        largest: the largest number n of units whose 2^n states are enumerated, for models that enumerate.

    Raises:
        ValueError: at a call, if the model would enumerate more units.
    """

    kind = "exact"
    largest: int = 25

    @torch.no_grad()
    def __call__(self, model: EnergyModel, batches: Iterable[State]) -> LogPartition:
        log_z = float(require(model, ExactlyNormalized).log_partition(self.largest))
        return LogPartition(log_z, log_z, log_z)


@dataclass(frozen=True)
class AIS(PartitionEstimator):
    """log Z by annealed importance sampling; see :func:`ais`.

    Args:
        betas: the schedule of inverse temperatures.
        chains: number of chains in total, at least 2; 100 are customary.
        fit_base: whether the path starts at a distribution fitted to the training data (Salakhutdinov & Murray 2008)
            rather than to the model's own parameters.
    """

    kind = "AIS"
    betas: Betas
    chains: int = 100
    fit_base: bool = True

    def __post_init__(self) -> None:
        if self.chains < 2:
            raise ValueError(f"{self}: expected at least 2 chains")

    def path(self, model: EnergyModel, batches: Iterable[State]) -> AnnealingPath:
        """The annealing path to the model."""
        with evaluating(model), torch.no_grad():
            return require(model, Annealable).annealing_path(batches if self.fit_base else None)

    def __call__(self, model: EnergyModel, batches: Iterable[State]) -> LogPartition:
        return ais(self.path(model, batches), self.betas(), self.chains)


@torch.no_grad()
def free_energies(model: EnergyModel, batches: Iterable[State], n: int | None = None) -> Tensor:
    """-log p* of the first n examples of batches of data, of all if None: (N,), float64, on the CPU.

    It is the model's free energy, in eval mode.
    """
    parts: list[Tensor] = []
    missing = math.inf if n is None else n
    with evaluating(model):
        for batch in batches:
            parts.append(free_energy(model, batch).double().cpu())
            missing -= len(parts[-1])
            if missing <= 0:
                break
    return torch.cat(parts)[:n]
