"""p(label | the other variables) of a model, for the protocols that measure a classifier."""

from collections.abc import Callable

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, GibbsSampleable, State, evaluating, require
from ebm_lightning.distributions.conditionals import CategoricalConditional
from ebm_lightning.training.module import EBM


def logits(model: EnergyModel, state: State, block: str) -> Tensor:
    """The logits of p(block | the other variables), float64 (B, classes). A label in the state is ignored.

    Raises:
        ValueError: if the model has no such distribution over classes.
    """
    rest = {name: value for name, value in state.items() if name != block}
    try:
        distribution = require(model, GibbsSampleable).conditional(block, rest)
    except ValueError as reason:
        raise ValueError(f"a classifier p({block} | x) is needed, and there is none here: {reason}") from reason
    if not isinstance(distribution, CategoricalConditional) or distribution.logits.ndim != 2:
        raise ValueError(
            f"a classifier p({block} | x) is needed, a CategoricalConditional with logits (B, classes), but that of "
            f"{type(model).__name__} is a {type(distribution).__name__}: name the label as the block"
        )
    return distribution.logits.double()


def log_posterior(model: EnergyModel, state: State, block: str) -> Tensor:
    """log p(block = k | the other variables) of every class k, (B, classes), differentiable in the other variables.

    It is float64, so that the gradient of a class with a probability close to 1 does not vanish. A label in the state
    is ignored.

    Raises:
        ValueError: if the model has no such distribution over classes.
    """
    return torch.log_softmax(logits(model, state, block), -1)


@torch.no_grad()
def log_posteriors(
    module: EBM, state: State, block: str, batch_size: int = 500, by: Callable[[EBM, State, str], Tensor] | None = None
) -> Tensor:
    """:func:`log_posterior` of every example of a state, in batches, in eval mode: float64 (N, classes), on the CPU.

    Args:
        module: the run.
        state: N examples.
        block: the label.
        batch_size: of a batch.
        by: another way to compute it of a batch, such as after a refinement; None takes the model as it is.
    """
    parts = []
    with evaluating(module):
        for i in range(0, len(next(iter(state.values()))), batch_size):
            batch = {name: value[i : i + batch_size].to(module.device) for name, value in state.items()}
            log_p = log_posterior(module.model, batch, block) if by is None else by(module, batch, block)
            parts.append(log_p.cpu())
    return torch.cat(parts)


def has_posterior(model: EnergyModel, state: State, block: str) -> bool:
    """Whether a model has p(block | the other variables) over classes."""
    try:
        logits(model, {name: value[:1] for name, value in state.items()}, block)
    except ValueError:
        return False
    return True


def check_labels(protocol: str, labels: Tensor, classes: int) -> None:
    """Raise ValueError if labels are no classes of the model."""
    if labels.is_floating_point() or not bool(((labels >= 0) & (labels < classes)).all()):
        raise ValueError(
            f"{protocol}: the model has {classes} classes, expected labels 0..{classes - 1}, got "
            f"{labels.dtype} from {float(labels.min()):g} to {float(labels.max()):g}"
        )
