"""Sums of objectives: losses by weight, every part logged, and what the parts remember."""

import pytest
import torch
from support.classifiers import labeled_points, small_jem
from support.densities import Quartic, gradients_of, quartic_state
from torch import nn

from ebm_lightning import EBM
from ebm_lightning.core import EnergyModel, Objective, State, Terms
from ebm_lightning.energies import Gaussian, JointJEM
from ebm_lightning.objectives import Classification, ContrastiveDivergence, Marginal, SlicedScoreMatching, Sum


class Indifferent(Objective):
    """A part without memory."""

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        return {"loss": model.energy(pos).mean()}


def test_a_sum_of_parts_without_memory_adds_nothing_to_the_state_dict() -> None:
    model = Gaussian([0.0], [1.0])
    assert EBM(model, Sum({"a": Indifferent()})).state_dict().keys() == EBM(model, Indifferent()).state_dict().keys()


def test_the_three_terms_add_up_with_their_weights() -> None:
    jem, pos, neg = small_jem(), labeled_points(), labeled_points(4)
    contrast, weights = ContrastiveDivergence(), {"joint": 0.5, "marginal": 2.0, "discriminative": 3.0}
    parts = {"joint": contrast, "marginal": Marginal(contrast), "discriminative": Classification()}
    terms = Sum(parts, weights=weights)(JointJEM(jem), pos, neg)
    expected = 0.5 * contrast(JointJEM(jem), pos, neg)["loss"] + 2 * contrast(jem, pos, neg)["loss"]
    expected = expected + 3 * nn.functional.cross_entropy(jem.net(pos["x"]), pos["y"])
    torch.testing.assert_close(gradients_of(jem, terms), gradients_of(jem, {"loss": expected}))


def test_sum_adds_losses_by_weight_and_logs_every_part() -> None:
    model, pos = Quartic(), quartic_state()
    neg = quartic_state()
    contrast, score = ContrastiveDivergence(l2=0.1), SlicedScoreMatching()
    terms = Sum({"contrast": contrast, "score": score}, weights={"score": 0.25})(model, pos, neg)
    alone = {"contrast": contrast(model, pos, neg), "score": score(model, pos, neg)}
    assert torch.allclose(terms["loss"], alone["contrast"]["loss"] + 0.25 * alone["score"]["loss"])
    expected = {f"{name}/{term}" for name, found in alone.items() for term in found}
    assert set(terms) == expected | {"loss"}
    assert all(torch.allclose(terms[f"{name}/{term}"], value) for name in alone for term, value in alone[name].items())
    slopes = {name: gradients_of(model, found)["scale"] for name, found in alone.items()}
    assert torch.allclose(gradients_of(model, terms)["scale"], slopes["contrast"] + 0.25 * slopes["score"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sum({}), "at least one objective"),
        (
            lambda: Sum({"a": ContrastiveDivergence()}, weights={"b": 1.0}),
            r"names \['b'\], but the parts are \['a'\]",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
