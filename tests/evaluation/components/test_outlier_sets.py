"""What the outliers are made of."""

import pytest
import torch
from scipy import stats
from support.measured import module_of
from support.oracles import FALSE_ALARM, Examples, LinearClassifier
from torch import Tensor

from ebm_lightning.evaluation import (
    ConstantImages,
    GaussianPixels,
    ImageSet,
    Interpolations,
    NoisyOutliers,
    Outliers,
    OutOfDistribution,
    PermutedPixels,
    Resized,
    UniformPixels,
    UpsideDown,
)
from ebm_lightning.evaluation.components import outlier_sets as outliers_module

BOUNDS = (-1.0, 1.0)


def test_PermutedPixels_are_in_one_other_order_for_all_images_and_channels() -> None:
    x = torch.rand(4, 3, 5, 6)
    order = PermutedPixels().make(torch.arange(30.0).view(1, 1, 5, 6), BOUNDS).flatten().long()
    assert torch.equal(order.sort().values, torch.arange(30))
    assert not torch.equal(order, torch.arange(30))
    assert torch.equal(PermutedPixels().make(x, BOUNDS).flatten(2), x.flatten(2)[:, :, order])
    assert not torch.equal(PermutedPixels(1).make(x, BOUNDS), PermutedPixels(0).make(x, BOUNDS))


def test_UpsideDown_is_a_turn_by_180_degrees() -> None:
    x = torch.rand(4, 3, 5, 6)
    assert torch.equal(UpsideDown().make(x, BOUNDS), torch.rot90(x, 2, (2, 3)))


def test_UniformPixels_are_uniform_over_the_bounds() -> None:
    made = UniformPixels().make(torch.zeros(50, 1, 10, 20), BOUNDS)
    assert made.shape == (50, 1, 10, 20)
    assert stats.kstest(made.flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > FALSE_ALARM


def test_ImageSet_is_scaled_to_the_bounds_and_left_out_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EBM_DATA", raising=False)
    assert ImageSet("fashion_mnist").make(torch.zeros(1, 1, 28, 28), BOUNDS) is None
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    monkeypatch.setattr(outliers_module, "available", lambda name: name == "mnist")
    monkeypatch.setattr(outliers_module, "load_images", lambda name, split: {"x": levels} if split == "test" else None)
    made = ImageSet("mnist").make(torch.zeros(1, 1, 1, 1), BOUNDS)
    assert made.flatten().tolist() == pytest.approx([-1.0, -0.6, 1.0])


def test_Interpolations_are_means_of_two_different_images_and_every_image_is_in_two() -> None:
    x = torch.eye(6).view(6, 1, 2, 3)
    made = Interpolations().make(x, BOUNDS).flatten(1)
    assert torch.equal(made.sort(1).values[:, -2:], torch.full((6, 2), 0.5))
    assert torch.equal(made.sum(0), torch.ones(6))


def test_ConstantImages_have_one_value_in_each_channel_uniform_over_the_bounds() -> None:
    made = ConstantImages().make(torch.zeros(500, 3, 4, 5), BOUNDS)
    assert torch.equal(made, made[:, :, :1, :1].expand_as(made))
    assert stats.kstest(made[:, :, 0, 0].flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > FALSE_ALARM


def test_GaussianPixels_have_the_moments_of_the_data_and_stay_within_the_bounds() -> None:
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


def test_Resized_alone_makes_a_set_of_another_shape_acceptable() -> None:
    model, x = LinearClassifier(torch.randn(3, 16), torch.zeros(3)), torch.rand(9, 1, 4, 4)
    data, large = Examples(x, bounds=(0.0, 1.0)), Given(torch.rand(5, 3, 8, 8))
    with pytest.raises(
        ValueError, match=r"Given\(\) has images of shape \(3, 8, 8\), but the data are of shape \(1, 4"
    ):
        OutOfDistribution([large]).measure(module_of(model), data)
    found = OutOfDistribution([Resized(large), Resized(Given(None))]).measure(module_of(model), data).measurements
    assert found.keys() == {f"{figure}_resized_given" for figure in ("auroc", "aupr", "fpr95")}


def test_Resized_keeps_constant_images_and_makes_gray_of_colors() -> None:
    colors = torch.tensor([0.0, 0.3, 0.9]).view(1, 3, 1, 1).expand(2, 3, 7, 9)
    gray = Resized(Given(colors)).make(torch.zeros(4, 1, 5, 5), BOUNDS)
    assert gray.shape == (2, 1, 5, 5)
    assert torch.allclose(gray, torch.tensor(0.4))
    assert Resized(Given(gray)).make(torch.zeros(4, 3, 6, 6), BOUNDS).shape == (2, 3, 6, 6)


def test_NoisyOutliers_outliers_carry_the_noise_of_the_test_images() -> None:
    made = NoisyOutliers(Given(torch.full((200, 1, 5, 5), 0.2)), 0.03).make(torch.zeros(1, 1, 5, 5), BOUNDS)
    assert stats.kstest(made.flatten().numpy(), stats.norm(0.2, 0.03).cdf).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NoisyOutliers(UniformPixels(), -1.0), "expected std >= 0"),
        (lambda: Interpolations().make(torch.zeros(1, 1, 2, 2), BOUNDS), "needs at least two test images, got 1"),
    ],
)
def test_NoisyOutliers_and_Interpolations_refuse_what_cannot_work_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
