"""Conditioning on a part of a variable: a sampler that holds the known values of it and moves the others."""

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
    """A sampler of p(hidden values | known values): inpainting, where the known part of an image is held.

    Which values of a free variable x are known is said by the metadata "x.known", bool in the shape of x; a variable
    without one moves as a whole. ``sampler`` sees the energy as a function of the hidden values alone, in which the
    known ones stand where they are, and what it made of these is put back after its step. So gradients in known values
    are 0, proposals are accepted by the hidden ones, and where ``sampler`` leaves every law invariant, as MALA, HMC and
    Gibbs over independent units do, this one leaves the conditional law invariant. Info: that of the inner sampler.

    Args:
        sampler: the kernel; its free variables and bounds become this sampler's.

    Raises:
        ValueError: where the inner sampler is adaptive, or moves replicas, whose known values would not be held; at a
            step, where a mask is not bool or of another shape than its variable.
    """

    sampler: Sampler
    free: tuple[str, ...] = field(init=False)
    bounds: Bounds | None = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.sampler, AdaptiveSampler):
            raise ValueError(
                f"Masked({type(self.sampler).__name__}): an adaptive sampler has to be the outermost one, for only "
                "that follows the model: mask the sampler inside of it"
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
        held = ConditionedEnergy(model, {name: (mask, state[name]) for name, mask in known.items()})
        end, info = self.sampler.step(held, state, with_info)
        return {**end, **{name: torch.where(mask, state[name], end[name]) for name, mask in known.items()}}, info


class ConditionedEnergy(EnergyModel):
    """The energy of a model as a function of hidden values alone: known ones are put in their place before it looks.

    Args:
        model: the energy; its parameters are shared.
        known: by variable, where it is known, bool in its shape, and a value whose known part counts.
    """

    def __init__(self, model: EnergyModel, known: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.model, self.variables = model, model.variables
        with torch.inference_mode(False):  # what was made in inference mode cannot be in the graph of a gradient
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
            f"the mask {name + KNOWN!r} says which values of {name!r} are known: expected bool of shape "
            f"{tuple(x.shape)}, got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return mask
