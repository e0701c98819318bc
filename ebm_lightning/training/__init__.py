"""Training: the LightningModule, the Trainer, schedules, optimizers and the sharded strategy."""

from ebm_lightning.training.module import EBM
from ebm_lightning.training.optim import SigmaClippedAdam
from ebm_lightning.training.schedules import (
    Cosine,
    Inverse,
    Linear,
    Milestones,
    Piecewise,
    RandomSteps,
    ScheduledLR,
    StepIncrease,
    WarmUp,
)
from ebm_lightning.training.trainer import Trainer

__all__ = [
    "EBM",
    "Cosine",
    "Inverse",
    "Linear",
    "Milestones",
    "Piecewise",
    "RandomSteps",
    "ScheduledLR",
    "SigmaClippedAdam",
    "StepIncrease",
    "Trainer",
    "WarmUp",
]
