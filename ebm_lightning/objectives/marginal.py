"""An objective on a marginal of the model."""

from dataclasses import dataclass

from torch import Tensor

from ebm_lightning.core import EnergyModel, Objective, State, Terms, free_energy


@dataclass(frozen=True)
class Marginal(Objective):
    """An objective on -log p*(rest), with one variable of the model summed out of both phases.

    In one Sum it sets a term of p(x) beside those of p(x, y) and p(y | x), from the same chains: {"joint":
    ContrastiveDivergence(), "marginal": Marginal(ContrastiveDivergence()), "discriminative": Classification()}.
    Grathwohl et al. (2020), whose released code weighs the three. Chains with y clamped to the data's labels serve the
    term of p(x) as far as they are draws from p(x | y) with the data's share of every label.
    Terms: those of the objective.

    Args:
        objective: what is to be computed on the marginal.
        block: the variable summed out; the model's ``free_energy`` must be able to.

    Raises:
        ValueError: at a call, where the model has no such variable, or cannot sum it out.
    """

    objective: Objective
    block: str = "y"

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        view = _SummedOut(model, self.block)
        return self.objective(view, view.rest(pos), None if neg is None else view.rest(neg))


class _SummedOut(EnergyModel):
    """The energy of a marginal: the model's free energy of everything but the block."""

    def __init__(self, model: EnergyModel, block: str) -> None:
        super().__init__()
        if block not in model.variables:
            raise ValueError(
                f"Marginal(block={block!r}) has nothing to sum out of {type(model).__name__}, an energy over "
                f"{model.variables}: name one of its variables, or leave out Marginal"
            )
        self.model, self.block = model, block
        self.variables = tuple(name for name in model.variables if name != block)

    def rest(self, state: State) -> State:
        """The state without the block."""
        return {name: value for name, value in state.items() if name != self.block}

    def forward(self, **state: Tensor) -> Tensor:
        return free_energy(self.model, state)
