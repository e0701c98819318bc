"""Energies: what is low where the world is likely."""

from ebm_lightning.models.composition import Mixture, Negation, Product
from ebm_lightning.models.dbm import DBM
from ebm_lightning.models.deep import ConditionalDeepEnergy, DeepEnergy
from ebm_lightning.models.ebt import ImageEBT, StepAdaLN, StepToken, TextEBT
from ebm_lightning.models.feedforward import Denoiser, NextToken
from ebm_lightning.models.helmholtz import HelmholtzMachine
from ebm_lightning.models.jem import JEM, JointJEM
from ebm_lightning.models.layerwise import Doubled, OnTop
from ebm_lightning.models.mean_field_net import MeanFieldNet
from ebm_lightning.models.next_candidate import NextCandidate
from ebm_lightning.models.per_class import PerClass
from ebm_lightning.models.poe import StudentTPoE
from ebm_lightning.models.rbm import RBM
from ebm_lightning.models.toy import DoubleWell, Gaussian, GaussianMixture, Ising

__all__ = [
    "DBM",
    "JEM",
    "RBM",
    "ConditionalDeepEnergy",
    "DeepEnergy",
    "Denoiser",
    "DoubleWell",
    "Doubled",
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
    "OnTop",
    "PerClass",
    "Product",
    "StepAdaLN",
    "StepToken",
    "StudentTPoE",
    "TextEBT",
]
