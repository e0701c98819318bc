"""The decoding protocol of models that generate text, with its settings and its predictions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebm_lightning.core import Sampler, State


class Prediction(NamedTuple):
    """The prediction of the next token.

    Args:
        logits: of the candidate ``chosen``, (vocabulary,).
        energies: of each candidate at its initialization and after each step, (steps + 1, candidates), float64, on the
            CPU; a prediction in one pass has none, (0, 1).
        chosen: the candidate of the lowest final energy.
    """

    logits: Tensor
    energies: Tensor = torch.empty(0, 1, dtype=torch.float64)
    chosen: int = 0


@dataclass(frozen=True)
class InferenceSettings:
    """The sampler of a run, and how much computation it spends on each token.

    Args:
        sampler: of the run; None for a run that predicts in one pass.
        init_chains: completed batch -> (a copy of the sampler, the initial state of its chains).
        steps: transitions of the sampler for each token, at least 1; None without a sampler.
        candidates: predictions of each token, at least 1, of which the one with the lowest final energy is chosen.
    """

    sampler: Sampler | None
    init_chains: Callable[[State], tuple[Sampler, State]]
    steps: int | None
    candidates: int = 1


@runtime_checkable
class Decoder(Protocol):
    """A context that a model has processed, such as its cached keys and values. Immutable."""

    def extend(self, x: Tensor) -> "Decoder":
        """The decoder after further tokens x (n,), int64; the context before them is not processed again."""

    def next_logits(self) -> Prediction:
        """The prediction of the token after the context."""


@runtime_checkable
class Decodable(Protocol):
    """A model from which text can be generated, in this package or outside of it.

    ``ebm generate`` takes every model with this method, whatever its class.
    """

    def make_decoder(self, x: Tensor, settings: InferenceSettings) -> Decoder:
        """The decoder after a context x (S,), int64, at least one token.

        Raises:
            ValueError: if the model cannot predict with these settings, or x has a token out of its vocabulary.
        """
