"""Energies: what is low where the world is likely."""

from ebm_lightning.models.deep import ConditionalDeepEnergy, DeepEnergy
from ebm_lightning.models.helmholtz import HelmholtzMachine
from ebm_lightning.models.per_class import PerClass
from ebm_lightning.models.poe import StudentTPoE
from ebm_lightning.models.rbm import RBM
from ebm_lightning.models.toy import DoubleWell, Gaussian, GaussianMixture, Ising

__all__ = [
    "RBM",
    "ConditionalDeepEnergy",
    "DeepEnergy",
    "DoubleWell",
    "Gaussian",
    "GaussianMixture",
    "HelmholtzMachine",
    "Ising",
    "PerClass",
    "StudentTPoE",
]
