"""Callbacks that evaluate while a model trains."""

from ebm_lightning.evaluation.monitors.likelihood import LikelihoodMonitor
from ebm_lightning.evaluation.monitors.samples import SamplePictures

__all__ = [
    "LikelihoodMonitor",
    "SamplePictures",
]
