"""Errors of predictions, after each number of steps and for each number of candidates."""

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
from ebm_lightning.evaluation.components.candidate_selection import SINGLE_PASS, CandidateSelection, InferenceBudget
from ebm_lightning.evaluation.protocol import Measurement, ProtocolResult, mean, snake_case
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots
from ebm_lightning.utils.plots import can_plot


@dataclass(eq=False)
class Perplexity(CandidateSelection):
    """exp of the mean cross-entropy of test tokens under softmax of the predicted logits, after each number of steps.

    More steps than in training are longer thinking (Gladstone et al. 2025, whose steps are the default). Predictions
    start from noise if the run's chains do, and otherwise from the state that ``positive_phase`` gives. The step size
    is not randomized; the noise of a sampler is kept. A run without a sampler predicts in one pass, and has one number.
    The mean is over tokens, and exp is taken of the mean: the mean of exps of batches, as in some code, is higher.
    Standard errors are over sequences, by the delta method.

    With N candidates a prediction is made N times, and at every position the candidate with the lowest final energy is
    kept, as in the released code. That energy is the one of which a further step would take the gradient, without
    noise: of softmax of the logits if the sampler normalizes them, on the landscape of that step. A random candidate
    is as good as a single one, so that choosing by energy is better than chance if ``choice_gain_nats`` > 0: the mean
    cross-entropy of the first candidate minus that of the chosen one, with the standard error of pairs over sequences.

    Args:
        steps: of the sampler, each at least 0; of no effect without one.
        num_examples: sequences, at most: the first of the test split.
        block: the logits, (B, S, vocabulary).
        target: the tokens, int64 (B, S).
        ignore: a token that is not to be predicted, such as padding; None predicts all.
        candidates: predictions of which the best is chosen, each number at least 1.

    Raises:
        ValueError: if a number is out of range; when measuring, if block or target is missing, or all of several
            candidates are equal.
    """

    steps: list[int] = field(default_factory=lambda: [1, 2, 3, 6, 15, 30])
    ignore: int | None = None

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        reached = self.errors(module, data, self.error)
        found = {
            budget: perplexity(*rows.T) for budget, rows in reached.items() if budget.candidates in self.candidates
        }
        gains = {}
        for budget in [budget for budget in found if budget.candidates > 1]:
            first, tokens = reached[InferenceBudget(budget.steps)].T
            gains[budget] = ratio(first - reached[budget][:, 0], tokens)
        measured = _labeled("perplexity", "perplexity", found)
        measured |= _labeled("choice_gain_nats", "gain by choosing, nats a token,", gains)
        measured |= _best("steps_of_lowest_perplexity", "steps of the lowest perplexity", found, min)
        return ProtocolResult(measured, _pictures("perplexity", {"perplexity": found}))

    def error(self, state: State) -> Tensor:
        """The cross-entropy in nats of every token, and its count: 1, or both 0 if ignored; (B, S, 2)."""
        logits, tokens = state[self.block], state[self.target]
        kept = torch.ones_like(tokens, dtype=torch.bool) if self.ignore is None else tokens != self.ignore
        error = F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none").view_as(tokens)
        return torch.stack([error.double() * kept, kept.double()], -1)


