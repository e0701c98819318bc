"""How the positive and the negative phase are compared."""

from ebm_lightning.objectives.classification import Classification
from ebm_lightning.objectives.combine import Sum
from ebm_lightning.objectives.contrastive import ContrastiveDivergence
from ebm_lightning.objectives.marginal import Marginal
from ebm_lightning.objectives.noise import NoiseContrastive
from ebm_lightning.objectives.prediction import ImagePrediction, TokenPrediction
from ebm_lightning.objectives.score import DenoisingScoreMatching, SlicedScoreMatching
from ebm_lightning.objectives.sharpness import SharpnessAware
from ebm_lightning.objectives.sparsity import Sparsity
from ebm_lightning.objectives.streams import OnStream
from ebm_lightning.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep

__all__ = [
    "Classification",
    "ContrastiveDivergence",
    "DenoisingScoreMatching",
    "ImagePrediction",
    "Marginal",
    "NoiseContrastive",
    "OnStream",
    "ReweightedWakeSleep",
    "SharpnessAware",
    "SlicedScoreMatching",
    "Sparsity",
    "Sum",
    "TokenPrediction",
    "WakeSleep",
]
