"""Energy-based transformers, cached decoding, and their feed-forward baselines."""

from ebm_lightning.energies.transformers.baselines import AutoregressiveDecoder, Denoiser, NextToken
from ebm_lightning.energies.transformers.cached_decoding import EBTDecoder, NextCandidate
from ebm_lightning.energies.transformers.decoding import Decodable, Decoder, InferenceSettings, Prediction
from ebm_lightning.energies.transformers.ebt import ImageEBT, StepAdaLN, StepToken, TextEBT

__all__ = [
    "AutoregressiveDecoder",
    "Decodable",
    "Decoder",
    "Denoiser",
    "EBTDecoder",
    "ImageEBT",
    "InferenceSettings",
    "NextCandidate",
    "NextToken",
    "Prediction",
    "StepAdaLN",
    "StepToken",
    "TextEBT",
]
