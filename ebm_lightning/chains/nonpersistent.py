"""Chains that end with their negative phase: from the data (CD) or from noise (short-run)."""

import torch
from torch import Tensor

from ebm_lightning.core import Chains, Noise, State
from ebm_lightning.distributions.noise import UniformNoise


class DataChains(Chains):
    """Contrastive divergence: every chain starts at the data and is forgotten (Hinton 2002)."""

    def start(self, pos: State, free: tuple[str, ...]) -> State:
        return {name: value.detach() for name, value in pos.items()}

    def finish(self, end: State) -> None:
        """Nothing survives."""


def _born(noise: Noise, pos: State, name: str) -> Tensor:
    """Where a chain's variable begins: in noise, or, for labels and categories, at the data's value."""
    return noise.initial(pos, name) if pos[name].is_floating_point() else pos[name].detach()


def _in_turn(pos: State, number: int | None) -> State:
    """``number`` examples of a batch, in turn and again from its beginning; None leaves the batch as it is."""
    if number is None:
        return pos
    return {name: value[torch.arange(number, device=value.device) % len(value)] for name, value in pos.items()}


def _check_number(owner: object, number: int | None) -> None:
    if number is not None and number < 1:
        raise ValueError(f"{type(owner).__name__}(number={number}): expected at least 1 chain, or None for the batch's")


class NoiseChains(Chains):
    """Short-run chains: the free variables start from noise, the clamped ones stay at the data (Nijkamp et al. 2019).

    Args:
        noise: where the free variables start; None is uniform on [0, 1).
        number: chains of a negative phase, whatever the batch of data is: what a GPU holds, or what a contrast of means
            needs. Clamped variables are those of the batch in turn. None is one for each example.

    Raises:
        ValueError: where ``number`` < 1.
    """

    def __init__(self, noise: Noise | None = None, number: int | None = None) -> None:
        _check_number(self, number)
        self.noise: Noise = noise or UniformNoise()
        self.number = number

    def start(self, pos: State, free: tuple[str, ...]) -> State:
        pos = _in_turn(pos, self.number)
        return {name: _born(self.noise, pos, name) if name in free else value.detach() for name, value in pos.items()}

    def finish(self, end: State) -> None:
        """Nothing survives."""
