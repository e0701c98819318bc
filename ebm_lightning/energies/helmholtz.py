"""The Helmholtz machine: a directed model of binary causes, with a recognition network that guesses them."""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, State, select_variable
from ebm_lightning.distributions.conditionals import BernoulliConditional
from ebm_lightning.energies.boltzmann.units import Bernoulli, Units, mean_rows


class HelmholtzMachine(EnergyModel):
    """E(x, h1, ..., hL) = -log p(x, h1, ..., hL) in nats, a sigmoid belief network; it is normalized, so log Z = 0.

    Generative, from the top down: p(hL) = sigmoid(prior), p(h_l | h_l+1) = sigmoid(G_l h_l+1 + g_l) unit by unit, and
    p(x | h1) of every visible group from the field that h1 sends to it. Recognition, from the bottom up and with
    weights of its own: q(h_l | h_l-1) = sigmoid(R_l h_l-1 + r_l), where h_0 are the rows of the visible groups.
    ``positive_phase`` draws h1..hL from q, ``ancestral_sample`` draws from p, and ``recognition_energy`` is -log q(h1,
    ..., hL | x). No draw carries a graph: the energy teaches the generative weights alone, the recognition energy the
    others alone. Dayan, Hinton, Neal & Zemel (1995); Hinton, Dayan, Frey & Neal (1995).

    Args:
        visible: the groups by the name of their variable; none may be called h1, h2, ...
        hidden: the units of every layer of causes, from h1, next to the data, up to hL.
        weight_std: standard deviation of the initial weights of both networks, which are normal.
        data_bias: whether the visible biases begin as those of independent units fitted to the training data instead
            of 0. Dreams then look like data in their means from the first step; otherwise the recognition network may
            learn early from dreams that are all alike.

    Raises:
        ValueError: where there is no visible group, no layer or an empty one, a group has the name of a layer, or
            binary units are to take gray levels, of which no probability is defined.
    """

    def __init__(
        self,
        visible: dict[str, Units],
        hidden: list[int],
        weight_std: float = 0.1,
        data_bias: bool = True,
    ) -> None:
        super().__init__()
        self.layers = tuple(f"h{level}" for level in range(1, len(hidden) + 1))
        if not visible or not hidden or min(hidden) < 1 or weight_std < 0 or set(visible) & set(self.layers):
            raise ValueError(
                f"HelmholtzMachine(visible={sorted(visible)}, hidden={hidden}, weight_std={weight_std}): expected at "
                "least one group and one layer, each of at least one unit, weight_std >= 0, and no group called h1, "
                "h2, ..."
            )
        gray = [name for name, group in visible.items() if isinstance(group, Bernoulli) and group.probabilities]
        if gray:
            raise ValueError(
                f"HelmholtzMachine is a normalized distribution, and binary units give gray levels no probability: set "
                f"probabilities: false for {gray}, and binarize the data"
            )
        self.variables = (*visible, *self.layers)
        self.visible = nn.ModuleDict(visible)
        self.groups = tuple(visible)
        self.rows = [group.rows for group in visible.values()]
        widths = [sum(self.rows), *hidden]
        pairs = list(pairwise(widths))
        # The groups have biases of their own.
        self.generative = nn.ModuleList(
            nn.Linear(above, below, level > 0) for level, (below, above) in enumerate(pairs)
        )
        self.recognition = nn.ModuleList(nn.Linear(below, above) for below, above in pairs)
        self.prior = nn.Parameter(torch.zeros(hidden[-1]))
        self.data_bias = data_bias
        for layer in (*self.generative, *self.recognition):
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=weight_std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def units(self, name: str) -> Units:
        """A visible group. Raises ValueError where there is none of this name."""
        if name not in self.groups:
            raise ValueError(f"this HelmholtzMachine has the visible groups {self.groups}, got {name!r}")
        group = self.visible[name]
        assert isinstance(group, Units)
        return group

    def forward(self, **state: Tensor) -> Tensor:
        """-log p(x, h1, ..., hL), shape (B,)."""
        energy = -self._given_above(self.layers[-1], state).log_prob(state[self.layers[-1]])
        for name in self.layers[:-1]:
            energy = energy - self._given_above(name, state).log_prob(state[name])
        for name, field in self._fields(state["h1"]).items():
            units = self.units(name)
            energy = energy - units.conditional(field, units.bias).log_prob(state[name])
        return energy

    def recognition_energy(self, state: State) -> Tensor:
        """-log q(h1, ..., hL | x) = -sum_l log q(h_l | h_l-1), shape (B,)."""
        energy, below = torch.zeros((), device=self.prior.device), self.encode(state)
        for name, layer in zip(self.layers, self.recognition, strict=True):
            energy = energy - BernoulliConditional(layer(below)).log_prob(select_variable(self, state, name))
            below = state[name]
        return energy

    @property
    def bounds_log_prob(self) -> bool:
        return True

    def free_energy(self, batch: State) -> Tensor:
        """log q(h | x) - log p(x, h) for one draw h ~ q, (B,): in expectation the description length, >= -log p(x)."""
        state = self.positive_phase(batch)
        return self.energy(state) - self.recognition_energy(state)

    @torch.no_grad()
    def positive_phase(self, batch: State) -> State:
        """The batch with causes drawn from q(h1, ..., hL | x); those that it holds already are drawn anew."""
        below, drawn = self.encode(batch), dict(batch)
        for name, layer in zip(self.layers, self.recognition, strict=True):
            below = drawn[name] = BernoulliConditional(layer(below)).sample()
        return drawn

    @torch.no_grad()
    def ancestral_sample(self, state: State, free: tuple[str, ...]) -> State:
        """An exact draw of the variables in ``free``, from the top down, given what is clamped above them.

        Raises ValueError where ``free`` names something else, or something above a variable that is clamped.
        """
        self._check_free(free)
        n = len(next(iter(state.values())))
        dreamt = dict(state)
        for name in [name for name in reversed(self.layers) if name in free]:
            dreamt[name] = self._given_above(name, dreamt, n).sample()
        for name, field in self._fields(dreamt["h1"]).items():
            if name in free:
                units = self.units(name)
                dreamt[name] = units.conditional(field, units.bias).sample()
        return dreamt

    def encode(self, state: State) -> Tensor:
        """The rows of all visible groups side by side, (B, rows). Raises ValueError where the state lacks a group."""
        rows = [self.units(name).encode(select_variable(self, state, name)) for name in self.groups]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def check(self, state: State) -> None:
        for name in self.groups:
            self.units(name).check(select_variable(self, state, name))

    @torch.no_grad()
    def initialize(self, batches: Iterable[State]) -> None:
        """The visible biases from the means of the data, where ``data_bias``."""
        if not self.data_bias:
            return
        for name, mean in mean_rows({name: self.units(name) for name in self.groups}, batches).items():
            self.units(name).bias.copy_(self.units(name).fitted_bias(mean, 0.0))

    def log_partition(self, largest: int = 25) -> Tensor:
        """0: the energy is a negative log-probability."""
        return torch.zeros((), dtype=torch.float64, device=self.prior.device)

    def filters(self, block: str) -> Tensor:
        """What each unit of h1 adds to the field of a visible group."""
        weight = self.generative[0].weight
        assert isinstance(weight, Tensor)
        own = torch.split(weight.T, self.rows, 1)[self.groups.index(block)]
        return own.reshape(len(own), *self.units(block).shape, -1).squeeze(-1)

    def _fields(self, h1: Tensor) -> dict[str, Tensor]:
        """What h1 sends to each visible group, (B, rows of the group)."""
        return dict(zip(self.groups, torch.split(self.generative[0](h1), self.rows, 1), strict=True))

    def _given_above(self, name: str, state: State, n: int | None = None) -> BernoulliConditional:
        """p(h_l | h_l+1) of a layer; of the top one the prior, for the examples of the state or for ``n``."""
        level = self.layers.index(name) + 1
        if level == len(self.layers):
            return BernoulliConditional(self.prior.expand(len(state[name]) if n is None else n, -1))
        return BernoulliConditional(self.generative[level](state[self.layers[level]]))

    def _check_free(self, free: tuple[str, ...]) -> None:
        unknown = [name for name in free if name not in self.variables]
        depth = max([self.layers.index(name) + 1 for name in free if name in self.layers], default=0)
        below = (*self.groups, *self.layers)[: len(self.groups) + depth] if depth else ()
        clamped = [name for name in below if name not in free]
        if unknown or clamped or not free:
            raise ValueError(
                f"HelmholtzMachine cannot dream of {free}: its variables are {self.variables}, and what is dreamt must "
                f"reach down to the data, so expected {self.variables} or a part of it without the topmost layers"
            )
