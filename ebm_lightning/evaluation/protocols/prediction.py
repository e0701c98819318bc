"""How good is a prediction, and does it get better the longer it is thought about?"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio

from ebm_lightning.core import State, evaluating
from ebm_lightning.data.base import DataModule
from ebm_lightning.data.images.denoising_pairs import DenoisingPairs
from ebm_lightning.evaluation.components.candidate_selection import PASS, Thinking, Thought
from ebm_lightning.evaluation.protocol import Measurement, ProtocolResult, mean, snake_case
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots
from ebm_lightning.utils.plots import drawable


@dataclass(eq=False)
class Perplexity(Thinking):
    """exp of the mean cross-entropy of test tokens under softmax of the logits predicted, after each number of steps.

    More steps than in training are longer thinking (Gladstone et al. 2025, who take those of the default). Predictions
    start in noise if the run's chains do, and otherwise where the model completes the batch; the step
    size is not randomized, a sampler's noise stays. A run without a sampler predicts in one pass, and has one number.
    The mean is taken over tokens, and then exp of it: exps of batches, as some code averages them, lie higher. Standard
    errors are over sequences, by the delta method.

    With N candidates a prediction is made N times, and at every position the one whose end has the lowest energy is
    kept, as in the released code. That energy is the one that a further step would find there, without its noise: of
    softmax of the logits if the sampler normalizes them, on the landscape of that step. A random candidate is as
    good as a single one, so ``choice_gain_nats``, the mean cross-entropy of the first candidate minus that of the one
    chosen among N, says whether energies choose better than chance: > 0 if they do, in nats, with the standard error
    of pairs over sequences.

    Args:
        steps: of the sampler, each at least 0; of no effect without one.
        number: sequences, at most: the first of the test split.
        block: the logits, (B, S, vocabulary).
        target: the tokens, int64 (B, S).
        ignore: a token that is not to be predicted, such as padding; None predicts all.
        candidates: of which the best is taken, each at least 1.

    Raises:
        ValueError: if a number is out of range; when measuring, if block or target is missing, or there are
            several candidates and nothing to choose by.
    """

    steps: list[int] = field(default_factory=lambda: [1, 2, 3, 6, 15, 30])
    ignore: int | None = None

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        reached = self.errors(module, data, self.error)
        found = {how: perplexity(*rows.T) for how, rows in reached.items() if how.candidates in self.candidates}
        gains = {}
        for how in [how for how in found if how.candidates > 1]:
            first, tokens = reached[Thought(how.steps)].T
            gains[how] = ratio(first - reached[how][:, 0], tokens)
        measured = _labeled("perplexity", "perplexity", found)
        measured |= _labeled("choice_gain_nats", "gain by choosing, nats a token,", gains)
        measured |= _best("steps_of_lowest_perplexity", "steps of the lowest perplexity", found, min)
        return ProtocolResult(measured, _drawn("perplexity", {"perplexity": found}))

    def error(self, state: State) -> Tensor:
        """Of every token the cross-entropy in nats, and how many tokens it is: 1, or both 0 if ignored; (B, S, 2)."""
        logits, tokens = state[self.block], state[self.target]
        kept = torch.ones_like(tokens, dtype=torch.bool) if self.ignore is None else tokens != self.ignore
        error = F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none").view_as(tokens)
        return torch.stack([error.double() * kept, kept.double()], -1)


@dataclass(eq=False)
class PredictionError(Thinking):
    """Peak signal-to-noise ratio in dB, and mean square, of predicted test images, after each number of steps.

    PSNR is 10 log10(range^2 / MSE) of each image, and the mean over images; Gladstone et al. (2025) take the MSE of a
    batch instead, which gives less. Values are clamped to the data's bounds first. Otherwise as :class:`Perplexity`:
    after 0 steps it is the noised image that is measured, and of several candidates one is kept for each image, by its
    energy. Standard errors are over images. Data of several noise levels, such as
    :class:`~ebm_lightning.data.DenoisingPairs`, are measured at each level, under its name.

    A picture shows examples, one in a column: noised, after each number of steps above 0, and clean. Where they differ
    from draw to draw these are fresh ones, and none is chosen.

    Args:
        steps: of the sampler, each at least 0; of no effect without one.
        number: images, at most: the first of the test split.
        block: the prediction, in the shape of the images.
        target: the clean images.
        candidates: of which the best is taken, each at least 1.

    Raises:
        ValueError: if a number is out of range; when measuring, if the data have no bounds, block or target is
            missing, or there are several candidates and nothing to choose by.
    """

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        if data.bounds is None:
            raise ValueError(f"{self.id} needs the range of the values, but {type(data).__name__} has no bounds")
        low, high = data.bounds
        ratios: dict[str, dict[Thought, Measurement]] = {}
        squares: dict[str, dict[Thought, Measurement]] = {}
        examples: dict[str, Image] = {}
        for level, noised in _levels(data).items():
            reached = self.errors(module, noised, lambda state: self.error(state, low, high))
            asked = {how: rows for how, rows in reached.items() if how.candidates in self.candidates}
            ratios[f"PSNR, dB{level}"] = {how: mean(rows[:, 0]) for how, rows in asked.items()}
            squares[f"MSE{level}"] = {how: mean(rows[:, 1]) for how, rows in asked.items()}
            examples |= self._examples(module, noised, level)
        found: dict[str, Measurement] = {}
        for name, reached_by in (ratios | squares).items():
            found |= _labeled(snake_case(name), name, reached_by)
        for name, reached_by in ratios.items():
            best = name.replace(", dB", "")
            found |= _best(f"steps_of_highest_{snake_case(best)}", f"steps of the highest {best}", reached_by, max)
        return ProtocolResult(found, _drawn("PSNR, dB", ratios) | examples)

    @torch.no_grad()
    def _examples(self, module: EBM, data: DataModule, level: str, number: int = 8) -> dict[str, Image]:
        """The first test images in columns, if they are images."""
        batch = next(iter(data.eval_loader("test", device=module.device)))
        x = batch["x"][:number]
        with evaluating(module):
            pos = self.completed(module, {name: value[:number] for name, value in batch.items()})
            reached = [state[self.block] for k, state in self.predictions(module, pos) if k or not module.sampler]
        clean = pos[self.target]
        if not drawable(clean) or clean.ndim < 3 or x.shape != clean.shape:
            return {}
        rows = torch.cat([x, *reached, clean])
        return {f"examples{level.replace(' ', '-')}": plots.picture(rows, data.bounds, len(x))}

    def error(self, state: State, low: float, high: float) -> Tensor:
        """PSNR and mean square of every image, (B, 1, 2), if values range from ``low`` to ``high``."""
        predicted, clean = state[self.block].clamp(low, high).double(), state[self.target].double()
        axes = tuple(range(1, clean.ndim))
        psnr = peak_signal_noise_ratio(predicted, clean, high - low, reduction="none", dim=axes)
        return torch.stack([psnr, (predicted - clean).square().mean(axes)], 1)[:, None]


def perplexity(error: Tensor, tokens: Tensor) -> Measurement:
    """exp(sum of errors / sum of tokens) over sequences (N,), errors in nats, with the standard error of the ratio."""
    found = ratio(error, tokens)
    value = math.exp(found.value)
    return Measurement(value, None if found.standard_error is None else value * found.standard_error)


def ratio(error: Tensor, tokens: Tensor) -> Measurement:
    """sum of errors / sum of tokens over sequences (N,), with its standard error by the delta method."""
    n, total = len(error), tokens.sum()
    value = error.sum() / total
    if n == 1:
        return Measurement(float(value))
    return Measurement(float(value), float((error - tokens * value).std() * n**0.5 / total))


def _labeled(key: str, label: str, found: dict[Thought, Measurement]) -> dict[str, Measurement]:
    """Each by key and label with how it was reached, which of one pass is left out."""
    if list(found) == [PASS]:
        return {key: found[PASS].labeled(label)}
    return {f"{key}_{snake_case(str(how))}": value.labeled(f"{label} {how}") for how, value in found.items()}


def _best(
    key: str, label: str, found: dict[Thought, Measurement], best: Callable[..., tuple[Thought, Measurement]]
) -> dict[str, Measurement]:
    """The number of steps at which one candidate fares best; nothing of one pass."""
    single = {how: value for how, value in found.items() if how.candidates == 1 and how != PASS}
    if not single:
        return {}
    how, _ = best(single.items(), key=lambda item: item[1].value)
    return {key: Measurement(float(how.steps), label=label)}


def _levels(data: DataModule) -> dict[str, DataModule]:
    """The data at each of their noise levels, by what a name says of it: nothing if there is but one."""
    if not isinstance(data, DenoisingPairs) or not data.levels:
        return {"": data}
    return {f" {level}": data.at(level) for level in data.levels}


def _drawn(label: str, found: dict[str, dict[Thought, Measurement]]) -> dict[str, Image]:
    """The curves over the numbers of steps, one for each name and number of candidates; none of one pass."""
    lines: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
    for name, reached in found.items():
        if list(reached) == [PASS]:
            continue
        for n in dict.fromkeys(how.candidates for how in reached):
            points = {how.steps: value for how, value in reached.items() if how.candidates == n}
            values = torch.tensor([value.value for value in points.values()])
            errors = torch.tensor([value.standard_error or 0.0 for value in points.values()])
            line = name if n == 1 else f"{name}, best of {n}"
            lines[line] = torch.tensor(list(points)).float(), values, errors
    return {"steps": plots.curves(lines, "steps", label)} if lines else {}
