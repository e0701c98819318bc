"""Scores of single images against the orders that they name."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from support.measured import module_of
from support.oracles import Examples, LinearClassifier, perturbed
from torch import Tensor

from ebm_lightning.energies import JEM, RBM, ConditionalDeepEnergy, JointJEM, PerClass, StudentTPoE
from ebm_lightning.energies.boltzmann.units import Gaussian, Softmax
from ebm_lightning.energies.networks import MLP, IGEBMMnistNet
from ebm_lightning.evaluation import (
    MaxSoftmax,
    MinusEnergy,
    MinusGradientNorm,
    Outliers,
    OutOfDistribution,
    PermutedPixels,
    UpsideDown,
)
from ebm_lightning.evaluation.protocol import snake_case

BOUNDS = (-1.0, 1.0)


def test_MinusEnergy_MaxSoftmax_and_MinusGradientNorm_order_images_by_what_they_name() -> None:
    model = LinearClassifier(torch.randn(3, 16), torch.randn(3)).double()
    x = BOUNDS[0] + 2 * torch.rand(50, 1, 4, 4, dtype=torch.float64)
    outliers: list[Outliers] = [UpsideDown(), PermutedPixels()]
    scores = [MinusEnergy(), MaxSoftmax(), MinusGradientNorm()]
    result = OutOfDistribution(outliers, scores).measure(module_of(model), Examples(x, bounds=BOUNDS))

    def truth(x: Tensor) -> dict[str, Tensor]:
        p = torch.softmax(model.logits(x), 1).detach()
        return {
            "": torch.logsumexp(model.logits(x), 1).detach(),
            "_by_max_softmax": p.amax(1),
            "_by_minus_gradient_norm": -(p @ model.weight).norm(dim=1).detach(),
        }

    for kind in outliers:
        inside, outside = truth(x), truth(kind.make(x, BOUNDS))
        for by in inside:
            scored = torch.cat([inside[by], outside[by]]).numpy()
            expected = roc_auc_score([1] * 50 + [0] * 50, scored)
            assert result.measurements[f"auroc_{snake_case(str(kind))}{by}"].value == pytest.approx(expected, abs=1e-6)
    assert result.measurements.keys() >= {"aupr_upside_down", "fpr95_permuted_pixels_0_by_minus_gradient_norm"}
    assert result.pictures.keys() == {"energies", "MaxSoftmax", "MinusGradientNorm"}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConditionalDeepEnergy(IGEBMMnistNet(width=2, classes=3, size=8)),
        lambda: RBM({"x": Gaussian([1, 8, 8]), "y": Softmax(3)}, 4, weight_std=1.0),
    ],
)
def test_MinusEnergy_of_a_model_over_images_and_labels_is_that_of_the_label_that_suits_best(make) -> None:
    model = perturbed(make())
    x = torch.randn(20, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        of_label = [[model.energy({"x": one[None], "y": torch.tensor([y])}) for y in range(3)] for one in x]
    expected = torch.tensor([min(map(float, energies)) for energies in of_label], dtype=torch.float64)
    best = torch.tensor([int(np.argmin(energies)) for energies in of_label])
    assert len(best.unique()) > 1, "one label must not suit every image best"
    torch.testing.assert_close(MinusEnergy()(module_of(model), x, 3), expected.float())


def test_MinusEnergy_of_a_model_that_sums_out_a_missing_label_is_its_own() -> None:
    jem = JEM(MLP(4, [6], outputs=3), 3)
    x = torch.randn(20, 1, 2, 2)
    assert torch.allclose(MinusEnergy()(module_of(JointJEM(jem)), x, 3), jem(x).detach())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: MinusEnergy()(module_of(PerClass(StudentTPoE([4], 2), 3)), torch.zeros(2, 4), 3),
            "PerClass needs the label 'y' of every example",
        ),
    ],
)
def test_MinusEnergy_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
