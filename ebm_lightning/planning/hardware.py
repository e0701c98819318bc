"""Peak rates of GPUs and networks, from their data sheets."""

from dataclasses import dataclass
from typing import Literal

Arithmetic = Literal["bf16", "tf32", "fp32"]
"""The arithmetic of matrix products. For a GPU without bfloat16 it is float16 instead; without TF32, float32."""


@dataclass(frozen=True)
class Gpu:
    """Peak rates of one GPU: those of dense matrix products, without structured sparsity.

    Args:
        bf16: 10^12 operations per second in bfloat16, summed in float32.
        tf32: the same in TF32.
        fp32: the same in float32.
        memory: 10^9 bytes.
        bandwidth: of its memory, 10^9 bytes per second.
        link: to the other GPUs of its node, in each direction, 10^9 bytes per second.
    """

    bf16: float
    tf32: float
    fp32: float
    memory: float
    bandwidth: float
    link: float

    def peak(self, arithmetic: Arithmetic) -> float:
        """Operations per second."""
        peaks = {"bf16": self.bf16, "tf32": self.tf32, "fp32": self.fp32}
        return 1e12 * peaks[arithmetic]


GPUS = {
    "v100": Gpu(bf16=125, tf32=15.7, fp32=15.7, memory=32, bandwidth=900, link=150),
    "a100": Gpu(bf16=312, tf32=156, fp32=19.5, memory=80, bandwidth=2039, link=300),
    "h100": Gpu(bf16=989.4, tf32=494.7, fp32=66.9, memory=80, bandwidth=3350, link=450),
    "h200": Gpu(bf16=989.4, tf32=494.7, fp32=66.9, memory=141, bandwidth=4800, link=450),
    "l40s": Gpu(bf16=362, tf32=183, fp32=91.6, memory=48, bandwidth=864, link=32),
    "rtx4090": Gpu(bf16=165.2, tf32=82.6, fp32=82.6, memory=24, bandwidth=1008, link=32),
}
"""V100, A100, H100 and H200 are the SXM boards, whose link is NVLink; L40S and RTX 4090 have PCIe 4.0 x16 only.

From NVIDIA's data sheets of V100 (2020), A100 80GB (2021), H100 (2023), H200 (2024) and L40S (2023), and its Ada GPU
Architecture white paper (2022) for RTX 4090. Bandwidths of both directions together are halved, and so are peaks that
are given with sparsity only.
"""

NETWORKS = {
    "ethernet-100": 12.5,
    "infiniband-200": 25.0,
    "infiniband-400": 50.0,
    "infiniband-8x200": 200.0,
    "infiniband-8x400": 400.0,
}
"""Rate out of a node in each direction, 10^9 bytes per second: the line rate of its adapters, in Gb/s divided by 8.

HDR InfiniBand has 200 Gb/s and NDR 400. DGX A100 and DGX H100 have nodes of 8 adapters, one for each GPU.
"""