@dataclass(eq=False)
class PredictionError(CandidateSelection):
    """Peak signal-to-noise ratio in dB, and mean square, of predicted test images, after each number of steps.

    PSNR is 10 log10(range^2 / MSE) of each image, and the mean over images; Gladstone et al. (2025) take the MSE of a
    batch instead, which gives a lower value. Values are clamped to the data's bounds first. Otherwise as
    :class:`Perplexity`: after 0 steps the noised image is measured, and of several candidates one is kept for each
    image, by its energy. Standard errors are over images. Data of several noise levels, such as
    :class:`~ebm_lightning.data.DenoisingPairs`, are measured at each level, under its name.

    The picture has one example in each column: noised, after each number of steps above 0, and clean. Its predictions
    are drawn anew if the sampler is random, and are single candidates.

    Args:
        steps: of the sampler, each at least 0; of no effect without one.
        num_examples: images, at most: the first of the test split.
        block: the prediction, in the shape of the images.
        target: the clean images.
        candidates: predictions of which the best is chosen, each number at least 1.

    Raises:
        ValueError: if a number is out of range; when measuring, if the data have no bounds, block or target is missing,
            or all of several candidates are equal.
    """

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        if data.bounds is None:
            raise ValueError(f"{self.id} needs the range of the values, but {type(data).__name__} has no bounds")
        low, high = data.bounds
        ratios: dict[str, dict[InferenceBudget, Measurement]] = {}
        squares: dict[str, dict[InferenceBudget, Measurement]] = {}
        examples: dict[str, Image] = {}
        for level, noised in _levels(data).items():
            reached = self.errors(module, noised, lambda state: self.error(state, low, high))
            requested = {budget: rows for budget, rows in reached.items() if budget.candidates in self.candidates}
            ratios[f"PSNR, dB{level}"] = {budget: mean(rows[:, 0]) for budget, rows in requested.items()}
            squares[f"MSE{level}"] = {budget: mean(rows[:, 1]) for budget, rows in requested.items()}
            examples |= self._examples(module, noised, level)
        found: dict[str, Measurement] = {}
        for name, reached_by in (ratios | squares).items():
            found |= _labeled(snake_case(name), name, reached_by)
        for name, reached_by in ratios.items():
            best = name.replace(", dB", "")
            found |= _best(f"steps_of_highest_{snake_case(best)}", f"steps of the highest {best}", reached_by, max)
        return ProtocolResult(found, _pictures("PSNR, dB", ratios) | examples)

    @torch.no_grad()
    def _examples(self, module: EBM, data: DataModule, level: str, n: int = 8) -> dict[str, Image]:
        """The first n test images in columns, if they are images."""
        batch = next(iter(data.eval_loader("test", device=module.device)))
        x = batch["x"][:n]
        with evaluating(module):
            pos = self.completed(module, {name: value[:n] for name, value in batch.items()})
            reached = [state[self.block] for k, state in self.predictions(module, pos) if k or not module.sampler]
        clean = pos[self.target]
        if not can_plot(clean) or clean.ndim < 3 or x.shape != clean.shape:
            return {}
        rows = torch.cat([x, *reached, clean])
        return {f"examples{level.replace(' ', '-')}": plots.plot_samples(rows, data.bounds, len(x))}

    def error(self, state: State, low: float, high: float) -> Tensor:
        """PSNR and mean square of every image, (B, 1, 2), for values from ``low`` to ``high``."""
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


def _labeled(key: str, label: str, found: dict[InferenceBudget, Measurement]) -> dict[str, Measurement]:
    """The measurements by key and label, with the budget that they were reached by, unless that is a single pass."""
    if list(found) == [SINGLE_PASS]:
        return {key: found[SINGLE_PASS].labeled(label)}
    return {f"{key}_{snake_case(str(budget))}": value.labeled(f"{label} {budget}") for budget, value in found.items()}


def _best(
    key: str,
    label: str,
    found: dict[InferenceBudget, Measurement],
    best: Callable[..., tuple[InferenceBudget, Measurement]],
) -> dict[str, Measurement]:
    """The number of steps at which one candidate has the best value; nothing for a single pass."""
    single = {budget: value for budget, value in found.items() if budget.candidates == 1 and budget != SINGLE_PASS}
    if not single:
        return {}
    budget, _ = best(single.items(), key=lambda item: item[1].value)
    return {key: Measurement(float(budget.steps), label=label)}


def _levels(data: DataModule) -> dict[str, DataModule]:
    """The data at each of their noise levels, by a suffix for names; empty if there is only one."""
    if not isinstance(data, DenoisingPairs) or not data.levels:
        return {"": data}
    return {f" {level}": data.at(level) for level in data.levels}


def _pictures(label: str, found: dict[str, dict[InferenceBudget, Measurement]]) -> dict[str, Image]:
    """Plots over the numbers of steps, one line for each name and number of candidates; none for a single pass."""
    lines: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
    for name, reached in found.items():
        if list(reached) == [SINGLE_PASS]:
            continue
        for n in dict.fromkeys(budget.candidates for budget in reached):
            points = {budget.steps: value for budget, value in reached.items() if budget.candidates == n}
            values = torch.tensor([value.value for value in points.values()])
            errors = torch.tensor([value.standard_error or 0.0 for value in points.values()])
            line = name if n == 1 else f"{name}, best of {n}"
            lines[line] = torch.tensor(list(points)).float(), values, errors
    return {"steps": plots.plot_curves(lines, "steps", label)} if lines else {}
