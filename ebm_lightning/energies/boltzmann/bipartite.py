"""Bipartite Boltzmann machines, without connections within a side: exact log Z and an annealing path for AIS."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import torch
from torch import Tensor

from ebm_lightning.core import AnnealingPath, State
from ebm_lightning.energies.boltzmann.enumeration import log_sum_binary
from ebm_lightning.energies.boltzmann.units import Bernoulli, Units


@dataclass(frozen=True)
class Bipartite:
    """p* = exp(sum over links of r W r' - sum of the groups' own energies + constant), a bipartite machine.

    Given one side, the groups of the other are independent. The sides are the visible and the hidden units of an RBM,
    the even and the odd layers of a deep Boltzmann machine.

    Args:
        even: the groups of one side by the name of their variable.
        odd: those of the other.
        links: W (rows of the even group, rows of the odd one) by the names of both; groups without a link are not
            connected.
        biases: of every group, (rows,).
        constant: an additive constant of log p*.
    """

    even: dict[str, Units]
    odd: dict[str, Units]
    links: dict[tuple[str, str], Tensor]
    biases: dict[str, Tensor]
    constant: Tensor

    @property
    def units(self) -> dict[str, Units]:
        """All groups."""
        return {**self.even, **self.odd}

    def inputs_now(self, name: str) -> list[tuple[str, Tensor]]:
        """The inputs of a group: (name of the other group, weights from its rows to those of this group)."""
        down = [(odd, weight.T) for (even, odd), weight in self.links.items() if even == name]
        return down + [(even, weight) for (even, odd), weight in self.links.items() if odd == name]

    def log_partition(self, largest: int, sides: tuple[str, str]) -> Tensor:
        """log Z in nats, float64, by enumeration of the smaller side with binary units only.

        Args:
            largest: the largest number of units to enumerate.
            sides: the names of the even and the odd side in error messages.

        Raises:
            ValueError: if no side is binary, or the smaller binary one has more units than ``largest``.
        """
        groups = dict(zip(sides, (self.even, self.odd), strict=True))
        rows = {side: sum(units.rows for units in members.values()) for side, members in groups.items()}
        binary = [side for side, members in groups.items() if all(type(u) is Bernoulli for u in members.values())]
        if not binary:
            raise ValueError("log Z by enumeration needs a side of binary units only: estimate log Z by AIS")
        side = min(binary, key=lambda name: rows[name])
        (other,) = rows.keys() - {side}
        if rows[side] > largest:
            hours = 2.0 ** rows[side] * rows[other] * 1e-9 / 3600
            raise ValueError(
                f"log Z by enumeration of the {side} side sums 2^{rows[side]} states of {rows[other]} units, about "
                f"{hours:.2g} hours: expected at most {largest} units, so estimate log Z by AIS, or raise `largest`"
            )
        bias = torch.cat([self.biases[name] for name in groups[side]]).double()
        weights, inner = [bias.new_zeros(len(bias), 0)], [bias[:0]]
        others: list[Callable[[Tensor], Tensor]] = []
        for name, units in groups[other].items():
            weight = self._from(groups[side], name).double()
            if type(units) is Bernoulli:
                weights.append(weight)
                inner.append(self.biases[name].double())
            else:
                others.append(partial(_log_normalizer, units, weight, self.biases[name].double()))
        return log_sum_binary(torch.cat(weights, 1), bias, torch.cat(inner), others) + self.constant.double()

    def _from(self, side: dict[str, Units], name: str) -> Tensor:
        """The weights from all rows of a side to those of a group of the other side; 0 without a link."""
        inputs_now = dict(self.inputs_now(name))
        bias = self.biases[name]
        return torch.cat([inputs_now.get(one, bias.new_zeros(units.rows, len(bias))) for one, units in side.items()])


class BipartitePath(AnnealingPath):
    """log p*_beta(odd) = beta constant - energy(odd; bias_beta) + sum over even of log sum exp(beta input - energy).

    The state is the odd side; the even side is summed out. bias_beta interpolates linearly from the initial to the
    machine's bias. At beta = 0 all groups are independent. A transition draws the even side and then the odd side, and
    is reversible. Salakhutdinov & Hinton (2009), section 4, for deep Boltzmann machines.

    Args:
        machine: the machine at the end of the path.
        begin: the initial biases by group; those of groups that are not named are 0.
    """

    def __init__(self, machine: Bipartite, begin: dict[str, Tensor]) -> None:
        self.machine, self.end = machine, machine.biases
        self.begin = {name: begin.get(name, torch.zeros_like(bias)) for name, bias in self.end.items()}
        zero = {name: bias.new_zeros(1, len(bias)).double() for name, bias in self.end.items()}
        self.log_partition = sum(
            float(units.log_normalizer(zero[name], self.begin[name].double())) for name, units in machine.units.items()
        )

    @torch.no_grad()
    def start(self, n: int) -> State:
        zero = {name: self.begin[name].new_zeros(n, len(self.begin[name])) for name in self.machine.odd}
        return self._draw(self.machine.odd, zero, 0.0)

    @torch.no_grad()
    def move(self, state: State, begin: float, end: float) -> tuple[State, Tensor]:
        fields = self._fields(self.machine.even, state)
        weight = self._change(state, fields, begin, end)
        even = self._draw(self.machine.even, fields, end)
        return self._draw(self.machine.odd, self._fields(self.machine.odd, even), end), weight

    def _change(self, state: State, fields: State, begin: float, end: float) -> Tensor:
        """log p*_end(odd) - log p*_begin(odd), float64 (B,)."""
        terms = [(end - begin) * self.machine.constant.double()]
        for name, units in self.machine.odd.items():
            before, after = (units.energy(state[name], self._bias(name, beta)) for beta in (begin, end))
            terms.append((before - after).double())
        for name, units in self.machine.even.items():
            first, last = ((beta, self._bias(name, beta)) for beta in (begin, end))
            terms.append(units.log_normalizer_change(fields[name], first, last))
        return reduce(add, terms)

    def _fields(self, side: dict[str, Units], state: State) -> State:
        """The inputs of the groups of a side from the other side, (B, rows) each."""
        rows = {name: units.encode(state[name]) for name, units in self.machine.units.items() if name in state}
        return {
            name: reduce(add, [rows[other] @ weight for other, weight in self.machine.inputs_now(name)])
            for name in side
        }

    def _draw(self, side: dict[str, Units], fields: State, beta: float) -> State:
        return {
            name: units.conditional(beta * fields[name], self._bias(name, beta)).sample()
            for name, units in side.items()
        }

    def _bias(self, name: str, beta: float) -> Tensor:
        return torch.lerp(self.begin[name], self.end[name], beta)


def _log_normalizer(units: Units, weight: Tensor, bias: Tensor, s: Tensor) -> Tensor:
    """The term of log p*(s) of a group that is summed out, (N,), for s (N, units of the other side)."""
    return units.log_normalizer(s @ weight, bias)
