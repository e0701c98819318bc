"""Metrics: torchmetrics, and likelihoods with the diagnostics of their estimates."""

from ebm_lightning.evaluation.metrics.annealing import (
    Betas,
    Linear,
    PiecewiseLinear,
    SalakhutdinovMurray,
    ais,
    anneal,
    raise_log_prob,
    reverse_ais,
)
from ebm_lightning.evaluation.metrics.binary import exact_pseudo_log_likelihood, pseudo_log_likelihood
from ebm_lightning.evaluation.metrics.chains import chain_ess, split_r_hat
from ebm_lightning.evaluation.metrics.mmd import MaximumMeanDiscrepancy
from ebm_lightning.evaluation.metrics.partition import AIS, Exact, PartitionEstimator
from ebm_lightning.evaluation.metrics.weights import LogPartition, UpperBound

__all__ = [
    "AIS",
    "Betas",
    "Exact",
    "Linear",
    "LogPartition",
    "MaximumMeanDiscrepancy",
    "PartitionEstimator",
    "PiecewiseLinear",
    "SalakhutdinovMurray",
    "UpperBound",
    "ais",
    "anneal",
    "chain_ess",
    "exact_pseudo_log_likelihood",
    "pseudo_log_likelihood",
    "raise_log_prob",
    "reverse_ais",
    "split_r_hat",
]
