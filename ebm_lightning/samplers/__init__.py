"""Markov kernels: Langevin, HMC, Gibbs, ancestral sampling, descent; wrappers for tempering, masks, fast weights."""

from ebm_lightning.samplers.ancestral import Ancestral
from ebm_lightning.samplers.descent import Descent
from ebm_lightning.samplers.gibbs import Gibbs, MeanField
from ebm_lightning.samplers.hmc import HMC
from ebm_lightning.samplers.langevin import MALA, SGLD, Langevin
from ebm_lightning.samplers.proximal import ProximalSGLD
from ebm_lightning.samplers.wrappers.fast_weights import FastWeights
from ebm_lightning.samplers.wrappers.masked import Masked
from ebm_lightning.samplers.wrappers.parallel_tempering import (
    ParallelTempering,
    TrajectoryTempering,
    log_partition_along,
)
from ebm_lightning.samplers.wrappers.tempering import Annealed, Tempered

__all__ = [
    "HMC",
    "MALA",
    "SGLD",
    "Ancestral",
    "Annealed",
    "Descent",
    "FastWeights",
    "Gibbs",
    "Langevin",
    "Masked",
    "MeanField",
    "ParallelTempering",
    "ProximalSGLD",
    "Tempered",
    "TrajectoryTempering",
    "log_partition_along",
]
