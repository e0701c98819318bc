"""Random streams, distributed helpers, fused operations, CUDA graphs, memory and plots."""
