"""Ancestral sampling: exact draws from a directed model."""

from dataclasses import dataclass

from ebm_lightning.core import AncestralSampleable, EnergyModel, Info, Sampler, State, require


@dataclass(frozen=True)
class Ancestral(Sampler):
    """One exact draw of the free variables from the top of a directed model down to the data.

    The draw is from p(free | clamped), whatever the previous values of the free variables, so that one step suffices.
    It carries no graph. Info: empty; ``run_chain`` adds the drift of every variable. It is the sleep phase of Hinton,
    Dayan, Frey & Neal (1995).

    Args:
        free: the variables to draw: all of the model's, or those below latents that are clamped.

    Raises:
        ValueError: if ``free`` is empty; at a step, if the model is no
            :class:`~ebm_lightning.core.AncestralSampleable`.

    >>> import torch
    >>> from ebm_lightning.energies import HelmholtzMachine
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> model = HelmholtzMachine({"x": Bernoulli([3])}, hidden=[2])
    >>> state, info = Ancestral(("x", "h1")).step(model, {"x": torch.zeros(5, 3)})
    >>> state["x"].shape, state["h1"].shape
    (torch.Size([5, 3]), torch.Size([5, 2]))
    """

    free: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.free:
            raise ValueError("Ancestral(free=()) has nothing to draw: name the model's variables, such as ('x', 'h1')")

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        return require(model, AncestralSampleable).ancestral_sample(state, self.free), {}
