"""Random streams, distributed helpers, fused operations, CUDA graphs, malloc and plots."""
