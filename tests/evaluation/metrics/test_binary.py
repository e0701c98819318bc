"""The pseudo-likelihood against enumerated conditionals."""

import pytest
import torch
from support.annealed import bernoulli_case, centered_case, gaussian_case, labeled_case
from support.oracles import assert_means, bits, probabilities

from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import MLP
from ebm_lightning.evaluation.metrics import exact_pseudo_log_likelihood, pseudo_log_likelihood
from ebm_lightning.evaluation.metrics.binary import has_binary_units


@pytest.mark.parametrize("case", [bernoulli_case, labeled_case, centered_case])
def test_pseudo_log_likelihood_is_the_sum_of_enumerated_conditionals(case) -> None:
    model, states, _ = case()
    p, x = probabilities(model, states), states["x"]
    expected = torch.zeros_like(p)
    for i in range(x.shape[1]):
        others = [j for j in range(x.shape[1]) if j != i]
        same = (x[:, None, others] == x[:, others]).all(2)
        if "y" in states:
            same &= states["y"][:, None] == states["y"]
        expected += (p / (same.double() @ p)).log()
    torch.testing.assert_close(exact_pseudo_log_likelihood(model, "x", states), expected, rtol=1e-9, atol=1e-9)
    draws = torch.stack([pseudo_log_likelihood(model, "x", states) for _ in range(4000)])
    assert_means(draws, expected)


@pytest.mark.parametrize(
    ("case", "name", "binary"),
    [(bernoulli_case, "x", True), (labeled_case, "x", True), (labeled_case, "y", False), (gaussian_case, "x", False)],
)
def test_binary_units_are_told_from_others(case, name: str, binary: bool) -> None:
    model, states, _ = case()
    assert has_binary_units(model, states, name) is binary
    assert not has_binary_units(DeepEnergy(MLP(5, [3])).double(), {"x": bits(5)}, "x")
