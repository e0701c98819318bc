"""Small binary machines whose laws are enumerated, and the checks against them."""

import torch

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.energies import DBM, RBM, PerClass
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax
from support.oracles import perturbed

F64 = torch.float64


def tiny_rbm(visible: int = 4, hidden: int = 3, weight_std: float = 1.0, **settings: object) -> RBM:
    model = RBM({"x": Bernoulli([visible])}, hidden, weight_std=weight_std, **settings).double()
    with torch.no_grad():
        model.hidden_bias.uniform_(-1, 1)
        model.units("x").bias.uniform_(-1, 1)
    return model


def binary_rbm(visible: int = 4, hidden: int = 3, **settings: object) -> RBM:
    """An RBM of binary units as it is made, with weights of standard deviation 1."""
    return RBM({"x": Bernoulli([visible])}, hidden, weight_std=1.0, **settings)


def labeled_rbm() -> RBM:
    """An RBM over four bits and a label of three classes, every parameter moved."""
    model = perturbed(RBM({"x": Bernoulli([4]), "y": Softmax(3)}, 3, weight_std=1.0))
    assert isinstance(model, RBM)
    return model


def rbm_per_class(classes: int = 3, **settings: object) -> PerClass:
    """One RBM for each class, every parameter moved apart."""
    model = perturbed(PerClass(binary_rbm(**settings), classes))
    assert isinstance(model, PerClass)
    return model


def labeled_state(n: int = 9, classes: int = 3) -> State:
    """Binary x and h, and labels out of order of which every class has at least one."""
    return {
        "x": torch.randint(0, 2, (n, 4)).double(),
        "h": torch.randint(0, 2, (n, 3)).double(),
        "y": torch.cat([torch.arange(classes).flip(0), torch.randint(0, classes, (n - classes,))]),
    }


def set_gradients(model: EnergyModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, dtype=F64, generator=generator)


KINDS = {
    "two layers": ([4], [3, 2], False, None),
    "three layers": ([3], [3, 2, 2], False, None),
    "centered": ([4], [3, 2], False, 0.1),
    "labeled": ([3], [2, 2], True, None),
    "labeled, centered": ([3], [2, 2], True, 0.1),
    "one layer": ([4], [3], False, None),
}


def deep_machine(kind: str, **settings: object) -> DBM:
    shape, hidden, labeled, centering = KINDS[kind]
    labels = {"y": Softmax(3)} if labeled else None
    model = DBM({"x": Bernoulli(shape)}, hidden, labels, weight_std=0.7, centering=centering, **settings)
    perturbed(model)
    if centering is not None:
        for number in range(len(model.layers)):
            model.offset(number).uniform_()
    return model
