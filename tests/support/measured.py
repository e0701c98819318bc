"""Data, an energy, a sampler and modules that protocols are measured on."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import EnergyModel, Info, Sampler, State
from ebm_lightning.data import Loading
from ebm_lightning.data.base import DataModule, Subset
from ebm_lightning.data.sources import InMemory
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.objectives import ContrastiveDivergence


class TrainAndTest(DataModule):
    """Given examples for training and others for test, and nothing held out for validation."""

    def __init__(self, train: Tensor, test: Tensor) -> None:
        super().__init__(100, val_size=0, loading=Loading(seed=0))
        self.train, self.test = train, test
        self.bounds = (0.0, 1.0)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])

    def load(self) -> tuple[Subset, Subset]:
        parts = (Subset(InMemory({"x": x}), torch.arange(len(x))) for x in (self.train, self.test))
        return next(parts), next(parts)


class Brightness(EnergyModel):
    """An energy that is low where an image is bright at its top left."""

    def forward(self, x: Tensor) -> Tensor:
        return -x[:, 0, 0, 0]


@dataclass(frozen=True)
class IndependentDraws(Sampler):
    """Draws afresh from the model, a Gaussian: a sampler that mixes in one step."""

    free: tuple[str, ...] = ("x",)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        return {**state, "x": model.sample(len(state["x"]))}, {"energy": model.energy(state).mean()}


def module_of(model: EnergyModel) -> EBM:
    """A module that is measured without a sampler."""
    return EBM(model, ContrastiveDivergence())


def sampled_module(model: EnergyModel, folder: Path | None = None) -> EBM:
    """A module of independent draws from a Gaussian, of the run in this folder where one is given."""
    module = EBM(model, ContrastiveDivergence(), sampler=IndependentDraws(), chains=NoiseChains(GaussianNoise()))
    if folder is not None:
        module.trainer = SimpleNamespace(default_root_dir=str(folder))
    return module
