"""Wrappers of samplers: tempering, parallel tempering, masks, fast weights."""

from ebm_lightning.samplers.wrappers.fast_weights import FastWeights
from ebm_lightning.samplers.wrappers.masked import Masked
from ebm_lightning.samplers.wrappers.parallel_tempering import (
    ParallelTempering,
    TrajectoryTempering,
    log_partition_along,
)
from ebm_lightning.samplers.wrappers.tempering import Annealed, Tempered

__all__ = [
    "Annealed",
    "FastWeights",
    "Masked",
    "ParallelTempering",
    "Tempered",
    "TrajectoryTempering",
    "log_partition_along",
]
