"""Energies: what is low where the world is likely."""

from ebm_lightning.models.deep import ConditionalDeepEnergy, DeepEnergy
from ebm_lightning.models.rbm import BernoulliRBM
from ebm_lightning.models.toy import DoubleWell, Gaussian, GaussianMixture, Ising

__all__ = [
    "BernoulliRBM",
    "ConditionalDeepEnergy",
    "DeepEnergy",
    "DoubleWell",
    "Gaussian",
    "GaussianMixture",
    "Ising",
]
