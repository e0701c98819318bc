"""The objective of the marginal against the objective on the model that sums the labels out."""

import pytest
import torch
from support.oracles import perturbed

from ebm_lightning.core import State
from ebm_lightning.energies import JEM, DeepEnergy, JointJEM
from ebm_lightning.energies.networks import MLP
from ebm_lightning.objectives import ContrastiveDivergence, Marginal

F64 = torch.float64


def _jem(classes: int = 3) -> JEM:
    model = perturbed(JEM(MLP(4, [6], outputs=classes), classes))
    assert isinstance(model, JEM)
    return model


def _points(n: int = 6, classes: int = 3) -> State:
    return {"x": torch.randn(n, 4, dtype=F64), "y": torch.arange(n) % classes}


def test_a_marginal_of_the_joint_is_the_objective_on_the_marginal() -> None:
    jem, pos, neg = _jem(), _points(), _points(4)
    for phases in ((pos, neg), ({"x": pos["x"], "y": torch.full((6,), -1)}, neg)):
        ours = Marginal(ContrastiveDivergence(l2=0.1))(JointJEM(jem), *phases)
        theirs = ContrastiveDivergence(l2=0.1)(jem, *phases)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Marginal(ContrastiveDivergence())(DeepEnergy(MLP(4, [])), _points(), _points()),
            "nothing to sum out of DeepEnergy",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
