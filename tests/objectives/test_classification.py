"""The discriminative objective against the enumerated conditional, and on partly labeled data."""

import pytest
import torch
from support.boltzmann import binary_rbm, labeled_rbm, labeled_state
from support.classifiers import labeled_points, small_jem
from support.densities import gradients_of
from support.oracles import bits, gradients
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.energies import RBM, DeepEnergy, Gaussian
from ebm_lightning.energies.networks import MLP
from ebm_lightning.objectives import Classification, ContrastiveDivergence, Sum

F64 = torch.float64


LABELLED: State = {
    "x": bits(4).repeat_interleave(3, 0),
    "y": torch.arange(3).repeat(16),
}


def _log_joint(model: RBM) -> Tensor:
    """log p(x, y), shape (16, 3): h summed over its eight states."""
    h = bits(3)
    joint = torch.stack([-model.joint({**LABELLED, "h": row.expand(48, 3)}) for row in h])
    return torch.logsumexp(joint, 0).log_softmax(0).view(16, 3)


DATA: State = {"x": bits(4)[[3, 3, 9, 14, 0]], "y": torch.tensor([0, 2, 1, 1, 0])}


ROWS = torch.tensor([3, 3, 9, 14, 0])


class TestClassificationObjective:
    def test_loss_and_gradient_are_those_of_the_enumerated_conditional(self) -> None:
        """A rider h does not enter; it is summed out."""
        model = labeled_rbm()
        exact = -_log_joint(model).log_softmax(1)[ROWS, DATA["y"]].mean()
        terms = Classification()(model, {**DATA, "h": torch.ones(5, 3, dtype=F64)}, None)
        torch.testing.assert_close(terms["loss"], exact)
        ours, theirs = gradients(model, terms["loss"]), gradients(model, exact)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12)
        wrong = _log_joint(model)[ROWS].argmax(1) != DATA["y"]
        assert float(terms["error"]) == pytest.approx(float(wrong.double().mean()))
        assert 0 < float(terms["error"]) < 1, "the test must see both kinds of examples"

    def test_hybrid_training_descends_both_likelihoods(self) -> None:
        """The contrast is linear in the chains: its mean over chains from p is a sum over all 48 states."""
        model, weight = labeled_rbm(), 0.3
        hybrid = Sum(
            {"generative": ContrastiveDivergence(), "discriminative": Classification()},
            weights={"discriminative": weight},
        )
        log_p = _log_joint(model)
        exact = -log_p[ROWS, DATA["y"]].mean() - weight * log_p.log_softmax(1)[ROWS, DATA["y"]].mean()
        expected = gradients(model, exact)
        ours = {name: torch.zeros_like(value) for name, value in expected.items()}
        for i, p in enumerate(log_p.exp().flatten().tolist()):
            chain = {name: value[i : i + 1] for name, value in LABELLED.items()}
            terms = hybrid(model, DATA, chain)
            assert terms.keys() >= {"generative/gap", "discriminative/error", "discriminative/loss"}
            for name, value in gradients(model, terms["loss"]).items():
                ours[name] += p * value
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Classification()(labeled_rbm(), {"x": bits(4)}, None), "train on labeled data"),
        (lambda: Classification("x")(binary_rbm(), {"x": bits(4)}, None), r"p\(x \| h\) needs 'h'"),
        (
            lambda: Classification("h")(binary_rbm().double(), labeled_state(), None),
            "is a BernoulliConditional: name the label",
        ),
        (
            lambda: Classification()(Gaussian([0.0], [1.0]), labeled_points(), None),
            "Gaussian is not GibbsSampleable, it has no conditional",
        ),
        (
            lambda: Classification()(DeepEnergy(MLP(4, [2])), labeled_state(), None),
            "DeepEnergy is not GibbsSampleable, it has no conditional",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_classification_of_a_partly_labeled_batch_is_that_of_its_labeled_part() -> None:
    jem, pos = small_jem(), labeled_points()
    known = torch.tensor([True, False, True, True, False, False])
    hidden = {**pos, "y": torch.where(known, pos["y"], -1)}
    ours = Classification()(jem, hidden, None)
    theirs = Classification()(jem, {name: value[known] for name, value in pos.items()}, None)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients_of(jem, ours), gradients_of(jem, theirs))


def test_classification_of_a_batch_without_labels_teaches_nothing() -> None:
    jem = small_jem()
    terms = Classification()(jem, {**labeled_points(), "y": torch.full((6,), -1)}, None)
    assert float(terms["loss"].detach()) == 0
    assert all(bool((grad == 0).all()) for grad in gradients_of(jem, terms).values())
