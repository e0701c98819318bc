"""Chains that end with their negative phase: started at the data (CD) or from noise (short-run)."""

import torch
from torch import Tensor

from ebm_lightning.core import Chains, Noise, State
from ebm_lightning.distributions.noise import UniformNoise


class DataChains(Chains):
    """Chains of contrastive divergence: each starts at the data and ends with its negative phase (Hinton 2002).

    >>> import torch
    >>> chains = DataChains()
    >>> chains.start({"x": torch.ones(2, 1)}, free=("x",))["x"].tolist()
    [[1.0], [1.0]]
    """

    def start(self, pos: State, free: tuple[str, ...]) -> State:
        return detached(pos)

    def finish(self, end: State) -> None:
        """Do nothing: no chain persists."""


class NoiseChains(Chains):
    """Short-run chains: free variables start from noise, clamped ones stay at the data (Nijkamp et al. 2019).

    Args:
        init: the initial distribution of the free variables; None is uniform on [0, 1).
        num_chains: the number of chains of a negative phase, independent of the batch size of the data. Clamped
            variables cycle through the batch. None is one chain for each example.

    Raises:
        ValueError: if ``num_chains`` < 1.

    >>> import torch
    >>> chains = NoiseChains(num_chains=3)
    >>> chains.start({"x": torch.zeros(2, 4)}, free=("x",))["x"].shape
    torch.Size([3, 4])
    """

    def __init__(self, init: Noise | None = None, num_chains: int | None = None) -> None:
        check_num_chains(self, num_chains)
        self.init: Noise = init or UniformNoise()
        self.num_chains = num_chains

    def start(self, pos: State, free: tuple[str, ...]) -> State:
        pos = repeat_in_turn(pos, self.num_chains)
        return {name: initial_value(self.init, pos, name) if name in free else pos[name].detach() for name in pos}

    def finish(self, end: State) -> None:
        """Do nothing: no chain persists."""


def detached(state: State) -> State:
    """The state, detached from its graph."""
    return {name: value.detach() for name, value in state.items()}


def initial_value(init: Noise, pos: State, name: str) -> Tensor:
    """The initial value of a variable of the chains: noise, or the data's value for labels and categories."""
    return init.initial(pos, name) if pos[name].is_floating_point() else pos[name].detach()


def repeat_in_turn(pos: State, num_chains: int | None) -> State:
    """``num_chains`` examples, cycling through a batch; the batch itself for None."""
    if num_chains is None:
        return pos
    return {name: value[torch.arange(num_chains, device=value.device) % len(value)] for name, value in pos.items()}


def check_num_chains(owner: Chains, num_chains: int | None) -> None:
    """Raise ValueError if ``num_chains`` < 1."""
    if num_chains is not None and num_chains < 1:
        raise ValueError(
            f"{type(owner).__name__}(num_chains={num_chains}): expected at least 1 chain, or None for the batch's"
        )
