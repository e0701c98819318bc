"""Sums over all states of binary units."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm  # type: ignore[import-untyped]

from ebm_lightning.utils import fused_ops


def log_sum_binary(weight: Tensor, bias: Tensor, inner: Tensor, others: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """log of the sum over s in {0, 1}^n of exp(s . bias) prod_i (1 + exp(inner_i + (s W)_i)) times other factors.

    s is split into two halves, so that exp(s W) is a product of two tables and the inner loop takes no exponential: the
    cost is a few multiplications and a fraction of a logarithm for each state and unit. Long sums have a progress bar.

    Args:
        weight: W (n, units), float64.
        bias: biases of the units that are enumerated, (n,).
        inner: biases of the units that are summed out, (units,).
        others: the logarithms of further factors, each from s (N, n) to (N,).
    """
    n = len(bias)
    most = float((inner + weight.clamp_min(0).sum(0)).max()) if len(inner) else 0.0
    # A factor 1 + a_i b_i is at most exp(max(most, 0) + 1), and float64 ends near exp(709): k factors must stay below.
    slices = next((k for k in (8, 4, 2) if k * (max(most, 0) + 1) < 700), 1)
    left, right = _binary(n // 2).to(weight), _binary(n - n // 2).to(weight)
    upper, lower = weight[: n // 2], weight[n // 2 :]
    padding = -len(inner) % slices
    # A table of exponentials may overflow by itself; then the logarithms are taken unit by unit.
    tables = len(inner) > 0 and float(weight.abs().sum(0).max() + inner.abs().max()) < 600
    a = F.pad(torch.exp(inner + left @ upper), (0, padding)) if tables else left
    b = F.pad(torch.exp(right @ lower), (0, padding)) if tables else right
    rows, columns = 2**5, 2**10
    total = torch.full((), -math.inf, dtype=torch.float64, device=weight.device)
    bar = tqdm(total=2**n, desc="log Z, exact", unit=" states", unit_scale=True, disable=None if n > 18 else True)
    for i in range(0, len(left), rows):
        for j in range(0, len(right), columns):
            p, q = left[i : i + rows], right[j : j + columns]
            if tables:
                value = fused_ops.log_product(a[i : i + rows], b[j : j + columns], slices)
            else:
                value = F.softplus(inner + (p @ upper)[:, None] + (q @ lower)[None]).sum(-1)
            value = value + (p @ bias[: n // 2])[:, None] + (q @ bias[n // 2 :])[None]
            for factor in others:
                s = torch.cat([p.repeat_interleave(len(q), 0), q.repeat(len(p), 1)], 1)
                value = value + factor(s).view_as(value)
            total = torch.logaddexp(total, torch.logsumexp(value.flatten(), 0))
            bar.update(value.numel())
    bar.close()
    return total


def _binary(n: int) -> Tensor:
    """All states of n binary units, (2^n, n)."""
    return torch.arange(2**n)[:, None] >> torch.arange(n - 1, -1, -1) & 1
