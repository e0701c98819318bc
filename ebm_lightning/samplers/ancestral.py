"""Ancestral sampling: exact draws from a directed model."""

from dataclasses import dataclass

from ebm_lightning.core import AncestralSampleable, EnergyModel, Info, Sampler, State, require


@dataclass(frozen=True)
class Ancestral(Sampler):
    """One exact draw of the free variables from the top of a directed model down to the data.

    The previous state does not matter, so that one step is as good as many, from any start.
    The draw is from p(free | clamped), and carries no graph. Info: none, for ``run_chain`` gives every variable's
    drift. The sleep phase of Hinton, Dayan, Frey & Neal (1995).

    Args:
        free: the variables to draw: all of the model's, or those below latents that are clamped.

    Raises:
        ValueError: if ``free`` is empty; at a step, if the model is no
            :class:`~ebm_lightning.core.AncestralSampleable`.
    """

    free: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.free:
            raise ValueError("Ancestral(free=()) has nothing to draw: name the model's variables, such as ('x', 'h1')")

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        return require(model, AncestralSampleable).ancestral_sample(state, self.free), {}
