"""A classifier as an energy, small enough for its labels to be enumerated, and labeled points for it."""

import torch

from ebm_lightning.core import State
from ebm_lightning.energies import JEM
from ebm_lightning.energies.networks import MLP
from support.oracles import perturbed


def small_jem(classes: int = 3) -> JEM:
    """A JEM on four numbers, every parameter moved."""
    model = perturbed(JEM(MLP(4, [6], outputs=classes), classes))
    assert isinstance(model, JEM)
    return model


def labeled_points(n: int = 6, classes: int = 3) -> State:
    """Normal x and labels in turn."""
    return {"x": torch.randn(n, 4, dtype=torch.float64), "y": torch.arange(n) % classes}
