"""The objective of the marginal against the objective on the model that sums the labels out."""

import pytest
import torch
from support.classifiers import labeled_points, small_jem

from ebm_lightning.energies import DeepEnergy, JointJEM
from ebm_lightning.energies.networks import MLP
from ebm_lightning.objectives import ContrastiveDivergence, Marginal


def test_a_marginal_of_the_joint_is_the_objective_on_the_marginal() -> None:
    jem, pos, neg = small_jem(), labeled_points(), labeled_points(4)
    for phases in ((pos, neg), ({"x": pos["x"], "y": torch.full((6,), -1)}, neg)):
        ours = Marginal(ContrastiveDivergence(l2=0.1))(JointJEM(jem), *phases)
        theirs = ContrastiveDivergence(l2=0.1)(jem, *phases)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Marginal(ContrastiveDivergence())(DeepEnergy(MLP(4, [])), labeled_points(), labeled_points()),
            "nothing to sum out of DeepEnergy",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
