"""What a training run would take elsewhere: its step counted, the rates of GPUs and networks, and arithmetic."""

from ebm_lightning.planning.counted import arithmetic_of, count
from ebm_lightning.planning.machines import GPUS, NETWORKS, Arithmetic, Gpu
from ebm_lightning.planning.measured import calibrate, comparison, measure
from ebm_lightning.planning.plan import Cluster, Plan, Row, Step, all_reduce

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
