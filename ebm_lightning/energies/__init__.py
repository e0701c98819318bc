"""Energies: scalar functions of a state, low if the state is likely under the data."""

from ebm_lightning.energies.analytic import DoubleWell, Gaussian, GaussianMixture, Ising
from ebm_lightning.energies.boltzmann.dbm import DBM
from ebm_lightning.energies.boltzmann.mean_field_net import MeanFieldNet
from ebm_lightning.energies.boltzmann.pretraining import DoubledRBM, StackedEnergy
from ebm_lightning.energies.boltzmann.rbm import RBM
from ebm_lightning.energies.class_conditional import PerClass
from ebm_lightning.energies.composition import Mixture, Negation, Product
from ebm_lightning.energies.helmholtz import HelmholtzMachine
from ebm_lightning.energies.jem import JEM, JointJEM
from ebm_lightning.energies.neural import ConditionalDeepEnergy, DeepEnergy
from ebm_lightning.energies.product_of_experts import StudentTPoE
from ebm_lightning.energies.transformers.baselines import Denoiser, NextToken
from ebm_lightning.energies.transformers.cached_decoding import NextCandidate
from ebm_lightning.energies.transformers.ebt import ImageEBT, StepAdaLN, StepToken, TextEBT

__all__ = [
    "DBM",
    "JEM",
    "RBM",
    "ConditionalDeepEnergy",
    "DeepEnergy",
    "Denoiser",
    "DoubleWell",
    "DoubledRBM",
    "Gaussian",
    "GaussianMixture",
    "HelmholtzMachine",
    "ImageEBT",
    "Ising",
    "JointJEM",
    "MeanFieldNet",
    "Mixture",
    "Negation",
    "NextCandidate",
    "NextToken",
    "PerClass",
    "Product",
    "StackedEnergy",
    "StepAdaLN",
    "StepToken",
    "StudentTPoE",
    "TextEBT",
]
