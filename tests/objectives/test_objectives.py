"""What every objective keeps: only the loss carries a graph."""

import pytest
import torch
from support.densities import Quartic, quartic_state

from ebm_lightning.core import Objective
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.objectives import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    NoiseContrastive,
    SlicedScoreMatching,
    Sum,
)

EVERY: dict[str, Objective] = {
    "ContrastiveDivergence": ContrastiveDivergence(l2=0.1),
    "DenoisingScoreMatching": DenoisingScoreMatching(0.3),
    "SlicedScoreMatching": SlicedScoreMatching(2),
    "NoiseContrastive": NoiseContrastive(GaussianNoise(), ratio=2),
    "Sum": Sum({"contrast": ContrastiveDivergence(), "score": DenoisingScoreMatching(0.1)}),
}


@pytest.mark.parametrize("objective", EVERY.values(), ids=EVERY.keys())
def test_only_the_loss_carries_a_graph_and_no_grad_gives_the_same_numbers(objective: Objective) -> None:
    model, pos, neg = Quartic(), quartic_state(), quartic_state()
    torch.manual_seed(1)
    terms = objective(model, pos, neg)
    assert all(value.ndim == 0 and value.requires_grad == (name == "loss") for name, value in terms.items())
    assert model.scale.grad is None
    for context in (torch.no_grad, torch.inference_mode):
        torch.manual_seed(1)
        with context():
            inside = [{name: value.clone() for name, value in state.items()} for state in (pos, neg)]
            same = objective(model, *inside)
        assert set(same) == set(terms)
        assert all(torch.allclose(value, terms[name]) and not value.requires_grad for name, value in same.items())
