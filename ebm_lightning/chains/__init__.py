"""Chains: where negatives start (data, noise, a replay buffer) and what survives a negative phase."""

from ebm_lightning.chains.nonpersistent import DataChains, NoiseChains
from ebm_lightning.chains.persistent import (
    FIFO,
    FloatStorage,
    Replacement,
    Reservoir,
    SampleBuffer,
    Storage,
    Uint8Storage,
    WriteBack,
)

__all__ = [
    "FIFO",
    "DataChains",
    "FloatStorage",
    "NoiseChains",
    "Replacement",
    "Reservoir",
    "SampleBuffer",
    "Storage",
    "Uint8Storage",
    "WriteBack",
]
