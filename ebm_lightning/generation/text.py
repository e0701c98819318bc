"""Text from a trained run, token by token: what is expected to follow what was read, and what is drawn from that."""

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_lightning.core import Sampler, State, trajectory
from ebm_lightning.data.text.tokenizers import digest
from ebm_lightning.energies.networks import Cache, CausalTransformer
from ebm_lightning.energies.transformers.baselines import NextToken
from ebm_lightning.energies.transformers.cached_decoding import NextCandidate
from ebm_lightning.energies.transformers.ebt import TextEBT
from ebm_lightning.generation.samples import begun
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.random import capture, drawn_since


@dataclass(frozen=True)
class Manner:
    """How a text is written.

    Args:
        prompt: what it begins with; empty begins a document, where the tokenizer has an end token.
        tokens: how many are written, at least 1.
        think: steps of the sampler for each token, at least 1; None are those of training, or of one pass none.
        candidates: predictions of each token, at least 1, of which that of the lowest final energy counts.
        temperature: of the draw from softmax(logits / temperature), >= 0; at 0 the most likely token is taken.
        seed: of the random numbers.

    Raises:
        ValueError: where a number is out of range.
    """

    prompt: str
    tokens: int = 200
    think: int | None = None
    candidates: int = 1
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.tokens, self.candidates, 1 if self.think is None else self.think) < 1 or not self.temperature >= 0:
            raise ValueError(
                f"generate(tokens={self.tokens}, think={self.think}, candidates={self.candidates}, temperature="
                f"{self.temperature}): expected the first three to be at least 1, and temperature >= 0"
            )

    @property
    def name(self) -> str:
        """What the files of this text are called."""
        how = "one-pass" if self.think is None else f"think-{self.think}-best-of-{self.candidates}"
        kind = f"{self.tokens}-tokens-{how}-temperature-{self.temperature:g}-seed-{self.seed}"
        return f"{kind}-prompt-{digest(self.prompt)}"


class Prediction(NamedTuple):
    """What is expected to follow a text.

    ``logits`` (vocabulary,) are those of the candidate ``chosen``. ``energies`` (steps + 1, candidates), float64 on the
    CPU, are those of each candidate where it began and after each step; a prediction in one pass has none: (0, 1).
    """

    logits: Tensor
    energies: Tensor
    chosen: int = 0


class Written(NamedTuple):
    """A token that was written, and the energies of the :class:`Prediction` it was drawn from."""

    token: int
    energies: Tensor
    chosen: int

    @property
    def own(self) -> list[float]:
        """The energies of the chosen candidate by step."""
        found: list[float] = self.energies[:, self.chosen].tolist()
        return found

    @property
    def gap(self) -> float | None:
        """How much higher the energy of the second best candidate ends; None where there is none."""
        if self.energies.shape[1] < 2:
            return None
        best, second = self.energies[-1].sort().values[:2].tolist()
        return float(second - best)


