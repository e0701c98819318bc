"""Distributions: conditionals for Gibbs sampling, noise for chain starts and noise-contrastive estimation."""

from ebm_lightning.distributions.conditionals import (
    BernoulliConditional,
    CategoricalConditional,
    GaussianConditional,
    SpinConditional,
    per_example,
)
from ebm_lightning.distributions.noise import BernoulliNoise, DataInit, GaussianNoise, InformativeInit, UniformNoise

__all__ = [
    "BernoulliConditional",
    "BernoulliNoise",
    "CategoricalConditional",
    "DataInit",
    "GaussianConditional",
    "GaussianNoise",
    "InformativeInit",
    "SpinConditional",
    "UniformNoise",
    "per_example",
]
