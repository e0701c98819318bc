"""Greedy layerwise pretraining: Boltzmann machines trained one on top of the other, to be composed into a deep one."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ebm_lightning.core import Conditional, DataInitialized, EnergyModel, GibbsSampleable, State, evaluating, require
from ebm_lightning.energies.boltzmann.rbm import RBM
from ebm_lightning.utils import fused_ops


class DoubledRBM(EnergyModel):
    """An RBM with two tied copies of one side, in place of the layer of a deep machine that is not there yet.

    A hidden layer of a deep Boltzmann machine gets input from below and from above. While the layer above is missing,
    the input from below counts ``up`` times, and for a layer that is visible here and hidden in the deep machine the
    input from above counts ``down`` times: p(h | v) = sigmoid(up (c + r(v) W)) and p(v | h) = sigmoid(down (b + W h)).
    The energy, whose contrast has the gradient of the ordinary rule with these probabilities, is

        F(v) = energy(v) - 1/up sum_j log(1 + exp(up (c_j + (r(v) W)_j))).

    Train the bottom layer of a deep machine with ``up`` 2, the top layer with ``down`` 2, and those between with both.
    Salakhutdinov & Hinton (2009), section 3.1.

    Args:
        rbm: the machine, without centering.
        up: how often the input from below counts, > 0.
        down: how often the input from above counts, > 0; of every visible group but labels, which a top layer alone
            sees.

    Raises:
        ValueError: where a factor is not positive, or the machine is centered.
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
        """What the weights count in a deep machine, where each direction comes once, as against here.

        Args:
            hidden_below: whether the visible side is a hidden layer there, with another layer below.
            hidden_above: whether there is another layer above the hidden units there.

        Raises:
            ValueError: where it differs between the two directions.
        """
        up, down = (2 if hidden_above else 1), (2 if hidden_below else 1)
        if self.up / up != self.down / down:
            raise ValueError(
                f"a layer pretrained with up={self.up:g} and down={self.down:g} has two different strengths in a deep "
                f"machine: train it as DoubledRBM with up={up} and down={down}"
            )
        return self.up / up


class StackedEnergy(EnergyModel):
    """A model of what the hidden units of a trained one do: the next layer of a greedy stack.

    The positive phase draws h from the conditional of ``below`` and calls it ``block``; everything else in the batch,
    such as labels, stays. Hinton, Osindero & Teh (2006).

    Args:
        model: the energy over ``block``.
        below: a trained machine with hidden units "h": an RBM, a DoubledRBM, or another StackedEnergy; it stays as it
            is.
        block: the variable of ``model`` that holds the hidden units of ``below``.

    Raises:
        ValueError: where ``model`` has no variable ``block``; at the first batch, where the layers do not fit.
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
    """The machine of a pretrained layer, without what it stands on. Raises ValueError where it is none."""
    if isinstance(model, StackedEnergy):
        return layer_of(model.model)
    if isinstance(model, DoubledRBM):
        return model
    if isinstance(model, RBM):
        return DoubledRBM(model)
    raise ValueError(f"a layer of a deep Boltzmann machine is pretrained as an RBM, got a {type(model).__name__}")
