"""Named protocols, run by `ebm test`."""

from ebm_lightning.evaluation.balls import L2, Ball, Linf
from ebm_lightning.evaluation.calibration import Calibration
from ebm_lightning.evaluation.classification import ClassificationError, ScoreClassifier
from ebm_lightning.evaluation.divergence import ExactDivergence
from ebm_lightning.evaluation.filters import Filters
from ebm_lightning.evaluation.importance import ImportanceLikelihood, ShortestDescription
from ebm_lightning.evaluation.likelihood import Likelihood
from ebm_lightning.evaluation.mixing import Mixing
from ebm_lightning.evaluation.ood import OutOfDistribution
from ebm_lightning.evaluation.outliers import (
    ConstantImages,
    GaussianPixels,
    ImageSet,
    Interpolations,
    Noisy,
    Outliers,
    PermutedPixels,
    Resized,
    UniformPixels,
    UpsideDown,
)
from ebm_lightning.evaluation.prediction import DenoisingError, Perplexity
from ebm_lightning.evaluation.protocol import Findings, Measurement, Protocol
from ebm_lightning.evaluation.robustness import Robustness
from ebm_lightning.evaluation.scores import MaxSoftmax, MinusEnergy, MinusGradientNorm, Score
from ebm_lightning.evaluation.two_sample import TwoSample

__all__ = [
    "L2",
    "Ball",
    "Calibration",
    "ClassificationError",
    "ConstantImages",
    "DenoisingError",
    "ExactDivergence",
    "Filters",
    "Findings",
    "GaussianPixels",
    "ImageSet",
    "ImportanceLikelihood",
    "Interpolations",
    "Likelihood",
    "Linf",
    "MaxSoftmax",
    "Measurement",
    "MinusEnergy",
    "MinusGradientNorm",
    "Mixing",
    "Noisy",
    "OutOfDistribution",
    "Outliers",
    "PermutedPixels",
    "Perplexity",
    "Protocol",
    "Resized",
    "Robustness",
    "Score",
    "ScoreClassifier",
    "ShortestDescription",
    "TwoSample",
    "UniformPixels",
    "UpsideDown",
]
