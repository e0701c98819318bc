"""Sums over all states of binary units."""

import pytest
import torch
from support.oracles import bits

from ebm_lightning.energies.boltzmann.enumeration import log_sum_binary

F64 = torch.float64


@pytest.mark.parametrize("scale", [1.0, 30.0, 400.0])
def test_log_sum_binary_of_large_weights_neither_overflows_nor_loses(scale: float) -> None:
    """The sum through tables of exponentials against one through logarithms of each factor."""
    weight, bias, inner = scale * torch.randn(6, 9, dtype=F64), torch.randn(6, dtype=F64), torch.randn(9, dtype=F64)
    s = bits(6)
    expected = torch.logsumexp(s @ bias + torch.nn.functional.softplus(inner + s @ weight).sum(1), 0)
    torch.testing.assert_close(log_sum_binary(weight, bias, inner, []), expected, rtol=1e-12, atol=1e-9)
