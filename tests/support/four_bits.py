"""A law of four bits that an RBM is taught, and how far from it a model is."""

import copy

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel
from support.oracles import bits, probabilities

F64 = torch.float64

PROTOTYPES = {(1.0, 1.0, 0.0, 0.0): 0.8, (0.0, 0.0, 1.0, 1.0): 0.2}
"""What the bits are with which probability, before each of them is flipped with probability 0.1."""


def four_bits_law() -> Tensor:
    """The probabilities of the rows of ``bits(4)``."""
    flips = torch.stack([(bits(4) != torch.tensor(v, dtype=F64)).sum(1) for v in PROTOTYPES])
    return torch.tensor(list(PROTOTYPES.values()), dtype=F64) @ (0.1**flips * 0.9 ** (4 - flips)).double()


def divergence(law: Tensor, model: EnergyModel) -> float:
    """KL(law || model) in nats, over the rows of ``bits(4)``."""
    p = probabilities(copy.deepcopy(model).double(), {"x": bits(4)})
    return float((law * (law / p).log()).sum())


def divergence_without_hidden_units(law: Tensor) -> float:
    """KL(law || product of its marginals): the least that independent units can reach."""
    on = law @ bits(4)
    return float((law * (law / (bits(4) * on + (1 - bits(4)) * (1 - on)).prod(1)).log()).sum())
