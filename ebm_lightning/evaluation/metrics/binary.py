"""Binary units: which variables have them, a check of their data, and their pseudo-likelihood."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ebm_lightning.core import EnergyModel, GibbsSampleable, State, select_variable
from ebm_lightning.distributions.conditionals import BernoulliConditional


@torch.no_grad()
def pseudo_log_likelihood(model: EnergyModel, name: str, state: State) -> Tensor:
    """An unbiased estimate of sum_i log p(v_i | all else) of every example, (B,) float64, from one unit of each.

    units * log sigmoid(E(v with unit i flipped) - E(v)), i uniform for every example. Defined for binary units, whose
    values are 0 and 1. Besag (1975).
    """
    v = select_variable(model, state, name)
    units = v[0].numel()
    unit = torch.randint(units, (len(v), 1), device=v.device)
    return units * _unit_log_prob(model, name, state, unit)


@torch.no_grad()
def exact_pseudo_log_likelihood(model: EnergyModel, name: str, state: State) -> Tensor:
    """sum_i log p(v_i | all else) of every example, (B,) float64: one energy for each binary unit."""
    v = select_variable(model, state, name)
    every = [torch.full((len(v), 1), unit, device=v.device) for unit in range(v[0].numel())]
    return torch.stack([_unit_log_prob(model, name, state, unit) for unit in every]).sum(0)


@torch.no_grad()
def has_binary_units(model: EnergyModel, state: State, name: str) -> bool:
    """Whether a variable has binary units: whether its conditional, given a draw of h, is a Bernoulli distribution.

    False for a model without these conditionals.
    """
    if not isinstance(model, GibbsSampleable):
        return False
    few = {key: value[:1] for key, value in state.items()}
    try:
        few["h"] = model.conditional("h", few).sample()
        return isinstance(model.conditional(name, few), BernoulliConditional)
    except ValueError:
        return False


def require_binary_data(model: EnergyModel, state: State, binary: bool | None, preprocessing: str | None) -> None:
    """Raise ValueError if the log-probability of binary units is requested for data that are not binary.

    Args:
        model: of the log-probabilities.
        state: some of the data, complete.
        binary: whether the data are meant to be binary; None if unknown.
        preprocessing: the preprocessing of the data, for the message.
    """
    for name in [name for name in model.variables if has_binary_units(model, state, name)]:
        v = state[name]
        if binary is False or not _is_binary(v):
            got = preprocessing or f"values from {float(v.min()):.4g} to {float(v.max()):.4g}"
            raise ValueError(
                f"no log-probability is defined for gray values of binary units ({name!r}): expected data under "
                f"DynamicBinarization, FixedBinarization or Threshold, got {got}"
            )


def _is_binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _unit_log_prob(model: EnergyModel, name: str, state: State, unit: Tensor) -> Tensor:
    """log p(v_i | all else) = log sigmoid(E(v with unit i flipped) - E(v)), (B,), for unit numbers (B, 1)."""
    v = state[name].flatten(1)
    flipped = v.scatter(1, unit, 1 - v.gather(1, unit)).view_as(state[name])
    return logsigmoid((model.energy({**state, name: flipped}) - model.energy(state)).double())
