"""Named protocols, run by `ebm test`."""

from ebm_lightning.evaluation.attributes import Attributes
from ebm_lightning.evaluation.balls import L2, Ball, Linf
from ebm_lightning.evaluation.calibration import Calibration
from ebm_lightning.evaluation.classification import ClassificationError, ScoreClassifier
from ebm_lightning.evaluation.corruption import AddedNoise, BottomHalf, Corruption, Mask, RandomPixels, SaltAndPepper
from ebm_lightning.evaluation.cost import TrainingCost
from ebm_lightning.evaluation.divergence import ExactDivergence
from ebm_lightning.evaluation.features import FeatureExtractor, Inception, OwnClassifier, TrainedClassifier
from ebm_lightning.evaluation.filters import Filters
from ebm_lightning.evaluation.generation import Generation
from ebm_lightning.evaluation.importance import ImportanceLikelihood, ShortestDescription
from ebm_lightning.evaluation.inpainting import Denoising, Inpainting
from ebm_lightning.evaluation.learning_curve import LearningCurve
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
from ebm_lightning.evaluation.prediction import Perplexity, PredictionError
from ebm_lightning.evaluation.protocol import Findings, Measurement, Protocol
from ebm_lightning.evaluation.refinement import Refinement
from ebm_lightning.evaluation.robustness import Robustness
from ebm_lightning.evaluation.scores import MaxSoftmax, MinusEnergy, MinusGradientNorm, Score
from ebm_lightning.evaluation.sources import FreshChains, FromBuffer, FromCheckpoints, SampleSource
from ebm_lightning.evaluation.two_sample import TwoSample

__all__ = [
    "L2",
    "AddedNoise",
    "Attributes",
    "Ball",
    "BottomHalf",
    "Calibration",
    "ClassificationError",
    "ConstantImages",
    "Corruption",
    "Denoising",
    "ExactDivergence",
    "FeatureExtractor",
    "Filters",
    "Findings",
    "FreshChains",
    "FromBuffer",
    "FromCheckpoints",
    "GaussianPixels",
    "Generation",
    "ImageSet",
    "ImportanceLikelihood",
    "Inception",
    "Inpainting",
    "Interpolations",
    "LearningCurve",
    "Likelihood",
    "Linf",
    "Mask",
    "MaxSoftmax",
    "Measurement",
    "MinusEnergy",
    "MinusGradientNorm",
    "Mixing",
    "Noisy",
    "OutOfDistribution",
    "Outliers",
    "OwnClassifier",
    "PermutedPixels",
    "Perplexity",
    "PredictionError",
    "Protocol",
    "RandomPixels",
    "Refinement",
    "Resized",
    "Robustness",
    "SaltAndPepper",
    "SampleSource",
    "Score",
    "ScoreClassifier",
    "ShortestDescription",
    "TrainedClassifier",
    "TrainingCost",
    "TwoSample",
    "UniformPixels",
    "UpsideDown",
]
