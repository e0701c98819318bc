"""Out-of-distribution detection beside scikit-learn, and what the outliers are made of."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from support.oracles import FALSE_ALARM, Examples, LinearClassifier, perturbed
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.energies import JEM, RBM, ConditionalDeepEnergy, DeepEnergy, JointJEM, PerClass, StudentTPoE
from ebm_lightning.energies.boltzmann.units import Gaussian, Softmax
from ebm_lightning.energies.networks import MLP, IGEBMMnistNet
from ebm_lightning.evaluation import (
    ConstantImages,
    GaussianPixels,
    Interpolations,
    MaxSoftmax,
    MinusEnergy,
    MinusGradientNorm,
    NoisyOutliers,
    Outliers,
    OutOfDistribution,
    PermutedPixels,
    Resized,
    UniformPixels,
    UpsideDown,
)
from ebm_lightning.evaluation.protocols.ood import aupr, fpr
from ebm_lightning.objectives import ContrastiveDivergence

BOUNDS = (-1.0, 1.0)


@pytest.mark.parametrize(("n", "m", "levels"), [(40, 23, 5), (300, 100, 1000), (20, 90, 2), (100, 100, 10**6)])
def test_aupr_and_fpr_at_95_are_those_of_scikit_learn_with_ties(n: int, m: int, levels: int) -> None:
    inside = (torch.randn(n) * levels + levels / 4).round() * 50 - 1000
    outside = (torch.randn(m) * levels).round() * 50 - 1000
    labels, scores = np.array([1] * n + [0] * m), torch.cat([inside, outside]).numpy()
    assert aupr(inside, outside).value == pytest.approx(average_precision_score(labels, scores), abs=1e-6)
    passed, found, _ = roc_curve(labels, scores, drop_intermediate=False)
    expected = passed[found >= 0.95 - 1e-9].min()
    assert fpr(inside, outside).value == pytest.approx(expected, abs=1e-6)
    error = (expected * (1 - expected) / m) ** 0.5
    assert fpr(inside, outside).standard_error == pytest.approx(error, abs=1e-5)


def test_each_score_orders_images_by_what_it_names() -> None:
    model = LinearClassifier(torch.randn(3, 16), torch.randn(3))
    x = BOUNDS[0] + 2 * torch.rand(50, 1, 4, 4)
    outliers: list[Outliers] = [UpsideDown(), PermutedPixels()]
    scores = [MinusEnergy(), MaxSoftmax(), MinusGradientNorm()]
    findings = OutOfDistribution(outliers, scores).measure(_module(model), Examples(x, bounds=BOUNDS))

    def truth(x: Tensor) -> dict[str, Tensor]:
        p = torch.softmax(model.logits(x), 1).detach()
        return {
            "": torch.logsumexp(model.logits(x), 1).detach(),
            " by max p(y|x)": p.amax(1),
            " by -|dE/dx|": -(p @ model.weight).norm(dim=1).detach(),
        }

    for kind in outliers:
        inside, outside = truth(x), truth(kind.make(x, BOUNDS))
        for by in inside:
            scored = torch.cat([inside[by], outside[by]]).numpy()
            expected = roc_auc_score([1] * 50 + [0] * 50, scored)
            assert findings.measurements[f"AUROC {kind}{by}"].value == pytest.approx(expected, abs=1e-3)
    assert findings.measurements.keys() >= {"AUPR UpsideDown()", "FPR@95 PermutedPixels(seed=0) by -|dE/dx|"}
    assert findings.pictures.keys() == {"energies", "MaxSoftmax", "MinusGradientNorm"}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConditionalDeepEnergy(IGEBMMnistNet(width=2, classes=3, size=8)),
        lambda: RBM({"x": Gaussian([1, 8, 8]), "y": Softmax(3)}, 4, weight_std=1.0),
    ],
)
def test_a_model_over_images_and_labels_is_scored_by_the_label_that_suits_an_image_best(make) -> None:
    model = perturbed(make()).float()
    x = torch.randn(20, 1, 8, 8)
    with torch.no_grad():
        of_label = [[model.energy({"x": one[None], "y": torch.tensor([y])}) for y in range(3)] for one in x]
    expected = torch.tensor([min(map(float, energies)) for energies in of_label])
    best = torch.tensor([int(np.argmin(energies)) for energies in of_label])
    assert len(best.unique()) > 1, "one label must not suit every image best"
    assert torch.allclose(MinusEnergy()(_module(model), x, 3), expected, atol=1e-4)


def test_a_model_that_sums_out_a_missing_label_keeps_its_own_energy() -> None:
    jem = JEM(MLP(4, [6], outputs=3), 3)
    x = torch.randn(20, 1, 2, 2)
    assert torch.allclose(MinusEnergy()(_module(JointJEM(jem)), x, 3), jem(x).detach())


def test_interpolations_are_means_of_two_different_images_and_every_image_is_in_two() -> None:
    x = torch.eye(6).view(6, 1, 2, 3)
    made = Interpolations().make(x, BOUNDS).flatten(1)
    assert torch.equal(made.sort(1).values[:, -2:], torch.full((6, 2), 0.5))
    assert torch.equal(made.sum(0), torch.ones(6))


def test_constant_images_have_one_value_in_each_channel_uniform_over_the_bounds() -> None:
    made = ConstantImages().make(torch.zeros(500, 3, 4, 5), BOUNDS)
    assert torch.equal(made, made[:, :, :1, :1].expand_as(made))
    assert stats.kstest(made[:, :, 0, 0].flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > FALSE_ALARM


def test_gaussian_pixels_have_the_moments_of_the_data_and_stay_within_the_bounds() -> None:
    x = 0.3 + 0.1 * torch.randn(200, 1, 6, 6)
    made = GaussianPixels().make(x, BOUNDS)
    law = stats.norm(float(x.mean()), float(x.std()))
    assert stats.kstest(made.flatten().numpy(), law.cdf).pvalue > FALSE_ALARM
    assert GaussianPixels().make(5 * x, (0.0, 1.0)).aminmax() == (0.0, 1.0)


class Given(Outliers):
    """A given set."""

    def __init__(self, x: Tensor | None) -> None:
        self.x = x

    def make(self, x: Tensor, bounds: tuple[float, float]) -> Tensor | None:
        return self.x

    def __repr__(self) -> str:
        return "Given()"


def test_a_set_of_another_shape_is_refused_unless_it_is_resized() -> None:
    model, x = LinearClassifier(torch.randn(3, 16), torch.zeros(3)), torch.rand(9, 1, 4, 4)
    data, large = Examples(x, bounds=(0.0, 1.0)), Given(torch.rand(5, 3, 8, 8))
    with pytest.raises(
        ValueError, match=r"Given\(\) has images of shape \(3, 8, 8\), but the data are of shape \(1, 4"
    ):
        OutOfDistribution([large]).measure(_module(model), data)
    found = OutOfDistribution([Resized(large), Resized(Given(None))]).measure(_module(model), data).measurements
    assert found.keys() == {f"{figure} Resized(outliers=Given())" for figure in ("AUROC", "AUPR", "FPR@95")}


def test_resizing_keeps_constant_images_and_makes_gray_of_colors() -> None:
    colors = torch.tensor([0.0, 0.3, 0.9]).view(1, 3, 1, 1).expand(2, 3, 7, 9)
    gray = Resized(Given(colors)).make(torch.zeros(4, 1, 5, 5), BOUNDS)
    assert gray.shape == (2, 1, 5, 5)
    assert torch.allclose(gray, torch.tensor(0.4))
    assert Resized(Given(gray)).make(torch.zeros(4, 3, 6, 6), BOUNDS).shape == (2, 3, 6, 6)


def test_noisy_outliers_carry_the_noise_of_the_test_images() -> None:
    made = NoisyOutliers(Given(torch.full((200, 1, 5, 5), 0.2)), 0.03).make(torch.zeros(1, 1, 5, 5), BOUNDS)
    assert stats.kstest(made.flatten().numpy(), stats.norm(0.2, 0.03).cdf).pvalue > FALSE_ALARM


def _module(model) -> EBM:
    return EBM(model, ContrastiveDivergence())


DATA = Examples(torch.rand(4, 1, 2, 2), bounds=(0.0, 1.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OutOfDistribution([UniformPixels()], []), "expected at least one score"),
        (lambda: NoisyOutliers(UniformPixels(), -1.0), "expected std >= 0"),
        (lambda: Interpolations().make(torch.zeros(1, 1, 2, 2), BOUNDS), "needs at least two test images, got 1"),
        (
            lambda: OutOfDistribution([UniformPixels()]).measure(
                _module(DeepEnergy(MLP(4, [2]))), Examples(torch.zeros(4, 4))
            ),
            "but Examples has none: use bounded data",
        ),
        (
            lambda: OutOfDistribution([UniformPixels()], [MaxSoftmax()]).measure(
                _module(DeepEnergy(MLP(4, [2]))), DATA
            ),
            "a classifier .* is needed, and there is none here: DeepEnergy has no conditional for 'y'",
        ),
        (
            lambda: OutOfDistribution([UniformPixels()]).measure(
                _module(ConditionalDeepEnergy(IGEBMMnistNet(width=2, classes=3, size=2))), DATA
            ),
            r"is an energy over \('x', 'y'\), but \['y'\] is not in the state",
        ),
        (
            lambda: MinusEnergy()(_module(PerClass(StudentTPoE([4], 2), 3)), torch.zeros(2, 4), 3),
            "PerClass needs the label 'y' of every example",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
