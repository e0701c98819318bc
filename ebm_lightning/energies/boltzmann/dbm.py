"""Deep Boltzmann machines: layers of units, each connected to the next."""

import functools
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ebm_lightning.core import Conditional, EnergyModel, State
from ebm_lightning.distributions.conditionals import CategoricalConditional
from ebm_lightning.energies.boltzmann.bipartite import Bipartite, BipartitePath
from ebm_lightning.energies.boltzmann.pretraining import DoubledRBM, layer_of
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax, Units, mean_rows
from ebm_lightning.utils.distributed import mean_over_ranks


class DBM(EnergyModel):
    """E(v, h1, ..., hL) = sum of the groups' own energies - sum_l r_l W_l r_{l+1}: a deep Boltzmann machine.

    Layer 0 are the visible groups, layers 1..L binary units h1..hL, and layer L + 1, if there are ``labels``, groups
    connected to hL only. r_l are the encoded values of a layer's groups, concatenated; a binary group's own energy is
    -b.v. Layers of one parity are independent given the others, so that one Gibbs sweep moves the odd and then the even
    layers: Gibbs(("h1", "x", "h2")), or with labels Gibbs(("h1", "y", "x", "h2")).

    The positive phase completes a batch by mean field: each hidden unit is set to its mean given the others' means, in
    upward sweeps after a first upward pass, in which the input from below is doubled because that from above is
    missing. The energy is linear in every layer, so its value at the means is its expectation under the factorized
    posterior q, and :meth:`free_energy`, E_q[E] - H(q), is an upper bound of -log p*(data). Labels that a batch does
    not contain are completed too, as probabilities.

    Salakhutdinov & Hinton (2009), equations 1 to 10.

    Args:
        visible: the groups of layer 0 by the name of their variable; the names h1, h2, ... are reserved.
        hidden: the number of units of each hidden layer, from the bottom.
        labels: groups of the top layer, such as {"y": Softmax(10)}; labels of a batch are clamped.
        mean_field: sweeps of the positive phase in training, at least 1.
        max_mean_field_steps: the largest number of sweeps in evaluation, which stop earlier if every group's mean
            absolute change is below 1e-7.
        weight_std: standard deviation of the initial weights, which are normal.
        data_bias: whether visible and label biases are initialized to those of independent units fitted to the training
            data.
        centering: rate of the running mean mu_l of r_l in the positive phase, in [0, 1]; None for no centering. The
            energy is then own - sum_l (r_l - mu_l) W_l (r_{l+1} - mu_{l+1}), which trains from random
            weights, without pretraining (Montavon & Mueller 2012). An update of the offsets does not change the
            distribution.
        pretrained: one trained layer for each hidden layer, from the bottom, a :class:`DoubledRBM` or a
            :class:`StackedEnergy` of one; the machine is initialized to their composition.

    Raises:
        ValueError: if a layer has no unit, a number is out of range, or both ``centering`` and ``pretrained`` are
            given; before training, if pretrained layers do not compose.

    >>> import torch
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> model = DBM({"x": Bernoulli([4])}, hidden=[3, 2], weight_std=0.0)  # 9 independent fair coins
    >>> state = model.positive_phase({"x": torch.ones(1, 4)})
    >>> state["h1"].tolist(), round(model.log_partition().item(), 4)  # 9 log 2
    ([[0.5, 0.5, 0.5]], 6.2383)
    """

    def __init__(
        self,
        visible: dict[str, Units],
        hidden: list[int],
        labels: dict[str, Units] | None = None,
        mean_field: int = 10,
        max_mean_field_steps: int = 50,
        weight_std: float = 0.01,
        data_bias: bool = True,
        centering: float | None = None,
        pretrained: list[EnergyModel] | None = None,
    ) -> None:
        super().__init__()
        names = [f"h{layer}" for layer in range(1, len(hidden) + 1)]
        labels = labels or {}
        data_names = [*visible, *labels]
        if not visible or not hidden or min(hidden) < 1 or len({*names, *data_names}) < len(names) + len(data_names):
            raise ValueError(
                f"DBM(visible={sorted(visible)}, hidden={hidden}, labels={sorted(labels)}): expected at least one "
                "visible group and one unit in each of one or more hidden layers, and no group called h1, h2, ..."
            )
        if mean_field < 1 or max_mean_field_steps < 1 or weight_std < 0 or not 0 <= (centering or 0) <= 1:
            raise ValueError(
                f"DBM(mean_field={mean_field}, max_mean_field_steps={max_mean_field_steps}, "
                f"weight_std={weight_std}, centering={centering}): "
                "expected at least 1 sweep, weight_std >= 0, and for centering a rate in [0, 1] or null"
            )
        if centering is not None and pretrained:
            raise ValueError(
                "DBM(centering, pretrained): centering is the alternative to pretraining, so give only one"
            )
        layers: list[dict[str, Units]] = [visible]
        layers += [{name: Bernoulli([n])} for name, n in zip(names, hidden, strict=True)]
        layers += [labels] if labels else []
        self.layers = [tuple(layer) for layer in layers]
        self.hidden, self.labels = tuple(names), tuple(labels)
        self.variables = tuple(name for layer in self.layers for name in layer)
        self.groups = nn.ModuleDict({name: units for layer in layers for name, units in layer.items()})
        rows = [sum(units.rows for units in layer.values()) for layer in layers]
        self.place = {name: (number, span) for number, layer in enumerate(layers) for name, span in _spans(layer)}
        self.weights = nn.ParameterList(weight_std * torch.randn(m, n) for m, n in pairwise(rows))
        self.mean_field, self.max_mean_field_steps = mean_field, max_mean_field_steps
        self.data_bias, self.centering = data_bias, centering
        self._pretrained: tuple[EnergyModel, ...] = tuple(pretrained or ())
        if centering is not None:
            for number, n in enumerate(rows):
                self.register_buffer(f"offset{number}", torch.full((n,), 0.5))

    def units(self, name: str) -> Units:
        """The group of a variable. Raises ValueError if there is no group of this name."""
        if name not in self.groups:
            raise ValueError(f"this DBM has the variables {self.variables}, got {name!r}: name one of them")
        group = self.groups[name]
        assert isinstance(group, Units)
        return group

    def forward(self, **state: Tensor) -> Tensor:
        """E(v, h1, ..., hL), shape (B,)."""
        with torch.autocast(self.weights[0].device.type, enabled=False):  # sums of hundreds need more than bfloat16
            own = [self.units(name).energy(state[name], self.units(name).bias) for name in self.variables]
        rows = [self._rows(number, state) for number in range(len(self.layers))]
        pairs = [
            ((lower @ weight) * upper).sum(1)
            for (lower, upper), weight in zip(pairwise(rows), self.weights, strict=True)
        ]
        return torch.stack(own).sum(0) - torch.stack(pairs).sum(0)

    @property
    def bounds_log_prob(self) -> bool:
        """True: :meth:`free_energy` is an upper bound of -log p*(batch)."""
        return True

    def free_energy(self, batch: State) -> Tensor:
        """E_q[E] - H(q) of the mean-field posterior q of the missing variables, (B,): >= -log p*(batch)."""
        state = self.positive_phase(batch)
        entropies = [self.units(name).entropy(state[name]) for name in self.variables if name not in batch]
        return self.energy(state) - torch.stack(entropies).sum(0)

    def positive_phase(self, batch: State) -> State:
        """The batch, with each missing variable at its mean under the mean-field posterior.

        In a training step of a centered model, the offsets are updated from the result. Raises ValueError if a visible
        group is missing.
        """
        is_training_step = self.training and torch.is_grad_enabled()
        state = (
            self._mean_field_means(batch, self.mean_field)
            if self.training
            else self._mean_field_means(batch, self.max_mean_field_steps, 1e-7)
        )
        if self.centering and is_training_step:
            self._recenter(state, self.centering)
        return state

    def conditional(self, block: str, state: State) -> Conditional:
        """p(block | its neighboring layers); the mean-field posterior of a label if no hidden unit is given.

        Raises ValueError for any other block, or if the state lacks a variable that is conditioned on.
        """
        units = self.units(block)
        if block in self.labels and isinstance(units, Softmax) and self.hidden[-1] not in state:
            inferred = self._mean_field_means(
                {name: state[name] for name in state if name != block}, self.max_mean_field_steps, 1e-7
            )
            return CategoricalConditional(inferred[block].log())
        fields = [self._rows(number, state, block) @ weight for number, weight in self._inputs(block)]
        return self._given(block, functools.reduce(torch.add, fields))

    def check(self, state: State) -> None:
        """Raise ValueError if a visible group or a label is missing, or its values are not in its domain."""
        for name in (*self.layers[0], *self.labels):
            if name not in state or (name in self.labels and state[name].is_floating_point()):
                raise ValueError(
                    f"this DBM is trained with {name!r}, but the data hold none: train on labeled data, or leave out "
                    "its `labels`"
                    if name in self.labels
                    else f"this DBM has the visible group {name!r}, but the data hold {sorted(state)}: supply it"
                )
            self.units(name).check(state[name])

    @torch.no_grad()
    def initialize(self, batches: Iterable[State]) -> None:
        """Initialize from the pretrained layers, or else the biases and offsets from the means of the data.

        Raises ValueError if the pretrained layers do not compose.
        """
        if self._pretrained:
            self._compose(layer_of(model) for model in self._pretrained)
        elif self.data_bias or self.centering is not None:
            for name, mean in mean_rows(self._data_groups, batches).items():
                number, span = self.place[name]
                if self.data_bias:
                    self.units(name).bias.copy_(self.units(name).fitted_bias(mean, 0.0))
                if self.centering is not None:
                    self.offset(number)[span] = mean.to(self.weights[0])

    @property
    def _data_groups(self) -> dict[str, Units]:
        """The groups that the data may contain."""
        return {name: self.units(name) for name in (*self.layers[0], *self.labels)}

    def offset(self, number: int) -> Tensor:
        """The offset mu of a layer of a centered machine, (rows,)."""
        offset = getattr(self, f"offset{number}")
        assert isinstance(offset, Tensor)
        return offset

    def uncentered(self) -> tuple[dict[str, Tensor], Tensor]:
        """(biases by group, constant): the same energy as own - sum_l r_l W_l r_{l+1} + constant, without offsets."""
        biases = {name: self.units(name).bias for name in self.variables}
        constant = torch.zeros((), dtype=self.weights[0].dtype)
        if self.centering is None:
            return biases, constant
        for name in self.variables:
            assert isinstance(self.units(name), Bernoulli | Softmax), "centered Gaussian groups have no uncentered form"
            biases[name] = biases[name] - sum(self.offset(number) @ weight for number, weight in self._inputs(name))
        for number, weight in enumerate(self.weights):
            constant = constant - self.offset(number) @ weight @ self.offset(number + 1)
        return biases, constant

    @torch.no_grad()
    def log_partition(self, largest: int = 25) -> Tensor:
        """log Z in nats by enumeration of the even or the odd layers, whichever have fewer binary units, in float64.

        Raises ValueError, with an estimate of the cost, if these have more than ``largest`` units.
        """
        return self.bipartite().log_partition(largest, ("even", "odd"))

    def bipartite(self) -> Bipartite:
        """The even and the odd layers as the sides of a bipartite machine, without offsets."""
        biases, constant = self.uncentered()
        even, odd = ({name: self.units(name) for layer in self.layers[first::2] for name in layer} for first in (0, 1))
        links = {}
        for number, weight in enumerate(self.weights):
            for lower in self.layers[number]:
                for upper in self.layers[number + 1]:
                    part = weight[self.place[lower][1], self.place[upper][1]]
                    links[(lower, upper) if number % 2 == 0 else (upper, lower)] = part if number % 2 == 0 else part.T
        return Bipartite(even, odd, links, biases, -constant)

    @torch.no_grad()
    def annealing_path(self, batches: Iterable[State] | None = None) -> BipartitePath:
        """The path from independent units to this machine over the odd layers (Salakhutdinov & Hinton 2009, section 4).

        The visible units at its beginning are fitted to the data with 0.05 pseudo-counts per example; if ``batches`` is
        None, they have this model's biases. Hidden units and labels are uniform there.
        """
        machine = self.bipartite()
        begin = {name: machine.biases[name] for name in self.layers[0]}
        if batches is not None:
            means = mean_rows(self._data_groups, batches)
            begin = {name: self.units(name).fitted_bias(means[name], 0.05).to(self.weights[0]) for name in begin}
        return BipartitePath(machine, begin)

    def filters(self, block: str) -> Tensor:
        """The weights of h1 on a visible group; for "h1" those of h2 on the first visible group, W_1 W_2."""
        if block in self.layers[0]:
            group, weight = block, self.weights[0]
        elif block == "h1" and len(self.hidden) > 1:
            group, weight = self.layers[0][0], self.weights[0] @ self.weights[1]
        else:
            raise ValueError(f"a DBM has filters on {self.layers[0]} and, of the second layer, on 'h1', got {block!r}")
        _, span = self.place[group]
        return weight[span].T.reshape(weight.shape[1], *self.units(group).shape, -1).squeeze(-1)

    def _inputs(self, name: str) -> list[tuple[int, Tensor]]:
        """The inputs of a group: (number of the layer, weights from its rows to those of the group)."""
        number, span = self.place[name]
        below = [(number - 1, self.weights[number - 1][:, span])] if number > 0 else []
        return below + ([(number + 1, self.weights[number][span].T)] if number < len(self.weights) else [])

    def _rows(self, number: int, state: State, block: str = "the energy") -> Tensor:
        """r_l, minus its offset if centered. Raises ValueError if the state lacks a group of the layer."""
        missing = [name for name in self.layers[number] if name not in state]
        if missing:
            raise ValueError(
                f"{block} of this DBM depends on {missing}, but the state has {sorted(state)}: supply it in the batch, "
                "or complete the batch first"
            )
        rows = [self.units(name).encode(state[name]) for name in self.layers[number]]
        joined = rows[0] if len(rows) == 1 else torch.cat(rows, 1)
        return joined if self.centering is None else joined - self.offset(number)

    @torch.no_grad()
    def _mean_field_means(self, batch: State, sweeps: int, tolerance: float = 0.0) -> State:
        """The batch completed by at most ``sweeps`` mean-field sweeps, fewer if all changes are below ``tolerance``."""
        self._rows(0, batch)
        state = dict(batch)
        free = [name for name in self.variables if name not in batch]
        clamped = [number for number, layer in enumerate(self.layers) if all(name in batch for name in layer)]
        inputs = {name: self._inputs(name) for name in free}
        for name in free:  # the first pass: the layers above have no values yet, so the input from below is doubled
            own = self.place[name][0]
            inputs_now = [(n, weight) for n, weight in inputs[name] if n < own or n in clamped]
            fields = [
                self._rows(n, state) @ weight * (2 if n < own < len(self.hidden) else 1) for n, weight in inputs_now
            ]
            state[name] = self._given(name, functools.reduce(torch.add, fields)).mean
        fixed = {name: self._fixed(name, clamped, state) for name in free}
        for _ in range(sweeps):
            moved = []
            for name in free:
                input = fixed[name]
                for number, weight in inputs[name]:
                    if number not in clamped:
                        input = torch.addmm(input, self._rows(number, state), weight)
                mean = self._given(name, input).mean
                if tolerance:
                    moved.append((mean - state[name]).abs().mean())
                state[name] = mean
            if tolerance and max(moved) < tolerance:
                break
        return state

    def _given(self, name: str, input: Tensor) -> Conditional:
        """p(group | its neighboring layers) for their ``input``."""
        return self.units(name).conditional(input, self.units(name).bias)

    def _fixed(self, name: str, clamped: list[int], state: State) -> Tensor:
        """The input of a group from the clamped layers, broadcastable to (B, rows of the group)."""
        fields = [self._rows(number, state) @ weight for number, weight in self._inputs(name) if number in clamped]
        return functools.reduce(torch.add, fields) if fields else torch.zeros_like(self.units(name).bias)

    @torch.no_grad()
    def _recenter(self, state: State, rate: float) -> None:
        """Move the offsets towards the batch's means, and the biases such that no probability changes.

        b_l += W_{l-1}^T (mu_new - mu_old)_{l-1} + W_l (mu_new - mu_old)_{l+1}. The means are those of all ranks.
        """
        numbers = range(len(self.layers))
        means = mean_over_ranks(torch.cat([self._rows(number, state).mean(0) for number in numbers]))
        steps = torch.split(rate * means, [len(self.offset(number)) for number in numbers])
        for name in self.variables:
            for number, weight in self._inputs(name):
                self.units(name).bias.add_(steps[number] @ weight)
        for number in numbers:
            self.offset(number).add_(steps[number])

    def _compose(self, machines: Iterable[DoubledRBM]) -> None:
        """Set the weights to those of the pretrained layers; the biases of two machines for one layer are added."""
        parts = [machine.to(self.weights[0].device) for machine in machines]
        if len(parts) != len(self.hidden):
            raise ValueError(
                f"this DBM has {len(self.hidden)} hidden layers, but {len(parts)} pretrained ones: give one for each"
            )
        for name in self.variables:
            self.units(name).bias.zero_()
        for number, machine in enumerate(parts):
            rbm, top = machine.rbm, number + 1 == len(parts)
            strength = machine.strength(hidden_below=number > 0, hidden_above=not top)
            names = [*self.layers[number], *(self.labels if top else ())]
            rows = {name: self.units(name).rows for name in names}
            rbm_rows = {name: rbm.units(name).rows for name in rbm.variables}
            if [*rows.values()] != [*rbm_rows.values()] or rbm.hidden != self.weights[number].shape[1]:
                raise ValueError(
                    f"pretrained layer {number + 1} joins {rbm_rows} with {rbm.hidden} hidden units, but layer "
                    f"{number + 1} of this DBM joins {rows} with {self.weights[number].shape[1]}: give layers that fit"
                )
            for name, own in zip(names, rbm.variables, strict=True):
                part, bias = rbm.weight[rbm.spans[own]], rbm.units(own).bias
                if name in self.labels:
                    self.weights[-1][:, self.place[name][1]] = part.T
                    self.units(name).bias.add_(bias)
                else:
                    self.weights[number][self.place[name][1]] = strength * part
                    self.units(name).bias.add_(strength * bias)
            self.units(self.hidden[number]).bias.add_(strength * rbm.hidden_bias)


def _spans(layer: dict[str, Units]) -> list[tuple[str, slice]]:
    """The rows of each group of a layer."""
    ends = [0]
    for units in layer.values():
        ends.append(ends[-1] + units.rows)
    return [(name, slice(*span)) for name, span in zip(layer, pairwise(ends), strict=True)]
