"""Supervised objectives: how far from the truth is what was reached? Energy-based transformers are trained by them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ebm_lightning.core import ENERGIES, TRAJECTORY, EnergyModel, Objective, State, Terms


@dataclass(frozen=True)
class TokenPrediction(Objective):
    """Mean cross-entropy of the tokens under softmax of the logits reached, in nats for each token.

    Where the state holds the path of a sampler, "<block>.trajectory" (B, steps, S, vocabulary), as of
    Descent(return_trajectory=True), the loss is the mean over all steps (System 1), and otherwise that of where the
    last one ended (System 2). Which steps it is differentiated through is up to the sampler and to EBM's ``backprop``.
    Context and target are those that the chains carry, so that chains of a SampleBuffer must keep both; without a
    sampler the logits are those of the completed batch, as of :class:`~ebm_lightning.energies.NextToken`.
    Terms: ``loss``; ``final_loss``, at the end, and ``batch_perplexity``, exp of that, whose mean over batches is the
    published perplexity of validation, higher than exp of the mean loss; with a path ``initial_loss``, after the first
    step, and ``energy_gap``, the mean energy where the first step began minus that where the last one did. Gladstone et
    al. (2025).

    Args:
        block: the logits, (B, S, vocabulary).
        target: the tokens, int64 (B, S).
        ignore: a token that is not to be predicted, such as padding; None predicts all.

    Raises:
        ValueError: at a call, where the state has no logits or no targets.
    """

    predicts = True
    block: str = "y"
    target: str = "target"
    ignore: int | None = None

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        state = pos if neg is None else neg
        terms = compared(state, self.block, self.target, self.error)
        return {**terms, "batch_perplexity": terms["final_loss"].exp()}

    def error(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """The cross-entropy of tokens (B, S), a scalar."""
        ignored = -100 if self.ignore is None else self.ignore  # -100 is torch's, and no token
        return F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), ignore_index=ignored)


@dataclass(frozen=True)
class ImagePrediction(Objective):
    """Mean error of the numbers reached, in images or anything else: smooth L1, or the square.

    With d the difference smooth L1 is d^2 / (2 beta) where |d| < beta and |d| - beta / 2 elsewhere (Girshick 2015).
    The released code of Gladstone et al. (2025) takes beta 1; the paper speaks of the mean square.
    A path is treated as in :class:`TokenPrediction`. Terms: ``loss``; ``final_loss``, at the end, and ``mse``, the mean
    square there; with a path ``initial_loss``, after the first step, and ``energy_gap``.

    Args:
        block: what was reached, (B, ...).
        target: the truth, in its shape.
        beta: where smooth L1 becomes linear, > 0, in units of the variable; None is the mean square.

    Raises:
        ValueError: where ``beta`` <= 0; at a call, where the state has not both.
    """

    predicts = True
    block: str = "y"
    target: str = "target"
    beta: float | None = 1.0

    def __post_init__(self) -> None:
        if self.beta is not None and not self.beta > 0:
            raise ValueError(f"ImagePrediction(beta={self.beta}): expected a number > 0, or None for the mean square")

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        state = pos if neg is None else neg
        terms = compared(state, self.block, self.target, self.error)
        return {**terms, "mse": F.mse_loss(state[self.block].detach(), state[self.target])}

    def error(self, reached: Tensor, target: Tensor) -> Tensor:
        """The mean over all numbers, a scalar."""
        if self.beta is None:
            return F.mse_loss(reached, target)
        return F.smooth_l1_loss(reached, target, beta=self.beta)


def compared(state: State, block: str, target: str, error: Callable[[Tensor, Tensor], Tensor]) -> Terms:
    """``loss``, the mean error of the steps kept in the state or of its end, and what is known of them.

    Raises ValueError where the state has no such block or target.
    """
    missing = [name for name in (block, target) if name not in state]
    if missing:
        raise ValueError(
            f"a prediction {block!r} is to be compared with {target!r}, but {missing} is not in the state "
            f"{sorted(state)}: supply it in the batch, or let the model complete it"
        )
    trajectory = state.get(block + TRAJECTORY)
    if trajectory is None:
        loss = error(state[block], state[target])
        return {"loss": loss, "final_loss": loss.detach()}
    losses = torch.stack([error(reached, state[target]) for reached in trajectory.unbind(1)])
    energies = state[block + ENERGIES]
    return {
        "loss": losses.mean(),
        "initial_loss": losses[0].detach(),
        "final_loss": losses[-1].detach(),
        "energy_gap": (energies[:, 0] - energies[:, -1]).mean(),
    }
