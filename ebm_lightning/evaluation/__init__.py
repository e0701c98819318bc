"""Named protocols, run by `ebm test`."""

from ebm_lightning.evaluation.calibration import Calibration
from ebm_lightning.evaluation.classification import ClassificationError, ScoreClassifier
from ebm_lightning.evaluation.divergence import ExactDivergence
from ebm_lightning.evaluation.filters import Filters
from ebm_lightning.evaluation.importance import ImportanceLikelihood, ShortestDescription
from ebm_lightning.evaluation.likelihood import Likelihood
from ebm_lightning.evaluation.ood import OutOfDistribution
from ebm_lightning.evaluation.outliers import ImageSet, Outliers, PermutedPixels, UniformPixels, UpsideDown
from ebm_lightning.evaluation.protocol import Findings, Measurement, Protocol
from ebm_lightning.evaluation.two_sample import TwoSample

__all__ = [
    "Calibration",
    "ClassificationError",
    "ExactDivergence",
    "Filters",
    "Findings",
    "ImageSet",
    "ImportanceLikelihood",
    "Likelihood",
    "Measurement",
    "OutOfDistribution",
    "Outliers",
    "PermutedPixels",
    "Protocol",
    "ScoreClassifier",
    "ShortestDescription",
    "TwoSample",
    "UniformPixels",
    "UpsideDown",
]
