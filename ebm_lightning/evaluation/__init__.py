"""Named protocols, run by `ebm test`."""

from ebm_lightning.evaluation.ood import OutOfDistribution
from ebm_lightning.evaluation.outliers import ImageSet, Outliers, PermutedPixels, UniformPixels, UpsideDown
from ebm_lightning.evaluation.protocol import Findings, Measurement, Protocol
from ebm_lightning.evaluation.two_sample import TwoSample

__all__ = [
    "Findings",
    "ImageSet",
    "Measurement",
    "OutOfDistribution",
    "Outliers",
    "PermutedPixels",
    "Protocol",
    "TwoSample",
    "UniformPixels",
    "UpsideDown",
]
