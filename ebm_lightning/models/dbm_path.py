"""The path of distributions along which AIS estimates log Z of a deep Boltzmann machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebm_lightning.core import AnnealingPath, State

if TYPE_CHECKING:
    from ebm_lightning.models.dbm import DBM


class DBMPath(AnnealingPath):
    """log p*_beta(odd) = beta c.odd + sum over the even groups of log sum exp(beta input - energy(bias_beta)).

    The state are the odd layers h1, h3, ...; the visible units and every other even layer are summed out. A transition
    draws the even layers and then the odd ones, and is reversible. At beta = 0 the visible units are independent with
    the biases b_A, and every other unit is a fair coin; visible biases are (1 - beta) b_A + beta b, others beta b.

    Args:
        dbm: where the path ends.
        means: the means over data of the rows of groups to which b_A is fitted; other visible groups keep their biases.
    """

    def __init__(self, dbm: "DBM", means: dict[str, Tensor]) -> None:
        self.dbm = dbm
        self.end, self.constant = dbm.plain()
        self.begin = {name: torch.zeros_like(bias) for name, bias in self.end.items()}
        for name in dbm.layers[0]:
            self.begin[name] = dbm.units(name).fitted_bias(means[name], 0.05) if name in means else self.end[name]
        parts = [tuple(name for layer in dbm.layers[first::2] for name in layer) for first in (0, 1)]
        self.even, self.odd = parts
        self.log_partition = sum(
            float(dbm.units(name).log_normaliser(torch.zeros(1, dbm.units(name).rows).to(bias).double(), bias.double()))
            for name, bias in self.begin.items()
        )

    @torch.no_grad()
    def start(self, n: int) -> State:
        return self._draw(
            self.odd, {name: torch.zeros(n, len(self.begin[name])).to(self.begin[name]) for name in self.odd}, 0.0
        )

    @torch.no_grad()
    def move(self, state: State, begin: float, end: float) -> tuple[State, Tensor]:
        fields = self._fields(self.even, state)
        weight = self._log_p(state, fields, end) - self._log_p(state, fields, begin)
        even = self._draw(self.even, fields, end)
        return self._draw(self.odd, self._fields(self.odd, even), end), weight - float(self.constant) * (end - begin)

    def _log_p(self, state: State, fields: State, beta: float) -> Tensor:
        """log p*_beta(odd), float64 (B,), but for the constant."""
        terms = [-self.dbm.units(name).energy(state[name], self._bias(name, beta)) for name in self.odd]
        terms += [
            self.dbm.units(name).log_normaliser(beta * fields[name], self._bias(name, beta)) for name in self.even
        ]
        return torch.stack([term.double() for term in terms]).sum(0)

    def _fields(self, names: Sequence[str], state: State) -> State:
        """What the layers of the other parity send to groups, without offsets: these are in the biases."""
        fields = {}
        for name in names:
            inputs = [
                torch.cat([self.dbm.units(other).encode(state[other]) for other in self.dbm.layers[number]], 1) @ weight
                for number, weight in self.dbm.inputs(name)
            ]
            fields[name] = torch.stack(inputs).sum(0) if len(inputs) > 1 else inputs[0]
        return fields

    def _draw(self, names: Sequence[str], fields: State, beta: float) -> State:
        return {
            name: self.dbm.units(name).conditional(beta * fields[name], self._bias(name, beta)).sample()
            for name in names
        }

    def _bias(self, name: str, beta: float) -> Tensor:
        return torch.lerp(self.begin[name], self.end[name], beta)
