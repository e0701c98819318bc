"""Named protocols, run by `ebm test`."""

from ebm_lightning.evaluation.classification import ClassificationError, ScoreClassifier
from ebm_lightning.evaluation.filters import Filters
from ebm_lightning.evaluation.likelihood import Likelihood
from ebm_lightning.evaluation.ood import OutOfDistribution
from ebm_lightning.evaluation.outliers import ImageSet, Outliers, PermutedPixels, UniformPixels, UpsideDown
from ebm_lightning.evaluation.protocol import Findings, Measurement, Protocol
from ebm_lightning.evaluation.two_sample import TwoSample

__all__ = [
    "ClassificationError",
    "Filters",
    "Findings",
    "ImageSet",
    "Likelihood",
    "Measurement",
    "OutOfDistribution",
    "Outliers",
    "PermutedPixels",
    "Protocol",
    "ScoreClassifier",
    "TwoSample",
    "UniformPixels",
    "UpsideDown",
]
