"""Supervised objectives of energy-based transformers: the error of the prediction that a sampler reaches."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ebm_lightning.core import ENERGIES, TRAJECTORY, EnergyModel, Objective, State, Terms


@dataclass(frozen=True)
class TokenPrediction(Objective):
    """Mean cross-entropy of the tokens under softmax of the predicted logits, in nats per token.

    If the state holds the trajectory of a sampler, "<block>.trajectory" (B, steps, S, vocabulary), as of
    Descent(return_trajectory=True), the loss is the mean over all steps (System 1), otherwise that at the end
    (System 2). The sampler and EBM's ``backprop`` determine which steps are differentiated.
    Context and target are those in the state of the chains, so that a SampleBuffer must keep both; without a sampler
    the logits are those of the positive phase, as of :class:`~ebm_lightning.energies.NextToken`.
    Terms: ``loss``; ``final_loss``, at the end, and ``batch_perplexity``, exp of that, whose mean over batches is the
    published perplexity of validation, higher than exp of the mean loss; with a trajectory also ``initial_loss``, after
    the first step, and ``energy_gap``, the mean energy at the start of the first step minus that at the start of the
    last one. Gladstone et al. (2025).

    Args:
        block: the logits, (B, S, vocabulary).
        target: the tokens, int64 (B, S).
        ignore: a token that is left out of the mean, such as padding; None is no token.

    Raises:
        ValueError: at a call, if the state has no logits or no targets.

    >>> import torch
    >>> from ebm_lightning.energies import TextEBT
    >>> model = TextEBT(4, layers=1, heads=1, dim=4)
    >>> state = model.positive_phase({"x": torch.tensor([[0, 1]]), "target": torch.tensor([[1, 2]])})
    >>> terms = TokenPrediction()(model, state, None)  # equal logits
    >>> round(terms["loss"].item(), 4), round(terms["batch_perplexity"].item(), 4)  # log 4, 4
    (1.3863, 4.0)
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
        ignored = -100 if self.ignore is None else self.ignore  # torch's default, which is no token
        return F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), ignore_index=ignored)


@dataclass(frozen=True)
class ImagePrediction(Objective):
    """Mean error of a predicted image or other tensor: smooth L1, or the square.

    Smooth L1 of a difference d is d^2 / (2 beta) if |d| < beta, else |d| - beta / 2 (Girshick 2015).
    The released code of Gladstone et al. (2025) has beta 1; the paper has the mean square.
    A trajectory is treated as in :class:`TokenPrediction`. Terms: ``loss``; ``final_loss``, at the end, and ``mse``,
    the mean square there; with a trajectory also ``initial_loss``, after the first step, and ``energy_gap``.

    Args:
        block: the prediction, (B, ...).
        target: the target, in its shape.
        beta: the difference at which smooth L1 becomes linear, > 0, in units of the variable; None is the mean square.

    Raises:
        ValueError: if ``beta`` <= 0; at a call, if the state lacks one of them.

    >>> import torch
    >>> from ebm_lightning.energies import ImageEBT
    >>> model = ImageEBT(size=4, patch=4, layers=1, heads=1, dim=4)
    >>> state = {"y": torch.zeros(1, 3, 4, 4), "target": torch.full((1, 3, 4, 4), 2.0)}
    >>> terms = ImagePrediction()(model, state, None)
    >>> terms["loss"].item(), terms["mse"].item()  # 2 - 1/2, 2^2
    (1.5, 4.0)
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
        """The mean error over all elements, a scalar."""
        if self.beta is None:
            return F.mse_loss(reached, target)
        return F.smooth_l1_loss(reached, target, beta=self.beta)


def compared(state: State, block: str, target: str, error: Callable[[Tensor, Tensor], Tensor]) -> Terms:
    """The terms of a prediction: ``loss``, the mean error over the trajectory, or at the end without one.

    Raises ValueError if the state has no such block or target.
    """
    missing = [name for name in (block, target) if name not in state]
    if missing:
        raise ValueError(
            f"a prediction {block!r} is to be compared with {target!r}, but {missing} is not in the state "
            f"{sorted(state)}: supply it in the batch or in the model's positive_phase"
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
