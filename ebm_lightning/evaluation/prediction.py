"""How good is a prediction, and does it get better the longer it is thought about?"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio

from ebm_lightning import pictures
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import State, evaluating, trajectory
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.protocol import Findings, Measurement, Protocol, mean
from ebm_lightning.module import EBM
from ebm_lightning.sampling import birth_noise


@dataclass(eq=False)
class Perplexity(Protocol):
    """exp of the mean cross-entropy of test tokens under softmax of the logits predicted, after each number of steps.

    More steps than in training are longer thinking (Gladstone et al. 2025, who take those of the default). Predictions
    start in noise where the run's chains are born there, and otherwise where the model completes the batch; the step
    size is not randomised, a sampler's noise stays. A run without a sampler predicts in one pass, and has one number.
    The mean is taken over tokens, and then exp of it: exps of batches, as some code averages them, lie higher. Standard
    errors are over sequences, by the delta method.

    Args:
        steps: of the sampler, each at least 0; of no effect without one.
        number: sequences, at most: the first of the test split.
        block: the logits, (B, S, vocabulary).
        target: the tokens, int64 (B, S).
        ignore: a token that is not to be predicted, such as padding; None predicts all.

    Raises:
        ValueError: where a number is out of range; when measuring, where block or target is missing.
    """

    steps: list[int] = field(default_factory=lambda: [1, 2, 3, 6, 15, 30])
    number: int = 1000
    block: str = "y"
    target: str = "target"
    ignore: int | None = None

    def __post_init__(self) -> None:
        _check(self, self.steps, self.number)

    def measure(self, module: EBM, data: DataModule) -> Findings:
        reached = _measured(self, module, data, self.errors)
        return _findings("perplexity", {k: perplexity(*rows.T) for k, rows in reached.items()})

    def errors(self, state: State) -> Tensor:
        """For every sequence the cross-entropy in nats, summed over its tokens, and how many these are: (B, 2)."""
        logits, tokens = state[self.block], state[self.target]
        kept = torch.ones_like(tokens, dtype=torch.bool) if self.ignore is None else tokens != self.ignore
        error = F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none").view_as(tokens)
        return torch.stack([(error.double() * kept).sum(1), kept.sum(1).double()], 1)


@dataclass(eq=False)
class PredictionError(Protocol):
    """Peak signal-to-noise ratio in dB, and mean square, of predicted test images, after each number of steps.

    PSNR is 10 log10(range^2 / MSE) of each image, and the mean over images; Gladstone et al. (2025) take the MSE of a
    batch instead, which gives less. Values are clamped to the data's bounds first. Otherwise as :class:`Perplexity`:
    after 0 steps it is the noised image that is measured. Standard errors are over images.

    Args:
        steps: of the sampler, each at least 0; of no effect without one.
        number: images, at most: the first of the test split.
        block: the prediction, in the shape of the images.
        target: the clean images.

    Raises:
        ValueError: where a number is out of range; when measuring, where the data have no bounds, or block or target
            is missing.
    """

    steps: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 6, 15, 30])
    number: int = 1000
    block: str = "y"
    target: str = "target"

    def __post_init__(self) -> None:
        _check(self, self.steps, self.number)

    def measure(self, module: EBM, data: DataModule) -> Findings:
        if data.bounds is None:
            raise ValueError(f"{self.id} needs the range of the values, but {type(data).__name__} has no bounds")
        low, high = data.bounds

        def errors(state: State) -> Tensor:
            predicted, clean = state[self.block].clamp(low, high).double(), state[self.target].double()
            axes = tuple(range(1, clean.ndim))
            ratio = peak_signal_noise_ratio(predicted, clean, high - low, reduction="none", dim=axes)
            return torch.stack([ratio, (predicted - clean).square().mean(axes)], 1)

        reached = _measured(self, module, data, errors)
        found = _findings("PSNR, dB", {k: mean(rows[:, 0]) for k, rows in reached.items()})
        squares = _findings("MSE", {k: mean(rows[:, 1]) for k, rows in reached.items()})
        return Findings(found.measurements | squares.measurements, found.pictures)


def perplexity(error: Tensor, tokens: Tensor) -> Measurement:
    """exp(sum of errors / sum of tokens) over sequences (N,), errors in nats, with the standard error of the ratio."""
    n, total = len(error), tokens.sum()
    value = (error.sum() / total).exp()
    if n == 1:
        return Measurement(float(value))
    residual = error - tokens * error.sum() / total
    return Measurement(float(value), float(value * residual.std() * n**0.5 / total))


Predicting = Perplexity | PredictionError


@torch.no_grad()
def _measured(
    protocol: Predicting, module: EBM, data: DataModule, errors: Callable[[State], Tensor]
) -> dict[int, Tensor]:
    """The errors (N, ...) of test examples by the number of steps, or of the one pass of a run without a sampler: 0."""
    rows: dict[int, list[Tensor]] = {}
    left = protocol.number
    with evaluating(module):
        for batch in data.eval_loader("test", device=module.device):
            pos = module.model.complete({name: value[:left] for name, value in batch.items()})
            missing = [name for name in (protocol.block, protocol.target) if name not in pos]
            if missing:
                raise ValueError(
                    f"{protocol.id} compares a prediction with its target, but {missing} is not in the state "
                    f"{sorted(pos)}: measure a run that predicts, on data with targets"
                )
            for k, state in _predictions(module, pos, protocol.steps):
                rows.setdefault(k, []).append(errors(state).cpu())
            left -= len(pos[protocol.target])
            if left <= 0:
                break
    return {k: torch.cat(parts) for k, parts in rows.items()}


def _predictions(module: EBM, pos: State, steps: list[int]) -> Iterator[tuple[int, State]]:
    """Where the sampler is after each number of steps."""
    if module.sampler is None:
        yield 0, pos
        return
    sampler = copy(module.sampler)  # what an adaptive sampler learns from these chains is not the run's
    start = NoiseChains(birth_noise(module)).start(sampler.extend(pos), sampler.free)
    if 0 in steps:
        yield 0, start
    for k, (state, _) in zip(range(1, max(steps) + 1), trajectory(sampler, module.model, start), strict=False):
        if k in steps:
            yield k, state


def _findings(name: str, found: dict[int, Measurement]) -> Findings:
    """One measurement for each number of steps, and their curve where there are several."""
    if len(found) == 1 and 0 in found:
        return Findings({name: found[0]})
    measurements = {f"{name} after {k} step{'' if k == 1 else 's'}": value for k, value in found.items()}
    values = torch.tensor([value.value for value in found.values()])
    errors = torch.tensor([value.standard_error or 0.0 for value in found.values()])
    line: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {name: (torch.tensor(list(found)).float(), values, errors)}
    return Findings(measurements, {"steps": pictures.curves(line, "steps", name)})


def _check(protocol: Predicting, steps: list[int], number: int) -> None:
    """Raises ValueError where there are no steps, negative ones, or no examples."""
    if not steps or min(steps) < 0 or number < 1:
        raise ValueError(f"{protocol.id}: expected one or more numbers of steps, each at least 0, and number >= 1")
