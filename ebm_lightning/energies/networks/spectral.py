"""Spectral normalization of a weight, as parametrizations for torch.nn.utils.parametrize."""

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

EPSILON = 1e-12
"""The smallest divisor of a norm, so that a weight of zeros stays zero."""


def _full_precision(device_type: str) -> AbstractContextManager[object]:
    """Disable autocast, if the device has it: a norm in bfloat16 has a precision of 3 digits only."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


class _PowerIteration(nn.Module):
    """An estimate of the largest singular value sigma of a weight W, reshaped to a matrix (rows, -1).

    v = W^T u / |W^T u| and sigma = |W v|, with u and v held constant in the gradient. Every call
    in train mode updates the buffer u by one power iteration, u <- W v / |W v|; eval mode does not change u. The length
    of u does not matter, so that weight averaging may average u too.
    """

    u: Tensor

    def __init__(self, rows: int) -> None:
        super().__init__()
        if rows < 1:
            raise ValueError(f"{type(self).__name__}(rows={rows}): expected the weight's first dimension, at least 1")
        self.register_buffer("u", F.normalize(torch.randn(rows), dim=0))

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate, a scalar of at most the true norm, differentiable in the weight; in fp32 under autocast."""
        matrix = weight.flatten(1)
        with _full_precision(weight.device.type):
            with torch.no_grad():
                v = F.normalize(matrix.T @ self.u, dim=0, eps=EPSILON)
            image = matrix @ v
            if self.training:
                with torch.no_grad():
                    self.u.copy_(F.normalize(image, dim=0, eps=EPSILON))
            return torch.linalg.vector_norm(image)


class SpectralNorm(_PowerIteration):
    """W / sigma(W): a weight whose largest singular value is 1 (Miyato et al. 2018, equation 8 and algorithm 1).

    Args:
        rows: the first dimension of the weight, e.g. the output channels of a convolution.

    >>> import torch
    >>> SpectralNorm(rows=1)(torch.tensor([[3.0, 4.0]])).norm().item()
    1.0
    """

    def forward(self, weight: Tensor) -> Tensor:
        """The normalized weight, in the shape of ``weight`` (rows, ...)."""
        return weight / self.sigma(weight).clamp_min(EPSILON)


class SpectralBound(_PowerIteration):
    """W / max(sigma(W), 1): a weight whose largest singular value is at most 1; a smaller weight is unchanged.

    A layer can then be initialized near zero (Du & Mordatch 2019, the second convolution of their residual blocks).

    Args:
        rows: the first dimension of the weight, e.g. the output channels of a convolution.

    >>> import torch
    >>> bound = SpectralBound(rows=1)
    >>> bound(torch.tensor([[3.0, 4.0]])).norm().item(), bound(torch.tensor([[0.5, 0.0]])).norm().item()
    (1.0, 0.5)
    """

    def forward(self, weight: Tensor) -> Tensor:
        """The bounded weight, in the shape of ``weight`` (rows, ...)."""
        return weight / self.sigma(weight).clamp_min(1.0)


def spectral_normal(layer: nn.Module) -> nn.Module:
    """The layer with its ``weight`` drawn from N(0, 1) and under SpectralNorm."""
    weight = cast(Tensor, layer.weight)
    nn.init.normal_(weight)
    return parametrize.register_parametrization(layer, "weight", SpectralNorm(len(weight)))


def spectral_bounded(layer: nn.Module, std: float) -> nn.Module:
    """The layer with its ``weight`` drawn from N(0, std^2) and under SpectralBound."""
    weight = cast(Tensor, layer.weight)
    nn.init.normal_(weight, std=std)
    return parametrize.register_parametrization(layer, "weight", SpectralBound(len(weight)))
