"""Text generated token by token: the settings, the prefill of a context, and the draw of each token."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_lightning.data.text.tokenizers import digest
from ebm_lightning.energies.transformers.decoding import Decodable, Decoder, InferenceSettings
from ebm_lightning.generation.samples import init_chains
from ebm_lightning.training.module import EBM


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of a generated text.

    Args:
        prompt: the beginning of the text; empty starts a document, if the tokenizer has an end token.
        tokens: number of generated tokens, at least 1.
        think: steps of the sampler for each token, at least 1; None takes those of training, or none in one pass.
        candidates: predictions of each token, at least 1, of which the one with the lowest final energy is chosen.
        temperature: of the draw from softmax(logits / temperature), >= 0; 0 takes the most likely token.
        seed: of the random numbers.

    Raises:
        ValueError: if a number is out of range.
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
        """The name of the files of this text, without an ending."""
        how = "one-pass" if self.think is None else f"think-{self.think}-best-of-{self.candidates}"
        kind = f"{self.tokens}-tokens-{how}-temperature-{self.temperature:g}-seed-{self.seed}"
        return f"{kind}-prompt-{digest(self.prompt)}"


class GeneratedToken(NamedTuple):
    """A token, with the energies of the :class:`~ebm_lightning.energies.transformers.Prediction` it was drawn from.

    Args:
        token: its number in the vocabulary.
        energies: of each candidate by step, (steps + 1, candidates), float64; (0, 1) for a prediction in one pass.
        chosen: the candidate of the lowest final energy.
    """

    token: int
    energies: Tensor
    chosen: int

    @property
    def chosen_energies(self) -> list[float]:
        """The energies of the chosen candidate by step."""
        by_step: list[float] = self.energies[:, self.chosen].tolist()
        return by_step

    @property
    def gap(self) -> float | None:
        """The final energy of the second best candidate minus that of the best; None for a single candidate."""
        if self.energies.shape[1] < 2:
            return None
        best, second = self.energies[-1].sort().values[:2].tolist()
        return float(second - best)


def inference_steps(module: EBM, config: GenerationConfig) -> int | None:
    """Steps of the sampler for each token; None for a run that predicts in one pass.

    Raises:
        ValueError: if the model is not :class:`~ebm_lightning.energies.transformers.Decodable`, or the run cannot
            generate with this configuration.
    """
    if not isinstance(module.model, Decodable):
        raise ValueError(
            f"{type(module.model).__name__} generates no text, since it lacks the protocol Decodable: give it a method "
            "make_decoder(x, settings), as TextEBT and NextToken have it"
        )
    if module.sampler is None:
        if config.think is not None or config.candidates > 1:
            raise ValueError(
                "this run predicts in one pass, without steps to think or energies to choose by: leave out --think "
                "and --candidates"
            )
        return None
    if config.think is not None:
        return config.think
    if not isinstance(module.steps, int):
        raise ValueError(
            f"the steps of training follow {type(module.steps).__name__}: give a number of them as --think"
        )
    return module.steps


def prefill(module: EBM, x: Tensor, steps: int | None, candidates: int) -> Decoder:
    """The decoder after a context x (S,), int64, for the steps of :func:`inference_steps`.

    Raises:
        ValueError: if the model cannot predict with these settings, or x has a token out of its vocabulary.
    """
    model = module.model
    assert isinstance(model, Decodable)
    return model.make_decoder(x, InferenceSettings(module.sampler, partial(init_chains, module), steps, candidates))


def generate_tokens(
    prefill: Callable[[Tensor], Decoder], x: Tensor, n: int, length: int, vocabulary: int, temperature: float
) -> Iterator[GeneratedToken]:
    """The n tokens after a text x (S,), each drawn given those before it.

    The context has at most ``length`` tokens, since a model is not trained on longer ones. Positions count from the
    first token of the context, so that the cache is of no use once that token is dropped. Therefore a full context is
    cut to its second half, which is processed anew.

    Args:
        prefill: context -> decoder.
        x: tokens int64 (S,), at least one.
        n: number of generated tokens.
        length: of the context, at most.
        vocabulary: its size; tokens beyond it are not drawn.
        temperature: of the draw, >= 0.

    Raises:
        ValueError: if logits are not finite.
    """
    context = x[-length:]
    decoder = prefill(context)
    for left in reversed(range(n)):
        prediction = decoder.next_logits()
        token = sample_token(prediction.logits[:vocabulary], temperature)
        yield GeneratedToken(int(token), prediction.energies, prediction.chosen)
        if not left:
            return
        full, context = len(context) == length, torch.cat([context, token[None]])
        if full:
            context = context[-max(1, length // 2) :]
        decoder = prefill(context) if full else decoder.extend(token[None])


def sample_token(logits: Tensor, temperature: float) -> Tensor:
    """A token from softmax(logits / temperature), a scalar; at temperature 0 the most likely one.

    Raises:
        ValueError: if a logit is not finite.
    """
    if not bool(logits.isfinite().all()):
        raise ValueError("a prediction is not finite, so that no token can be drawn: think fewer steps")
    if temperature == 0:
        return logits.argmax()
    return ((logits - logits.max()).double() / temperature).softmax(0).multinomial(1)[0]
