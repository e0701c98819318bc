"""The restricted Boltzmann machine over groups of visible units."""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ebm_lightning.core import Conditional, EnergyModel, State, select_variable
from ebm_lightning.distributions.conditionals import BernoulliConditional, CategoricalConditional, per_example
from ebm_lightning.energies.boltzmann.bipartite import Bipartite, BipartitePath
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax, Units, mean_rows
from ebm_lightning.utils import fused_ops
from ebm_lightning.utils.distributed import mean_over_ranks


class RBM(EnergyModel):
    """F(v) = energy(v) - sum_j log(1 + exp(c_j + (r(v) W)_j)): the free energy of the visible groups.

    It is the joint energy E(v, h) = energy(v) - c.h - r(v) W h with the binary hidden units h summed out, a product of
    ``hidden`` experts (Smolensky 1986; Hinton 2002; Hinton 2010, "A practical guide", equations 1 and 25). r(v) are the
    encoded values of all groups, concatenated, W is ``weight`` (rows, hidden) and c is ``hidden_bias``; for one binary
    group energy(v) = -b.v and r(v) = v. The gradient of mean F(data) - mean F(samples) is Hinton's rule, with hidden
    probabilities in both phases. Gibbs sampling moves h first, as in Gibbs(("h", "x")): h is an auxiliary variable of
    the state, which the energy ignores.

    With a label among the groups, {"x": Bernoulli([1, 28, 28]), "y": Softmax(10)}, it is the classification RBM
    (Larochelle & Bengio 2008): ``conditional("y", {"x": x})`` is p(y | x) with h summed out exactly.

    Args:
        visible: the groups by the name of their variable; the name h is reserved.
        hidden: the number of hidden units.
        weight_std: standard deviation of the initial weights, which are normal.
        hidden_bias: initial value of every c_j; negative values favor sparse activity.
        data_bias: whether the visible biases are initialized to those of independent units fitted to the training data
            (Hinton 2010, section 8) instead of 0.
        centering: rate of the running means mu of r(v) and lambda of h over the data, in [0, 1]; None for no centering.
            The energy is then energy(v) - c.h - (r(v) - mu) W (h - lambda), whose gradient is invariant to flips of
            the bits and better conditioned (Montavon & Mueller 2012; Melchior, Fischer & Wiskott 2016). An update of
            the offsets does not change the distribution.

    Raises:
        ValueError: if there is no unit on one side, a group is called h, or ``centering`` lies outside [0, 1].

    >>> import torch
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> model = RBM({"x": Bernoulli([4])}, hidden=3, weight_std=0.0)  # 7 independent fair coins
    >>> round(model.energy({"x": torch.ones(1, 4)}).item(), 4), round(model.log_partition().item(), 4)  # log 2^3, 2^7
    (-2.0794, 4.852)
    """

    row_offset: Tensor
    hidden_offset: Tensor

    def __init__(
        self,
        visible: dict[str, Units],
        hidden: int,
        weight_std: float = 0.01,
        hidden_bias: float = 0.0,
        data_bias: bool = True,
        centering: float | None = None,
    ) -> None:
        super().__init__()
        if not visible or "h" in visible or hidden < 1 or weight_std < 0:
            raise ValueError(
                f"RBM(visible={sorted(visible)}, hidden={hidden}, weight_std={weight_std}): expected at least one unit "
                "of each kind, weight_std >= 0, and no group called h"
            )
        if centering is not None and not 0 <= centering <= 1:
            raise ValueError(f"RBM(centering={centering}): expected a rate in [0, 1], or null for none")
        self.variables = tuple(visible)
        self.visible = nn.ModuleDict(visible)
        rows = [group.rows for group in visible.values()]
        ends = [0, *torch.tensor(rows).cumsum(0).tolist()]
        self.spans = {name: slice(*span) for name, span in zip(visible, pairwise(ends), strict=True)}
        self.weight = nn.Parameter(weight_std * torch.randn(sum(rows), hidden))
        self.hidden_bias = nn.Parameter(torch.full((hidden,), hidden_bias))
        self.data_bias, self.centering = data_bias, centering
        self.register_buffer("row_offset", torch.zeros(sum(rows)), persistent=centering is not None)
        self.register_buffer("hidden_offset", torch.full((hidden,), 0.5), persistent=centering is not None)

    @property
    def hidden(self) -> int:
        """The number of hidden units."""
        return len(self.hidden_bias)

    @property
    def groups(self) -> dict[str, Units]:
        """The visible groups by the name of their variable."""
        return {name: self.units(name) for name in self.variables}

    def units(self, name: str) -> Units:
        """The group of a variable. Raises ValueError if there is no group of this name."""
        if name not in self.visible:
            raise ValueError(f"this RBM has the variables {self.variables} and the hidden units 'h', got {name!r}")
        group = self.visible[name]
        assert isinstance(group, Units)
        return group

    def forward(self, **state: Tensor) -> Tensor:
        """F(v), shape (B,)."""
        return self.visible_energy(state) - fused_ops.softplus_sum(self.hidden_logits(state))

    def energies(self, *states: State) -> tuple[Tensor, ...]:
        """F of several states in one pass: one matrix product forwards and one backwards for all of them."""
        joined = {name: torch.cat([select_variable(self, state, name) for state in states]) for name in self.variables}
        return torch.split(self.energy(joined), [len(state[self.variables[0]]) for state in states])

    def joint(self, state: State) -> Tensor:
        """E(v, h), shape (B,), for a state that holds h (B, hidden) beside the visible groups."""
        return self.visible_energy(state) - (state["h"] * self.hidden_logits(state)).sum(1)

    def encode(self, state: State) -> Tensor:
        """r(v): the encoded values of all groups, concatenated, (B, rows)."""
        rows = [self.units(name).encode(state[name]) for name in self.variables]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def visible_energy(self, state: State) -> Tensor:
        """The part of the energy without h (B,): the groups' own, and (r(v) - mu) W lambda if centered."""
        with torch.autocast(self.weight.device.type, enabled=False):  # a sum of hundreds needs more bits than bfloat16
            energies = [self.units(name).energy(state[name], self.units(name).bias) for name in self.variables]
        if self.centering is not None:
            energies.append((self.encode(state) - self.row_offset) @ (self.weight @ self.hidden_offset))
        return torch.stack(energies).sum(0) if len(energies) > 1 else energies[0]

    def hidden_logits(self, state: State) -> Tensor:
        """c + (r(v) - mu) W, shape (B, hidden): the logits of p(h_j = 1 | v)."""
        centered = self.centering is not None
        bias = self.hidden_bias - self.row_offset @ self.weight if centered else self.hidden_bias
        return torch.addmm(bias, self.encode(state), self.weight)

    def input(self, h: Tensor, name: str) -> Tensor:
        """The input of a group from the hidden units h (B, hidden), (B, rows of the group)."""
        if self.centering is not None:
            h = h - self.hidden_offset
        return h @ self.weight[self.spans[name]].T

    def conditional(self, block: str, state: State) -> Conditional:
        """p(h | v) for "h"; p(group | h) if the state holds h; else p(label | other groups), with h summed out.

        Raises ValueError for any other block, or if the state lacks a variable that is conditioned on.
        """
        if block == "h":
            self._need("h", self.variables, state)
            return BernoulliConditional(self.hidden_logits(state))
        units = self.units(block)
        if "h" in state:
            return units.conditional(self.input(state["h"], block), units.bias)
        if not isinstance(units, Softmax) or units.shape:
            raise ValueError(f"p({block} | h) needs 'h', but the state has {sorted(state)}: let Gibbs move h first")
        return self._label_conditional(block, units, state)

    def check(self, state: State) -> None:
        """Raise ValueError if a group is missing or its values are not in its domain."""
        self._need("the energy", self.variables, state)
        for name in self.variables:
            self.units(name).check(state[name])

    def positive_phase(self, batch: State) -> State:
        """The batch itself; in a training step of a centered model, the offsets are updated from it."""
        if self.centering and self.training and torch.is_grad_enabled():
            self._recenter(batch, self.centering)
        return batch

    @torch.no_grad()
    def initialize(self, batches: Iterable[State]) -> None:
        """Initialize the visible biases (if ``data_bias``) and mu (if centered) from the means of the data."""
        if not self.data_bias and self.centering is None:
            return
        for name, mean in mean_rows(self.groups, batches).items():
            if self.data_bias:
                self.units(name).bias.copy_(self.units(name).fitted_bias(mean, 0.0))
            if self.centering is not None:
                self.row_offset[self.spans[name]] = mean.to(self.row_offset)

    def uncentered(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """(visible biases by group, hidden bias, constant): the same energy as sum_g energy_g - c.h - r W h + constant.

        Without centering these are the parameters and 0. Centered Gaussian groups have no such form.
        """
        biases = {name: self.units(name).bias for name in self.variables}
        if self.centering is None:
            return biases, self.hidden_bias, torch.zeros((), dtype=self.weight.dtype)
        pulled = self.weight @ self.hidden_offset
        constant = -self.row_offset @ pulled
        for name, span in self.spans.items():
            units = self.units(name)
            assert isinstance(units, Bernoulli | Softmax), "centered Gaussian groups have no uncentered form"
            biases[name] = units.bias - pulled[span]
        return biases, self.hidden_bias - self.row_offset @ self.weight, constant

    def tempered(self, beta: float | Tensor) -> EnergyModel:
        """The RBM with the joint energy beta E(v, h): its free energy, and conditionals with all logits times beta."""
        return TemperedRBM(self, beta)

    @torch.no_grad()
    def annealing_path(self, batches: Iterable[State] | None = None) -> BipartitePath:
        """The path from independent visible units to this RBM (Salakhutdinov & Murray 2008, section 4.1.3).

        The independent units are fitted to the data with 0.05 pseudo-counts per example; if ``batches`` is None, they
        have this model's visible biases.
        """
        machine = self.bipartite()
        begin = {name: machine.biases[name] for name in self.variables}
        if batches is not None:
            means = mean_rows(self.groups, batches)
            begin = {name: self.units(name).fitted_bias(means[name], 0.05).to(self.weight) for name in self.variables}
        return BipartitePath(machine, begin)

    def filters(self, block: str) -> Tensor:
        """The weights of each hidden unit on a group, (hidden, *shape)."""
        return self.weight[self.spans[block]].T.reshape(self.hidden, *self.units(block).shape, -1).squeeze(-1)

    @torch.no_grad()
    def log_partition(self, largest: int = 25) -> Tensor:
        """log Z in nats by enumeration of the smaller binary side, a float64 scalar.

        Raises ValueError, with an estimate of the cost, if that side has more than ``largest`` units.
        """
        return self.bipartite().log_partition(largest, ("hidden", "visible"))

    def bipartite(self) -> Bipartite:
        """The hidden and the visible units as the sides of a bipartite machine, without offsets."""
        biases, hidden_bias, constant = self.uncentered()
        links = {("h", name): self.weight[span].T for name, span in self.spans.items()}
        hidden: dict[str, Units] = {"h": Bernoulli([self.hidden])}
        return Bipartite(hidden, self.groups, links, {**biases, "h": hidden_bias}, -constant)

    def _need(self, what: str, names: tuple[str, ...], state: State) -> None:
        missing = [name for name in names if name not in state]
        if missing:
            raise ValueError(
                f"{what} of this RBM depends on {missing}, but the state has {sorted(state)}: supply it in the batch "
                "(labels for a classification RBM), or draw it first by Gibbs"
            )

    def _label_conditional(self, block: str, units: Softmax, state: State) -> CategoricalConditional:
        """p(label = k | rest) with logits d_k + sum_j log(1 + exp(c_j + U_kj + (rest W)_j)).

        Larochelle & Bengio (2008), eq. 2.
        """
        self._need(f"p({block} | v)", tuple(name for name in self.variables if name != block), state)
        n = len(next(iter(state.values())))
        device = self.weight.device
        labels = torch.zeros(n, dtype=torch.int64, device=device)
        span = self.spans[block]
        rest = self.hidden_logits({**state, block: labels}) - self.weight[span.start]
        own = units.bias
        if self.centering is not None:
            own = own - self.weight[span] @ self.hidden_offset
        logits = [own[k] + fused_ops.softplus_sum(rest + self.weight[span.start + k]) for k in range(units.classes)]
        return CategoricalConditional(torch.stack(logits, 1))

    @torch.no_grad()
    def _recenter(self, batch: State, rate: float) -> None:
        """Move the offsets towards the batch's means, and the biases such that no probability changes.

        b += W (lambda_new - lambda) and c += (mu_new - mu) W. The means are those of all ranks.
        """
        rows = self.encode(batch).mean(0)
        mean_h = torch.sigmoid(self.hidden_logits(batch)).mean(0)
        means = mean_over_ranks(torch.cat([rows, mean_h]))
        row_step = rate * (means[: len(rows)] - self.row_offset)
        hidden_step = rate * (means[len(rows) :] - self.hidden_offset)
        self.hidden_bias.add_(row_step @ self.weight)
        self.row_offset += row_step
        pulled = self.weight @ hidden_step
        for name, span in self.spans.items():
            self.units(name).bias.add_(pulled[span])
        self.hidden_offset += hidden_step


class TemperedRBM(EnergyModel):
    """beta E(v, h) with h summed out: beta energy(v) - sum_j log(1 + exp(beta (c_j + (r W)_j))).

    This is not beta F(v). Gibbs sampling with all logits times beta leaves this distribution invariant.

    Args:
        rbm: the machine; its parameters are shared.
        beta: inverse temperature >= 0, a number or one for each example (B,).
    """

    def __init__(self, rbm: RBM, beta: float | Tensor) -> None:
        super().__init__()
        self.rbm, self.beta = rbm, beta
        self.variables = rbm.variables

    def forward(self, **state: Tensor) -> Tensor:
        logits = self.rbm.hidden_logits(state)
        hidden = fused_ops.softplus_sum(per_example(self.beta, logits) * logits)
        return self.beta * self.rbm.visible_energy(state) - hidden

    def conditional(self, block: str, state: State) -> Conditional:
        return self.rbm.conditional(block, state).tempered(self.beta)

    def tempered(self, beta: float | Tensor) -> EnergyModel:
        return TemperedRBM(self.rbm, self.beta * beta)
