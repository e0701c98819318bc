"""log Z of a Boltzmann machine whose units fall into two sides without connections inside a side."""

from functools import partial

import torch
from torch import Tensor

from ebm_lightning.enumeration import log_sum_binary
from ebm_lightning.units import Bernoulli, Units

Side = list[tuple[Units, Tensor]]
"""The groups of a side, each with its bias (rows,), in the order of the weight matrix."""


def log_partition(sides: dict[str, Side], weight: Tensor, largest: int) -> Tensor:
    """log of the sum over both sides of exp(r W r' - sum of the groups' energies), float64, by enumeration of one.

    The smaller of the sides that are binary throughout is enumerated, the other summed out in closed form.

    Args:
        sides: two, by the name that messages give them; W is (rows of the first, rows of the second).
        weight: W.
        largest: units of which all states may be enumerated.

    Raises:
        ValueError: where no side is binary, or the smaller one has more units than ``largest``.
    """
    weight = weight.double()
    rows = {name: sum(units.rows for units, _ in side) for name, side in sides.items()}
    binary = [name for name, side in sides.items() if all(type(units) is Bernoulli for units, _ in side)]
    if not binary:
        raise ValueError("log Z by enumeration needs a side of binary units alone: estimate log Z by AIS")
    side = min(binary, key=lambda name: rows[name])
    (other,) = sides.keys() - {side}
    if rows[side] > largest:
        hours = 2.0 ** rows[side] * rows[other] * 1e-9 / 3600
        raise ValueError(
            f"log Z by enumeration of the {side} side sums 2^{rows[side]} states of {rows[other]} units, about "
            f"{hours:.2g} hours: expected at most {largest} units, so estimate log Z by AIS, or raise `largest`"
        )
    outwards = weight if side == next(iter(sides)) else weight.T
    columns = torch.split(outwards, [units.rows for units, _ in sides[other]], 1)
    inner, others = [], []
    for (units, bias), part in zip(sides[other], columns, strict=True):
        if type(units) is Bernoulli:
            inner.append((part, bias.double()))
        else:
            others.append(partial(_log_normaliser, units, part, bias.double()))
    bias = torch.cat([bias for _, bias in sides[side]]).double()
    parts = [part for part, _ in inner] or [outwards[:, :0]]
    biases = [bias for _, bias in inner] or [bias[:0]]
    return log_sum_binary(torch.cat(parts, 1), bias, torch.cat(biases), others)


def _log_normaliser(units: Units, weight: Tensor, bias: Tensor, s: Tensor) -> Tensor:
    """What a group that is summed out contributes to log p*(s), (N,), for s (N, units of the other side)."""
    return units.log_normaliser(s @ weight, bias)
