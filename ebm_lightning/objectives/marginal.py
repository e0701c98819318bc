"""An objective on a marginal of the model."""

from dataclasses import dataclass

from torch import Tensor

from ebm_lightning.core import EnergyModel, Objective, State, Terms, free_energy


@dataclass(frozen=True)
class Marginal(Objective):
    """An objective on -log p*(rest), with one variable of the model summed out of both phases.

    In a Sum it adds a term of p(x) to those of p(x, y) and p(y | x), with the same chains: {"joint":
    ContrastiveDivergence(), "marginal": Marginal(ContrastiveDivergence()), "discriminative": Classification()}.
    Grathwohl et al. (2020), whose released code has weights for all three. Chains with y clamped to the data's labels
    are valid for the term of p(x) if they are samples from p(x | y) at the label frequencies of the data.
    Terms: those of the objective.

    Args:
        objective: the objective on the marginal.
        block: the variable that the model's ``free_energy`` sums out.

    Raises:
        ValueError: at a call, if the model has no such variable, or cannot sum it out.

    >>> import torch
    >>> from ebm_lightning.energies import JEM, JointJEM
    >>> from ebm_lightning.objectives import ContrastiveDivergence
    >>> model = JointJEM(JEM(torch.nn.Flatten(), classes=2))  # logits f(x) = x
    >>> data = {"x": torch.zeros(1, 2), "y": torch.tensor([0])}
    >>> terms = Marginal(ContrastiveDivergence())(model, data, data)
    >>> round(terms["energy_data"].item(), 4)  # -log 2: y is summed out
    -0.6931
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
