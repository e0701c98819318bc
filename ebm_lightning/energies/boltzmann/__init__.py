"""Boltzmann machines: restricted and deep, their unit types, pretraining and exact log Z."""

from ebm_lightning.energies.boltzmann.dbm import DBM
from ebm_lightning.energies.boltzmann.mean_field_net import MeanFieldNet
from ebm_lightning.energies.boltzmann.pretraining import DoubledRBM, StackedEnergy
from ebm_lightning.energies.boltzmann.rbm import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli, Gaussian, Softmax, Units

__all__ = [
    "DBM",
    "RBM",
    "Bernoulli",
    "DoubledRBM",
    "Gaussian",
    "MeanFieldNet",
    "Softmax",
    "StackedEnergy",
    "Units",
]
