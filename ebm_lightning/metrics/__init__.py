"""Figures of merit: torchmetrics, and likelihoods with what they rest on."""

from ebm_lightning.metrics.mmd import MaximumMeanDiscrepancy
from ebm_lightning.metrics.partition import (
    AIS,
    Betas,
    Exact,
    Linear,
    LogPartition,
    PartitionEstimator,
    SalakhutdinovMurray,
    UpperBound,
    ais,
    anneal,
    exact_pseudo_log_likelihood,
    pseudo_log_likelihood,
    raise_log_prob,
    reverse_ais,
)

__all__ = [
    "AIS",
    "Betas",
    "Exact",
    "Linear",
    "LogPartition",
    "MaximumMeanDiscrepancy",
    "PartitionEstimator",
    "SalakhutdinovMurray",
    "UpperBound",
    "ais",
    "anneal",
    "exact_pseudo_log_likelihood",
    "pseudo_log_likelihood",
    "raise_log_prob",
    "reverse_ais",
]
