"""Dreaming: exact draws from a directed model."""

from dataclasses import dataclass

from ebm_lightning.core import EnergyModel, Info, Sampler, State


@dataclass(frozen=True)
class Ancestral(Sampler):
    """One exact draw of the free variables from the top of a directed model down to the data: a dream.

    Where the chain stood is forgotten, so that one step is as good as many and it does not matter where chains start.
    The draw is from p(free | clamped), and carries no graph. Info: none, for ``run`` reports every variable's drift.
    The sleep phase of Hinton, Dayan, Frey & Neal (1995).

    Args:
        free: the variables to draw: all of the model's, or those below causes that are clamped.

    Raises:
        ValueError: where ``free`` is empty; at a step, where the model cannot dream of these variables.
    """

    free: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.free:
            raise ValueError("Ancestral(free=()) has nothing to draw: name the model's variables, such as ('x', 'h1')")

    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        return model.ancestral_sample(state, self.free), {}
