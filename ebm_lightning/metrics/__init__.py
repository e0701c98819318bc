"""Figures of merit as torchmetrics."""

from ebm_lightning.metrics.mmd import MaximumMeanDiscrepancy

__all__ = ["MaximumMeanDiscrepancy"]