class Reading(abc.ABC):
    """A text as far as a model has read it. Final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def append(self, x: Tensor) -> "Reading":
        """The text with further tokens x (n,), int64; what has been read is kept."""

    @abc.abstractmethod
    def predict(self) -> Prediction:
        """What is expected to follow it."""


@dataclass(frozen=True)
class InSteps(Reading):
    """A prediction that the run's sampler reaches on the energy of an energy-based transformer.

    Args:
        module: the run.
        text: the energy of what may follow the text.
        steps: of the sampler.
        candidates: predictions, of which that of the lowest final energy counts.

    Raises:
        ValueError: when predicting, where several candidates are all alike.
    """

    module: EBM
    text: NextCandidate
    steps: int
    candidates: int

    def append(self, x: Tensor) -> "InSteps":
        return replace(self, text=self.text.append(x))

    def predict(self) -> Prediction:
        before = capture()
        sampler, start = begun(self.module, self.text.blank(self.candidates))
        state, found = start, [self._energies(sampler, start)]
        for state, _ in islice(trajectory(sampler, self.text, start), self.steps):
            found.append(self._energies(sampler, state))
        if self.candidates > 1 and not drawn_since(before):
            raise ValueError(
                "every prediction of this run starts at the same place and moves without noise, so that there is "
                "nothing to choose from: leave out --candidates"
            )
        energies = torch.stack(found).double().cpu()
        chosen = int(energies[-1].argmin())
        return Prediction(state["y"][chosen], energies, chosen)

    def _energies(self, sampler: Sampler, state: State) -> Tensor:
        return self.text.energy(sampler.energy_input(state))


@dataclass(frozen=True)
class InOnePass(Reading):
    """The prediction of a language model.

    Args:
        net: the model.
        logits: after all that has been read, (vocabulary,).
        cache: what has been read.
    """

    net: CausalTransformer
    logits: Tensor
    cache: Cache

    def append(self, x: Tensor) -> "InOnePass":
        logits, cache = self.net.read(x[None], self.cache)
        return InOnePass(self.net, logits[0, -1], cache)

    def predict(self) -> Prediction:
        return Prediction(self.logits, torch.empty(0, 1, dtype=torch.float64))


def steps_of(module: EBM, manner: Manner) -> int | None:
    """The steps that each token is thought about, of one pass None.

    Raises ValueError where the run predicts no text, or not in this manner.
    """
    model, sampler = module.model, module.sampler
    if isinstance(model, NextToken) and isinstance(model.net, CausalTransformer):
        if manner.think is not None or manner.candidates > 1:
            raise ValueError(
                "this run predicts in one pass, without steps to think or energies to choose by: leave out --think "
                "and --candidates"
            )
        return None
    if not isinstance(model, TextEBT) or sampler is None or sampler.free != ("y",):
        raise ValueError(
            f"this run predicts no text, with the model {type(model).__name__} and the sampler "
            f"{type(sampler).__name__}: expected a TextEBT whose sampler moves ('y',), or a NextToken around a "
            "CausalTransformer"
        )
    if manner.think is not None:
        return manner.think
    if not isinstance(module.steps, int):
        raise ValueError(
            f"the steps of training follow {type(module.steps).__name__}: give a number of them as --think"
        )
    return module.steps


def read(module: EBM, x: Tensor, steps: int | None, candidates: int) -> Reading:
    """A text x (S,), read by a run that :func:`steps_of` has accepted.

    Raises ValueError where the model does not know a token of it.
    """
    model = module.model
    if isinstance(model, TextEBT) and steps is not None:
        return InSteps(module, NextCandidate(model, x), steps, candidates)
    assert isinstance(model, NextToken)
    assert isinstance(model.net, CausalTransformer)
    known = model.net.embedding.num_embeddings
    if int(x.max()) >= known:
        raise ValueError(
            f"the text holds the token {int(x.max())}, but the model knows 0..{known - 1}: give another one"
        )
    return InOnePass(model.net, torch.empty(0), Cache()).append(x)


def write(
    begin: Callable[[Tensor], Reading], x: Tensor, number: int, length: int, size: int, temperature: float
) -> Iterator[Written]:
    """So many tokens after the text x (S,), each drawn from what is expected to follow those before it.

    At most the newest ``length`` tokens are seen, and more than were seen in training never are: positions count from
    the first one seen, so that what was read is of no use when that one is dropped. Therefore half of the window is
    dropped when it is full, and the rest is read again.

    Args:
        begin: reads a text.
        x: tokens int64 (S,), at least one.
        number: how many are written.
        length: of the window.
        size: of the vocabulary; no token beyond it is drawn.
        temperature: of the draw, >= 0.

    Raises:
        ValueError: where what is expected is not finite.
    """
    seen = x[-length:]
    reading = begin(seen)
    for left in reversed(range(number)):
        expected = reading.predict()
        token = drawn(expected.logits[:size], temperature)
        yield Written(int(token), expected.energies, expected.chosen)
        if not left:
            return
        full, seen = len(seen) == length, torch.cat([seen, token[None]])
        if full:
            seen = seen[-max(1, length // 2) :]
        reading = begin(seen) if full else reading.append(token[None])


def drawn(logits: Tensor, temperature: float) -> Tensor:
    """A token from softmax(logits / temperature), a scalar; at temperature 0 the most likely one.

    Raises ValueError where a logit is not finite.
    """
    if not bool(logits.isfinite().all()):
        raise ValueError("a prediction is not finite, so that no token can be drawn: think fewer steps")
    if temperature == 0:
        return logits.argmax()
    return ((logits - logits.max()).double() / temperature).softmax(0).multinomial(1)[0]
