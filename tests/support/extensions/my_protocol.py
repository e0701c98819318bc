"""A protocol defined outside the package: whether the energy increases away from the data."""

from dataclasses import dataclass

import torch

from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation import Protocol, ProtocolResult
from ebm_lightning.evaluation.protocol import mean
from ebm_lightning.generation.samples import energies
from ebm_lightning.training.module import EBM


@dataclass(eq=False)
class EnergyIncrease(Protocol):
    """Mean increase of the energy if Gaussian noise is added to a test example, with its standard error over examples.

    It is positive for a model whose energy is lower at the data than around them.

    Args:
        std: standard deviation of the noise in units of the data, > 0.

    Raises:
        ValueError: if ``std`` <= 0.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"{self.id}: expected std > 0")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        test = data.tensors("test")
        noised = {**test, "x": test["x"] + self.std * torch.randn_like(test["x"])}
        increase = energies(module, noised) - energies(module, test)
        return ProtocolResult({"energy_increase": mean(increase).labeled("increase of the energy by noise")})
