"""Greedy layerwise pretraining: RBMs trained one on top of the other, to be composed into a deep machine."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ebm_lightning.core import Conditional, DataInitialized, EnergyModel, GibbsSampleable, State, evaluating, require
from ebm_lightning.energies.boltzmann.rbm import RBM
from ebm_lightning.utils import fused_ops


class DoubledRBM(EnergyModel):
    """An RBM with two tied copies of one side, which stand in for the missing layer of a deep machine.

    A hidden layer of a deep Boltzmann machine gets input from below and from above. Before the layer above exists, the
    input from below is multiplied by ``up``, and for a layer that is visible here and hidden in the deep machine the
    input from above by ``down``: p(h | v) = sigmoid(up (c + r(v) W)) and p(v | h) = sigmoid(down (b + W h)).
    The energy, the gradient of whose contrast is the usual RBM rule with these probabilities, is

        F(v) = energy(v) - 1/up sum_j log(1 + exp(up (c_j + (r(v) W)_j))).

    Train the bottom layer of a deep machine with ``up`` 2, the top layer with ``down`` 2, the others with both.
    Salakhutdinov & Hinton (2009), section 3.1.

    Args:
        rbm: the machine, without centering.
        up: factor of the input from below, > 0.
        down: factor of the input from above, > 0; for every visible group but labels, which are connected to the top
            layer only.

    Raises:
        ValueError: if a factor is not positive, or the machine is centered.

    >>> import torch
    >>> from ebm_lightning.energies import RBM
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> rbm = RBM({"x": Bernoulli([4])}, hidden=3, hidden_bias=1.0)
    >>> doubled, state = DoubledRBM(rbm, up=2.0), {"x": torch.zeros(1, 4)}
    >>> (doubled.conditional("h", state).logits / rbm.conditional("h", state).logits).tolist()
    [[2.0, 2.0, 2.0]]
    """

    def __init__(self, rbm: RBM, up: float = 1.0, down: float = 1.0) -> None:
        super().__init__()
        if not (up > 0 and down > 0):
            raise ValueError(f"DoubledRBM(up={up}, down={down}): expected numbers > 0, usually 1 or 2")
        if rbm.centering is not None:
            raise ValueError("DoubledRBM takes an RBM without centering: a centered deep machine needs no pretraining")
        self.rbm, self.up, self.down = rbm, up, down
        self.variables = rbm.variables

    def forward(self, **state: Tensor) -> Tensor:
        hidden = fused_ops.softplus_sum(self.up * self.rbm.hidden_logits(state))
        return self.rbm.visible_energy(state) - hidden / self.up

    def conditional(self, block: str, state: State) -> Conditional:
        if block == "h":
            return self.rbm.conditional(block, state).tempered(self.up)
        conditional = self.rbm.conditional(block, state)
        return conditional.tempered(self.down) if block == self.variables[0] else conditional

    def check(self, state: State) -> None:
        self.rbm.check(state)

    def initialize(self, batches: Iterable[State]) -> None:
        self.rbm.initialize(batches)

    def filters(self, block: str) -> Tensor:
        return self.rbm.filters(block)

    def strength(self, hidden_below: bool, hidden_above: bool) -> float:
        """The factor from these weights to those of the deep machine, in which each direction has the factor 1.

        Args:
            hidden_below: whether the visible side is a hidden layer in the deep machine.
            hidden_above: whether the deep machine has another layer above the hidden units.

        Raises:
            ValueError: if the factor differs between the two directions.
        """
        up, down = (2 if hidden_above else 1), (2 if hidden_below else 1)
        if self.up / up != self.down / down:
            raise ValueError(
                f"a layer pretrained with up={self.up:g} and down={self.down:g} has two different strengths in a deep "
                f"machine: train it as DoubledRBM with up={up} and down={down}"
            )
        return self.up / up


class StackedEnergy(EnergyModel):
    """A model of the hidden units of a trained machine: the next layer of a greedy stack.

    The positive phase draws h from the conditional of ``below`` as the variable ``block``; other variables of the
    batch, such as labels, are kept. Hinton, Osindero & Teh (2006).

    Args:
        model: the energy over ``block``.
        below: a trained machine with hidden units "h": an RBM, a DoubledRBM, or another StackedEnergy; it is not
            trained further.
        block: the variable of ``model`` that holds the hidden units of ``below``.

    Raises:
        ValueError: if ``model`` has no variable ``block``; at the first batch, if the layers do not fit.

    >>> import torch
    >>> from ebm_lightning.energies import RBM
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> below, top = RBM({"x": Bernoulli([4])}, hidden=3), RBM({"x": Bernoulli([3])}, hidden=2)
    >>> StackedEnergy(top, below).positive_phase({"x": torch.zeros(5, 4)})["x"].shape
    torch.Size([5, 3])
    """

    def __init__(self, model: EnergyModel, below: EnergyModel, block: str = "x") -> None:
        super().__init__()
        if block not in model.variables:
            raise ValueError(
                f"StackedEnergy(block={block!r}): {type(model).__name__} is an energy over {model.variables}: "
                f"name one of them"
            )
        self.model, self.below, self.block = model, below.requires_grad_(False), block
        self.variables = model.variables

    def forward(self, **state: Tensor) -> Tensor:
        return self.model.energy(state)

    @torch.no_grad()
    def positive_phase(self, batch: State) -> State:
        with evaluating(self.below):
            state = self.below.positive_phase(batch)
            self.below.check(state)
            return self.model.positive_phase(
                {**batch, self.block: require(self.below, GibbsSampleable).conditional("h", state).sample()}
            )

    def conditional(self, block: str, state: State) -> Conditional:
        return require(self.model, GibbsSampleable).conditional(block, state)

    def check(self, state: State) -> None:
        self.model.check(state)

    def initialize(self, batches: Iterable[State]) -> None:
        if isinstance(self.model, DataInitialized):
            self.model.initialize(map(self.positive_phase, batches))


def layer_of(model: EnergyModel) -> DoubledRBM:
    """The machine of a pretrained layer, without the layers below. Raises ValueError if ``model`` is no such layer."""
    if isinstance(model, StackedEnergy):
        return layer_of(model.model)
    if isinstance(model, DoubledRBM):
        return model
    if isinstance(model, RBM):
        return DoubledRBM(model)
    raise ValueError(f"a layer of a deep Boltzmann machine is pretrained as an RBM, got a {type(model).__name__}")
