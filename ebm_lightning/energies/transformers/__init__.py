"""Energy-based transformers, cached decoding, and their feed-forward baselines."""

from ebm_lightning.energies.transformers.baselines import Denoiser, NextToken
from ebm_lightning.energies.transformers.cached_decoding import NextCandidate
from ebm_lightning.energies.transformers.ebt import ImageEBT, StepAdaLN, StepToken, TextEBT

__all__ = [
    "Denoiser",
    "ImageEBT",
    "NextCandidate",
    "NextToken",
    "StepAdaLN",
    "StepToken",
    "TextEBT",
]
