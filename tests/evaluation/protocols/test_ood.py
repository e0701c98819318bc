"""Out-of-distribution detection beside scikit-learn, with the standard errors of simulated truth."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from support.measured import Brightness, TrainAndTest, module_of
from support.oracles import Examples, assert_means

from ebm_lightning import EBM
from ebm_lightning.energies import ConditionalDeepEnergy, DeepEnergy
from ebm_lightning.energies.networks import MLP, IGEBMMnistNet
from ebm_lightning.evaluation import (
    ImageSet,
    MaxSoftmax,
    Measurement,
    OutOfDistribution,
    PermutedPixels,
    UniformPixels,
    UpsideDown,
)
from ebm_lightning.evaluation.protocols.ood import aupr, auroc, fpr
from ebm_lightning.objectives import ContrastiveDivergence


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


DATA = Examples(torch.rand(4, 1, 2, 2), bounds=(0.0, 1.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OutOfDistribution([UniformPixels()], []), "expected at least one score"),
        (
            lambda: OutOfDistribution([UniformPixels()]).measure(
                module_of(DeepEnergy(MLP(4, [2]))), Examples(torch.zeros(4, 4))
            ),
            "but Examples has none: use bounded data",
        ),
        (
            lambda: OutOfDistribution([UniformPixels()], [MaxSoftmax()]).measure(
                module_of(DeepEnergy(MLP(4, [2]))), DATA
            ),
            "a classifier .* is needed, and there is none here: DeepEnergy is not GibbsSampleable, it has no "
            "conditional",
        ),
        (
            lambda: OutOfDistribution([UniformPixels()]).measure(
                module_of(ConditionalDeepEnergy(IGEBMMnistNet(width=2, classes=3, size=2))), DATA
            ),
            r"is an energy over \('x', 'y'\), but \['y'\] is not in the state",
        ),
    ],
)
def test_OutOfDistribution_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(("n", "m", "levels"), [(40, 23, 5), (300, 100, 1000), (7, 90, 2)])
def test_auroc_is_that_of_scikit_learn_with_ties_and_scores_of_any_size(n: int, m: int, levels: int) -> None:
    inside = (torch.randn(n) * levels + levels / 4).round() * 50 - 1000
    outside = (torch.randn(m) * levels).round() * 50 - 1000
    assert len(torch.cat([inside, outside]).unique()) < n + m, "there must be ties"
    labels = [1] * n + [0] * m
    expected = roc_auc_score(labels, torch.cat([inside, outside]).numpy())
    assert auroc(inside, outside).value == pytest.approx(expected, abs=1e-6)


def test_auroc_at_its_ends_is_exact_and_without_error() -> None:
    low, high = torch.randn(20), 100 + torch.randn(30)
    assert auroc(high, low) == Measurement(1.0, 0.0)
    assert auroc(low, high) == Measurement(0.0, 0.0)
    assert auroc(torch.zeros(5), torch.zeros(8)).value == 0.5


def test_the_standard_error_of_auroc_is_that_of_the_published_example() -> None:
    """Hanley & McNeil (1982), table 1: 51 abnormal and 58 normal images in five classes; area 0.893, error 0.032."""
    classes = torch.arange(5.0)
    abnormal = classes.repeat_interleave(torch.tensor([3, 2, 2, 11, 33]))
    normal = classes.repeat_interleave(torch.tensor([33, 6, 6, 11, 2]))
    found = auroc(abnormal, normal)
    assert round(found.value, 3) == 0.893
    assert round(found.standard_error, 3) == 0.032


def test_the_standard_error_of_auroc_is_the_spread_over_repeated_samples() -> None:
    """The formula is exact for exponential scores: inside with mean 4, outside with mean 1, an area of 4/5."""
    n, m, repetitions = 100, 10, 20_000
    exponential = torch.distributions.Exponential(1.0)
    inside, outside = 4 * exponential.sample((repetitions, n)), exponential.sample((repetitions, m))
    areas = torch.stack([(a[:, None] > b).double().mean() for a, b in zip(inside, outside, strict=True)])
    of_area_four_fifths = torch.cat([torch.full((80,), 2.0), torch.zeros(20)])
    error = auroc(of_area_four_fifths, torch.ones(m)).standard_error
    assert_means((areas - 0.8).square()[:, None], torch.tensor([error**2]))


def test_OutOfDistribution_scores_each_set_by_minus_the_energy() -> None:
    """E is minus one pixel, brighter in the data than where their turn has it."""
    x = torch.rand(60, 1, 4, 4)
    x[:, 0, 0, 0] = 0.6 + 0.4 * torch.rand(60)
    module = EBM(Brightness(), ContrastiveDivergence())
    protocol = OutOfDistribution([UpsideDown(), PermutedPixels(), ImageSet("svhn")])
    result = protocol.measure(module, TrainAndTest(x, x))
    at_hand = ("upside_down", "permuted_pixels_0")
    assert result.measurements.keys() == {f"{it}_{name}" for name in at_hand for it in ("auroc", "aupr", "fpr95")}
    labels = [1] * 60 + [0] * 60
    for outliers, name in zip(protocol.outliers, at_hand, strict=False):
        others = outliers.make(x, (0.0, 1.0))
        expected = roc_auc_score(labels, torch.cat([x, others])[:, 0, 0, 0].numpy())
        assert result.measurements[f"auroc_{name}"].value == pytest.approx(expected, abs=1e-6)
        assert expected > 0.7
    assert result.pictures.keys() == {"energies"}
