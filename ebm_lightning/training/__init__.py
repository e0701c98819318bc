"""Training: the LightningModule, the Trainer, schedules, optimizers and the sharded strategy."""

from ebm_lightning.training.module import EBM
from ebm_lightning.training.optim import SigmaClippedAdam
from ebm_lightning.training.schedules import (
    Cosine,
    Linear,
    Milestones,
    RandomSteps,
    Reciprocal,
    Scheduled,
    Staircase,
    Switch,
    WarmUp,
)
from ebm_lightning.training.trainer import Trainer

__all__ = [
    "EBM",
    "Cosine",
    "Linear",
    "Milestones",
    "RandomSteps",
    "Reciprocal",
    "Scheduled",
    "SigmaClippedAdam",
    "Staircase",
    "Switch",
    "Trainer",
    "WarmUp",
]
