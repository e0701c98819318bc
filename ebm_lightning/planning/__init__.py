"""Predicted time, memory and scaling of a training run: its step counted, hardware rates, and a roofline model."""

from ebm_lightning.planning.calibration import calibrate, comparison, measure
from ebm_lightning.planning.hardware import GPUS, NETWORKS, Arithmetic, Gpu
from ebm_lightning.planning.roofline import Cluster, Plan, Row, Step, all_reduce
from ebm_lightning.planning.step_counter import arithmetic_of, count

__all__ = [
    "GPUS",
    "NETWORKS",
    "Arithmetic",
    "Cluster",
    "Gpu",
    "Plan",
    "Row",
    "Step",
    "all_reduce",
    "arithmetic_of",
    "calibrate",
    "comparison",
    "count",
    "measure",
]
