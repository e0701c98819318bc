"""Chains: the initialization of negatives (data, noise, a replay buffer), and chains that persist."""

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
