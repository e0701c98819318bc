"""Sweeps over the blocks of a model with known conditionals: by samples (Gibbs) or by means (mean field)."""

from dataclasses import dataclass

from ebm_lightning.core import EnergyModel, GibbsSampleable, Info, Sampler, State, require


def _check_blocks(sampler: Sampler) -> None:
    if not sampler.free or len(set(sampler.free)) < len(sampler.free):
        raise ValueError(
            f"{type(sampler).__name__}(free={sampler.free!r}): expected the names of the blocks in the order of the "
            "sweep, each once, such as ('h', 'v')"
        )


@dataclass(frozen=True)
class Gibbs(Sampler):
    """One Gibbs sweep: every block in turn is drawn from p(block | the rest); p is invariant.

    For a restricted Boltzmann machine Gibbs(("h", "v")) from data is one step of CD-1. A block that is drawn before
    another depends on it need not be in the state. Info: empty; ``run_chain`` adds the drift of every block.
    Geman & Geman (1984); Hinton (2002) for CD-k.

    Args:
        free: the blocks, in the order in which they are drawn.

    Raises:
        ValueError: if ``free`` is empty or names a block twice; at a step, if the model has no conditional.

    >>> import torch
    >>> from ebm_lightning.energies import RBM
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> model = RBM({"x": Bernoulli([4])}, hidden=3)
    >>> state, info = Gibbs(("h", "x")).step(model, {"x": torch.zeros(5, 4)})
    >>> state["h"].shape, state["x"].shape
    (torch.Size([5, 3]), torch.Size([5, 4]))
    """

    free: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_blocks(self)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        sampleable = require(model, GibbsSampleable)
        for block in self.free:
            state = {**state, block: sampleable.conditional(block, state).sample()}
        return state, {}


@dataclass(frozen=True)
class MeanField(Sampler):
    """One mean-field sweep: every block in turn is set to its mean given the others' means; deterministic.

    Each update lowers the variational free energy of the factorized posterior, so the sweeps converge to a fixed
    point. Info: empty; ``run_chain`` adds the drift of every block.
    Peterson & Anderson (1987); Salakhutdinov & Hinton (2009) for deep Boltzmann machines.

    Args:
        free: the blocks, in the order in which they are set.

    Raises:
        ValueError: if ``free`` is empty or names a block twice; at a step, if the model has no conditional.

    >>> import math, torch
    >>> from ebm_lightning.energies import Ising
    >>> model = Ising(side=2, coupling=0.0, field=math.atanh(0.5))
    >>> state, info = MeanField(("even", "odd")).step(model, {"odd": torch.ones(1, 2, 1)})
    >>> round(state["even"].mean().item(), 4)  # tanh(field)
    0.5
    """

    free: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_blocks(self)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        sampleable = require(model, GibbsSampleable)
        for block in self.free:
            state = {**state, block: sampleable.conditional(block, state).mean}
        return state, {}
