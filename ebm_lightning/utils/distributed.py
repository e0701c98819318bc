"""Collective operations over the ranks of a data-parallel run."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, in its shape; without torch.distributed the tensor itself."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        x = x.clone()
        torch.distributed.all_reduce(x)
        x /= torch.distributed.get_world_size()
    return x


def full_tensor(x: Tensor) -> Tensor:
    """The full tensor of a DTensor, on every rank; any other tensor itself."""
    return x.full_tensor() if isinstance(x, DTensor) else x
