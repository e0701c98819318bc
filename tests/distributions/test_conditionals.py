"""Conditional distributions against those of torch, and at another temperature against the power of their density."""

from collections.abc import Callable

import pytest
import torch
from support.oracles import assert_means
from torch import Tensor
from torch import distributions as D

from ebm_lightning.core import Conditional
from ebm_lightning.distributions import (
    BernoulliConditional,
    CategoricalConditional,
    GaussianConditional,
    SpinConditional,
    per_example,
)

F64 = torch.float64
KINDS: dict[str, tuple[Callable[[Tensor], Conditional], Callable[[Tensor], D.Distribution]]] = {
    "BernoulliConditional": (BernoulliConditional, lambda logits: D.Bernoulli(logits=logits)),
    "SpinConditional": (SpinConditional, lambda field: D.Bernoulli(logits=2 * field)),
    "GaussianConditional": (lambda mean: GaussianConditional(mean, 0.7), lambda mean: D.Normal(mean, 0.7)),
    "CategoricalConditional": (CategoricalConditional, lambda logits: D.Categorical(logits=logits)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def _coded(kind: str, value: Tensor) -> Tensor:
    """The values of torch's distribution in ours: spins are -1 and 1."""
    return 2 * value - 1 if kind == "SpinConditional" else value


@every_kind
def test_BernoulliConditional_SpinConditional_GaussianConditional_and_CategoricalConditional_have_torchs_log_prob(
    kind: str,
) -> None:
    parameters = torch.randn(5, 3, 4, dtype=F64)
    ours, theirs = (make(parameters) for make in KINDS[kind])
    value = theirs.sample()
    expected = theirs.log_prob(value).flatten(1).sum(1)
    torch.testing.assert_close(ours.log_prob(_coded(kind, value)), expected)


@every_kind
def test_Conditional_draws_the_moments_of_torch(kind: str) -> None:
    parameters = torch.randn(3, 4, dtype=F64)
    conditional = KINDS[kind][0](parameters.expand(20_000, 3, 4))
    draws = conditional.sample()
    if kind == "CategoricalConditional":
        draws = torch.nn.functional.one_hot(draws, 4).double()
    assert_means(draws, conditional.mean[0])
    if kind == "GaussianConditional":
        assert_means((draws - parameters).square(), torch.full((3, 4), 0.49, dtype=F64))


@every_kind
@pytest.mark.parametrize("beta", [0.3, torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0], dtype=F64)], ids=["all", "each"])
def test_Conditional_tempered_is_proportional_to_the_power_of_its_density(kind: str, beta: float | Tensor) -> None:
    """log p_beta(a) - log p_beta(b) = beta (log p(a) - log p(b)), which for a normal law excludes beta = 0."""
    make, reference = KINDS[kind]
    parameters = torch.randn(5, 3, 4, dtype=F64)
    if kind == "GaussianConditional" and isinstance(beta, Tensor):
        beta = beta.clamp(min=0.1)
    a, b = (_coded(kind, reference(parameters).sample()) for _ in range(2))
    plain, hot = make(parameters), make(parameters).tempered(beta)
    torch.testing.assert_close(hot.log_prob(a) - hot.log_prob(b), beta * (plain.log_prob(a) - plain.log_prob(b)))


def test_per_example_multiplies_every_number_of_an_example() -> None:
    like, beta = torch.ones(3, 2, 4), torch.tensor([1.0, 2.0, 3.0])
    assert (per_example(beta, like) * like).flatten(1).unique(dim=1).flatten().tolist() == [1, 2, 3]
    assert per_example(0.5, like) == 0.5
