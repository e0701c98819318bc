"""Named protocols, run by `ebm test`."""

from ebm_lightning.evaluation.components.candidate_selection import CandidateSelection, InferenceBudget
from ebm_lightning.evaluation.components.corruptions import (
    AdditiveGaussianNoise,
    BottomHalf,
    Corruption,
    Mask,
    RandomPixels,
    SaltAndPepper,
)
from ebm_lightning.evaluation.components.feature_extractors import (
    FeatureExtractor,
    Inception,
    OwnClassifier,
    TrainedClassifier,
)
from ebm_lightning.evaluation.components.ood_scores import MaxSoftmax, MinusEnergy, MinusGradientNorm, Score
from ebm_lightning.evaluation.components.outlier_sets import (
    ConstantImages,
    GaussianPixels,
    ImageSet,
    Interpolations,
    NoisyOutliers,
    Outliers,
    PermutedPixels,
    Resized,
    UniformPixels,
    UpsideDown,
)
from ebm_lightning.evaluation.components.refinement import Refinement
from ebm_lightning.evaluation.components.sample_sources import FreshChains, FromBuffer, FromCheckpoints, SampleSource
from ebm_lightning.evaluation.components.threat_models import L2, Linf, ThreatModel
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult
from ebm_lightning.evaluation.protocols.attributes import Attributes
from ebm_lightning.evaluation.protocols.calibration import Calibration
from ebm_lightning.evaluation.protocols.classification import ClassificationError, ScoreClassifier
from ebm_lightning.evaluation.protocols.exact_divergence import ExactDivergence
from ebm_lightning.evaluation.protocols.filters import ReceptiveFields
from ebm_lightning.evaluation.protocols.importance_sampling import (
    DescriptionLengthClassifier,
    ImportanceSampledLikelihood,
)
from ebm_lightning.evaluation.protocols.inpainting import Denoising, Inpainting
from ebm_lightning.evaluation.protocols.learning_curve import LearningCurve
from ebm_lightning.evaluation.protocols.likelihood import Likelihood
from ebm_lightning.evaluation.protocols.mixing import Mixing
from ebm_lightning.evaluation.protocols.ood import OutOfDistribution
from ebm_lightning.evaluation.protocols.prediction import Perplexity, PredictionError
from ebm_lightning.evaluation.protocols.robustness import Robustness
from ebm_lightning.evaluation.protocols.sample_quality import Generation
from ebm_lightning.evaluation.protocols.training_cost import TrainingCost
from ebm_lightning.evaluation.protocols.two_sample import MMD

__all__ = [
    "L2",
    "MMD",
    "AdditiveGaussianNoise",
    "Attributes",
    "BottomHalf",
    "Calibration",
    "CandidateSelection",
    "ClassificationError",
    "ConstantImages",
    "Corruption",
    "Denoising",
    "DescriptionLengthClassifier",
    "ExactDivergence",
    "FeatureExtractor",
    "FreshChains",
    "FromBuffer",
    "FromCheckpoints",
    "GaussianPixels",
    "Generation",
    "ImageSet",
    "ImportanceSampledLikelihood",
    "Inception",
    "InferenceBudget",
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
    "NoisyOutliers",
    "OutOfDistribution",
    "Outliers",
    "OwnClassifier",
    "PermutedPixels",
    "Perplexity",
    "PredictionError",
    "Protocol",
    "ProtocolResult",
    "RandomPixels",
    "ReceptiveFields",
    "Refinement",
    "Resized",
    "Robustness",
    "SaltAndPepper",
    "SampleSource",
    "Score",
    "ScoreClassifier",
    "ThreatModel",
    "TrainedClassifier",
    "TrainingCost",
    "UniformPixels",
    "UpsideDown",
]
