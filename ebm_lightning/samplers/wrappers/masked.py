"""Conditioning on part of a variable: a sampler that clamps its known values and moves the others."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebm_lightning.core import (
    KNOWN,
    AdaptiveSampler,
    Bounds,
    Conditional,
    EnergyModel,
    GibbsSampleable,
    Info,
    Sampler,
    State,
    require,
    tempered,
)
from ebm_lightning.samplers.wrappers.base import WrappedSampler


@dataclass(frozen=True)
class Masked(WrappedSampler):
    """A sampler of p(hidden values | known values), for example for inpainting.

    The metadata "x.known", bool in the shape of a free variable x, is True for known values; a variable without it
    moves as a whole. ``sampler`` runs on the energy as a function of the hidden values only, with the known values
    inserted, and after its step the known values are restored. So gradients in known values are 0, and acceptance
    depends on the hidden values. If ``sampler`` leaves every distribution invariant, as MALA, HMC and Gibbs over
    independent units do, this one leaves the conditional distribution invariant. Info: that of the inner sampler.

    Args:
        sampler: the kernel; its free variables and bounds become this sampler's.

    Raises:
        ValueError: if the inner sampler is adaptive, or moves replicas, whose known values would not be clamped; at a
            step, if a mask is not bool or has another shape than its variable.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> from ebm_lightning.samplers import SGLD
    >>> energy = Gaussian(mean=[0.0, 0.0], covariance=[1.0, 1.0])
    >>> state = {"x": torch.ones(1, 2), "x.known": torch.tensor([[True, False]])}
    >>> Masked(SGLD(0.5, noise=0.0)).step(energy, state)[0]["x"].tolist()
    [[1.0, 0.5]]
    """

    sampler: Sampler
    free: tuple[str, ...] = field(init=False)
    bounds: Bounds | None = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.sampler, AdaptiveSampler):
            raise ValueError(
                f"Masked({type(self.sampler).__name__}): an adaptive sampler has to be the outermost one, since only "
                "that is updated with the model: mask the sampler inside of it"
            )
        object.__setattr__(self, "free", self.sampler.free)
        object.__setattr__(self, "bounds", self.sampler.bounds)

    def augment_state(self, state: State) -> State:
        added = sorted(self.sampler.augment_state(state).keys() - state.keys())
        if added:
            raise ValueError(
                f"Masked({type(self.sampler).__name__}) cannot hold the known values of {', '.join(added)}: mask the "
                "sampler inside of it, which moves no replicas"
            )
        return state

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        known = {name: _mask(state, name) for name in self.free if name + KNOWN in state}
        conditioned = ConditionedEnergy(model, {name: (mask, state[name]) for name, mask in known.items()})
        end, info = self.sampler.step(conditioned, state, with_info)
        return {**end, **{name: torch.where(mask, state[name], end[name]) for name, mask in known.items()}}, info


class ConditionedEnergy(EnergyModel):
    """The energy of a model as a function of the hidden values only, with the known values inserted.

    Args:
        model: the energy; its parameters are shared.
        known: for each variable a mask, bool in its shape, and a tensor that holds the known values.
    """

    def __init__(self, model: EnergyModel, known: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.model, self.variables = model, model.variables
        with torch.inference_mode(False):  # an inference tensor cannot be in the graph of a gradient
            self.known = {name: (_usable(mask), _usable(value)) for name, (mask, value) in known.items()}

    def forward(self, **state: Tensor) -> Tensor:
        return self.model.energy(self._put(state))

    def conditional(self, block: str, state: State) -> Conditional:
        return require(self.model, GibbsSampleable).conditional(block, self._put(state))

    def tempered(self, beta: float | Tensor) -> EnergyModel:
        return ConditionedEnergy(tempered(self.model, beta), self.known)

    def _put(self, state: State) -> State:
        known = {name: pair for name, pair in self.known.items() if name in state}
        return {**state, **{name: torch.where(mask, value, state[name]) for name, (mask, value) in known.items()}}


def _usable(x: Tensor) -> Tensor:
    return x.clone() if x.is_inference() else x


def _mask(state: State, name: str) -> Tensor:
    mask, x = state[name + KNOWN], state[name]
    if mask.dtype != torch.bool or mask.shape != x.shape:
        raise ValueError(
            f"the mask {name + KNOWN!r} marks the known values of {name!r}: expected bool of shape "
            f"{tuple(x.shape)}, got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return mask
