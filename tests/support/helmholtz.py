"""A Helmholtz machine small enough to enumerate, and its sums over all latents."""

import torch
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.core import EnergyModel, State
from ebm_lightning.energies import HelmholtzMachine
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.objectives import WakeSleep
from ebm_lightning.samplers import Ancestral
from support.oracles import bits, perturbed

WIDTHS = {"x": 3, "h1": 3, "h2": 2}


def machine(visible: int = 3, hidden: tuple[int, ...] = (3, 2)) -> HelmholtzMachine:
    """A net small enough to enumerate, float64, with every parameter away from 0."""
    model = perturbed(HelmholtzMachine({"x": Bernoulli([visible])}, list(hidden), weight_std=0.7))
    assert isinstance(model, HelmholtzMachine)
    return model


def every_state(widths: dict[str, int]) -> State:
    """All states of binary variables, the last unit of the last one changing fastest."""
    codes = torch.split(bits(sum(widths.values())), list(widths.values()), 1)
    return dict(zip(widths, codes, strict=True))


def log_marginal(model: EnergyModel, x: Tensor, widths: dict[str, int]) -> Tensor:
    """log p(x) by enumeration of the latents, with its graph: (B,)."""
    latents = every_state(widths)
    n = len(next(iter(latents.values())))
    copies = {name: value.repeat(len(x), 1) for name, value in latents.items()}
    energy = model.energy({"x": x.repeat_interleave(n, 0), **copies})
    return torch.logsumexp(-energy.view(len(x), n), 1)


def on_cpu(model: EnergyModel) -> EBM:
    return EBM(model, WakeSleep(), Ancestral(model.variables))
