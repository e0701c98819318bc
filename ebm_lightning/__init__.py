"""Energy-based models in PyTorch Lightning.

Every method here trains an energy, p(x) = exp(-E(x)) / Z, by contrasting data with samples from the model. A method is
a choice of energy (:mod:`~ebm_lightning.energies`), positive phase, sampler (:mod:`~ebm_lightning.samplers`), chain
initialization (:mod:`~ebm_lightning.chains`) and objective (:mod:`~ebm_lightning.objectives`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ebm_lightning.chains.nonpersistent import DataChains, NoiseChains
    from ebm_lightning.chains.persistent import SampleBuffer
    from ebm_lightning.core import Chains, EnergyModel, Objective, Sampler, energy_grad, run_chain, trajectory
    from ebm_lightning.runs.load_model import load_model
    from ebm_lightning.training.module import EBM
    from ebm_lightning.training.trainer import Trainer

_MODULES = {
    "core": ("Chains", "EnergyModel", "Objective", "Sampler", "energy_grad", "run_chain", "trajectory"),
    "chains": ("DataChains", "NoiseChains", "SampleBuffer"),
    "runs.load_model": ("load_model",),
    "training": ("EBM", "Trainer"),
}

_PACKAGES = (
    *("chains", "cluster", "core", "data", "distributions", "energies", "evaluation", "generation", "objectives"),
    *("planning", "reproduction", "runs", "samplers", "training", "utils"),
)

__all__ = [
    "EBM",
    "Chains",
    "DataChains",
    "EnergyModel",
    "NoiseChains",
    "Objective",
    "SampleBuffer",
    "Sampler",
    "Trainer",
    "energy_grad",
    "load_model",
    "run_chain",
    "trajectory",
]


def __getattr__(name: str) -> Any:
    """Import a public name or a sub-package when it is first used: `ebm --help` does not wait for torch."""
    if name in _PACKAGES:
        return import_module(f"ebm_lightning.{name}")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"ebm_lightning.{module}"), name)
    raise AttributeError(f"ebm_lightning has no {name!r}; it has {', '.join((*__all__, *_PACKAGES))}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_PACKAGES])
