"""What the ranks of a data-parallel run must agree on."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, in its shape; the tensor itself where torch.distributed is not in use."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        x = x.clone()
        torch.distributed.all_reduce(x)
        x /= torch.distributed.get_world_size()
    return x


def whole(x: Tensor) -> Tensor:
    """A tensor that ranks share out, whole on each of them; any other tensor itself."""
    return x.full_tensor() if isinstance(x, DTensor) else x
