"""Distributions: conditionals for Gibbs sampling, noise for chain starts and noise-contrastive estimation."""

from ebm_lightning.distributions.conditionals import (
    BernoulliConditional,
    CategoricalConditional,
    GaussianConditional,
    SpinConditional,
    per_example,
)
from ebm_lightning.distributions.noise import AtData, BernoulliNoise, ClassGaussians, GaussianNoise, UniformNoise

__all__ = [
    "AtData",
    "BernoulliConditional",
    "BernoulliNoise",
    "CategoricalConditional",
    "ClassGaussians",
    "GaussianConditional",
    "GaussianNoise",
    "SpinConditional",
    "UniformNoise",
    "per_example",
]
