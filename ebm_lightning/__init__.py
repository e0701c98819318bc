"""Energy-based models in PyTorch Lightning: one set of contracts for the whole family."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ebm_lightning.chains import DataChains, NoiseChains, SampleBuffer
    from ebm_lightning.core import Chains, EnergyModel, Objective, Sampler, energy_grad, run, trajectory
    from ebm_lightning.module import EBM
    from ebm_lightning.trainer import Trainer

_HOMES = {
    "core": ("Chains", "EnergyModel", "Objective", "Sampler", "energy_grad", "run", "trajectory"),
    "chains": ("DataChains", "NoiseChains", "SampleBuffer"),
    "module": ("EBM",),
    "trainer": ("Trainer",),
}

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
    "run",
    "trajectory",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for, so that `ebm --help` need not wait for torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"ebm_lightning.{home}"), name)
    raise AttributeError(f"ebm_lightning has no {name!r}; it has {', '.join(__all__)}")
