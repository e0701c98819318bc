"""Importance sampling of p(data) with a recognition network's draws of the latents."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, HasRecognition, State, require

_MAX_STATES = 10_000
"""The number of completed states in memory at a time."""


@torch.no_grad()
def log_weights(model: EnergyModel, state: State, samples: int) -> Tensor:
    """log w = log p(x, h_s) - log q(h_s | x) of ``samples`` draws of every example's latents, (B, samples), float64.

    In expectation their mean is the variational bound; log of the mean of w is a lower bound on log p(x), which is
    tighter for more samples. ``state`` needs no latents: ``model.positive_phase`` draws them.
    """
    return torch.cat([_log_weights(model, part, samples) for part in _parts(state, max(_MAX_STATES // samples, 1))])


def _log_weights(model: EnergyModel, state: State, samples: int) -> Tensor:
    copies = model.positive_phase({name: value.repeat_interleave(samples, 0) for name, value in state.items()})
    log_w = require(model, HasRecognition).recognition_energy(copies) - model.energy(copies)
    return log_w.double().view(-1, samples)


def _parts(state: State, size: int) -> Iterator[State]:
    for begin in range(0, len(next(iter(state.values()))), size):
        yield {name: value[begin : begin + size] for name, value in state.items()}
