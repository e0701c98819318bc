"""The Helmholtz machine: a directed model with binary latents and a recognition network that infers them."""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, State, select_variable
from ebm_lightning.distributions.conditionals import BernoulliConditional
from ebm_lightning.energies.boltzmann.units import Bernoulli, Units, mean_rows


class HelmholtzMachine(EnergyModel):
    """E(x, h1, ..., hL) = -log p(x, h1, ..., hL) in nats, a sigmoid belief network; it is normalized, so log Z = 0.

    The generative model, from the top down: p(hL) = sigmoid(prior), p(h_l | h_l+1) = sigmoid(G_l h_l+1 + g_l) unit by
    unit, and p(x | h1) of each visible group from the input of h1. The recognition model, from the bottom up and with
    its own weights: q(h_l | h_l-1) = sigmoid(R_l h_l-1 + r_l), with h_0 the encoded visible groups.
    ``positive_phase`` draws h1..hL from q, ``ancestral_sample`` draws from p, and ``recognition_energy`` is
    -log q(h1, ..., hL | x). No draw carries a graph: the gradient of the energy is in the generative weights only, that
    of the recognition energy in the recognition weights only. Dayan, Hinton, Neal & Zemel (1995); Hinton, Dayan, Frey &
    Neal (1995).

    Args:
        visible: the groups by the name of their variable; the names h1, h2, ... are reserved.
        hidden: the number of units of each latent layer, from h1, next to the data, up to hL.
        weight_std: standard deviation of the initial weights of both networks, which are normal.
        data_bias: whether the visible biases are initialized to those of independent units fitted to the training data
            instead of 0. Samples from the generative model then match the means of the data from the first step;
            otherwise early training of the recognition network may use samples without diversity.

    Raises:
        ValueError: if there is no visible group, no layer or an empty one, a group has the name of a layer, or
            binary units take gray levels, for which no probability is defined.

    >>> import torch
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> model = HelmholtzMachine({"x": Bernoulli([3])}, hidden=[2], weight_std=0.0)  # all units fair coins
    >>> state = model.positive_phase({"x": torch.ones(1, 3)})
    >>> state["h1"].shape, round(model.energy(state).item(), 4)  # 5 log 2
    (torch.Size([1, 2]), 3.4657)
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
        # The lowest generative layer has no bias: the visible groups have biases of their own.
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
        """A visible group. Raises ValueError if there is no group of this name."""
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
        """True: the expectation of :meth:`free_energy` over q is an upper bound of -log p(x)."""
        return True

    def free_energy(self, batch: State) -> Tensor:
        """log q(h | x) - log p(x, h) for one draw h ~ q, (B,): in expectation an upper bound of -log p(x)."""
        state = self.positive_phase(batch)
        return self.energy(state) - self.recognition_energy(state)

    @torch.no_grad()
    def positive_phase(self, batch: State) -> State:
        """The batch with latents drawn from q(h1, ..., hL | x); latents that it already holds are redrawn."""
        below, state = self.encode(batch), dict(batch)
        for name, layer in zip(self.layers, self.recognition, strict=True):
            below = state[name] = BernoulliConditional(layer(below)).sample()
        return state

    @torch.no_grad()
    def ancestral_sample(self, state: State, free: tuple[str, ...]) -> State:
        """An exact draw of the variables in ``free``, from the top down, given the clamped layers above them.

        Raises ValueError if ``free`` holds another name, or a variable above a clamped one.
        """
        self._check_free(free)
        n = len(next(iter(state.values())))
        sampled = dict(state)
        for name in [name for name in reversed(self.layers) if name in free]:
            sampled[name] = self._given_above(name, sampled, n).sample()
        for name, field in self._fields(sampled["h1"]).items():
            if name in free:
                units = self.units(name)
                sampled[name] = units.conditional(field, units.bias).sample()
        return sampled

    def encode(self, state: State) -> Tensor:
        """The rows of all visible groups, concatenated, (B, rows). Raises ValueError if the state lacks a group."""
        rows = [self.units(name).encode(select_variable(self, state, name)) for name in self.groups]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def check(self, state: State) -> None:
        """Raise ValueError if a visible group is missing or its values are not of its kind."""
        for name in self.groups:
            self.units(name).check(select_variable(self, state, name))

    @torch.no_grad()
    def initialize(self, batches: Iterable[State]) -> None:
        """Initialize the visible biases from the means of the data, if ``data_bias``."""
        if not self.data_bias:
            return
        for name, mean in mean_rows({name: self.units(name) for name in self.groups}, batches).items():
            self.units(name).bias.copy_(self.units(name).fitted_bias(mean, 0.0))

    def log_partition(self, largest: int = 25) -> Tensor:
        """log Z = 0, a float64 scalar: the energy is a negative log-probability."""
        return torch.zeros((), dtype=torch.float64, device=self.prior.device)

    def filters(self, block: str) -> Tensor:
        """The weights of each unit of h1 on a visible group, (units, *shape)."""
        weight = self.generative[0].weight
        assert isinstance(weight, Tensor)
        own = torch.split(weight.T, self.rows, 1)[self.groups.index(block)]
        return own.reshape(len(own), *self.units(block).shape, -1).squeeze(-1)

    def _fields(self, h1: Tensor) -> dict[str, Tensor]:
        """The input of each visible group from h1, (B, rows of the group)."""
        return dict(zip(self.groups, torch.split(self.generative[0](h1), self.rows, 1), strict=True))

    def _given_above(self, name: str, state: State, n: int | None = None) -> BernoulliConditional:
        """p(h_l | h_l+1) of a layer; for the top layer the prior, for the examples of the state or for ``n``."""
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
                f"HelmholtzMachine cannot draw free={free}: its variables are {self.variables}, and the free ones must "
                f"include all below them down to the data, so expected {self.variables} or a part of it without the "
                "topmost layers"
            )
