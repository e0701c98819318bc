"""Markov kernels: Langevin, Hamiltonian and Gibbs moves, and tempered versions of them."""

from ebm_lightning.samplers.gibbs import Gibbs, MeanField
from ebm_lightning.samplers.hmc import HMC
from ebm_lightning.samplers.langevin import MALA, SGLD, Langevin
from ebm_lightning.samplers.tempering import Annealed, Tempered

__all__ = ["HMC", "MALA", "SGLD", "Annealed", "Gibbs", "Langevin", "MeanField", "Tempered"]
