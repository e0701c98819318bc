"""Objectives: contrasts of the positive and the negative phase, and supervised terms."""

from ebm_lightning.objectives.classification import Classification
from ebm_lightning.objectives.contrastive_divergence import ContrastiveDivergence
from ebm_lightning.objectives.marginal import Marginal
from ebm_lightning.objectives.noise_contrastive import NoiseContrastive
from ebm_lightning.objectives.prediction import ImagePrediction, TokenPrediction
from ebm_lightning.objectives.score_matching import DenoisingScoreMatching, SlicedScoreMatching
from ebm_lightning.objectives.sharpness_aware import SharpnessAware
from ebm_lightning.objectives.sparsity import Sparsity
from ebm_lightning.objectives.streams import FromStream
from ebm_lightning.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep
from ebm_lightning.objectives.weighted_sum import Sum

__all__ = [
    "Classification",
    "ContrastiveDivergence",
    "DenoisingScoreMatching",
    "FromStream",
    "ImagePrediction",
    "Marginal",
    "NoiseContrastive",
    "ReweightedWakeSleep",
    "SharpnessAware",
    "SlicedScoreMatching",
    "Sparsity",
    "Sum",
    "TokenPrediction",
    "WakeSleep",
]
