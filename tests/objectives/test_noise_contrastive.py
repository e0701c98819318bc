"""Noise-contrastive estimation against what it cannot tell, its minimum, and closed forms."""

import math

import pytest
import torch
from support.densities import Bell, Quartic, gradients_of, quartic_state
from support.oracles import assert_means
from torch import Tensor

from ebm_lightning.core import Noise
from ebm_lightning.distributions import GaussianNoise, UniformNoise
from ebm_lightning.objectives import NoiseContrastive

F64 = torch.float64


@pytest.mark.parametrize("ratio", [1, 4])
def test_NoiseContrastive_cannot_tell_the_noise_from_itself(ratio: int) -> None:
    """Where exp(-E) = q every posterior is 1 / (1 + ratio): loss = log(1 + ratio) + ratio log(1 + 1/ratio)."""
    model, x = Bell(mean=0.5, precision=1 / 4), torch.randn(6, 1, dtype=F64)
    terms = NoiseContrastive(GaussianNoise(0.5, 2.0), ratio=ratio)(model, {"x": x}, None)
    expected = math.log1p(ratio) + ratio * math.log1p(1 / ratio)
    assert torch.allclose(terms["loss"], torch.tensor(expected, dtype=F64))
    assert torch.allclose(terms["energy_data"], -GaussianNoise(0.5, 2.0).log_prob(x).mean())


@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_NoiseContrastive_has_its_minimum_at_the_truth_with_log_z(ratio: int, shift: float) -> None:
    """The mean gradient in mean, precision and log Z vanishes at the truth, and not where log Z is off."""
    model, batches = Bell(mean=0.4, precision=2.0), []
    with torch.no_grad():
        model.log_z += shift
    objective = NoiseContrastive(GaussianNoise(0.0, 1.5), ratio=ratio)
    for _ in range(400):
        x = 0.4 + torch.randn(300, 1, dtype=F64) / math.sqrt(2)
        batches.append(torch.stack(list(gradients_of(model, objective(model, {"x": x}, None)).values())))
    slopes = torch.stack(batches)
    if shift == 0:
        assert_means(slopes, torch.zeros(3, dtype=F64))
    else:
        with pytest.raises(AssertionError):
            assert_means(slopes, torch.zeros(3, dtype=F64))


class Recorded(Noise):
    """Draws that count up from 0, of density 1."""

    def sample(self, like: Tensor) -> Tensor:
        return torch.arange(like.numel(), dtype=like.dtype).view_as(like)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=x.dtype)


def test_NoiseContrastive_repeats_the_clamped_variables() -> None:
    """Three draws for each datum, under that datum's context; the loss is the formula's."""
    model = Quartic()
    pos = {"x": torch.tensor([[0.1], [0.2]], dtype=F64), "context": torch.tensor([[1.0], [-1.0]], dtype=F64)}
    terms = NoiseContrastive(Recorded(), ratio=3)(model, pos, None)
    loss = 0.0
    for x, context in ((0.1, 1.0), (0.2, -1.0)):
        loss += math.log(1 + 3 * math.exp(0.7 * x**4 / 4 + context * x)) / 2
    for k in range(6):
        energy = 0.7 * k**4 / 4 + (1.0 if k < 3 else -1.0) * k
        loss += math.log(1 + math.exp(-energy) / 3) / 2
    assert torch.allclose(terms["loss"], torch.tensor(loss, dtype=F64))


def test_NoiseContrastive_accuracy_counts_what_is_told_apart() -> None:
    """E = 50 (x - 5)^2 against noise near 0: nothing is mistaken; data within the noise are all mistaken for it."""
    model = Bell(mean=5.0, precision=100.0)
    objective = NoiseContrastive(GaussianNoise(0.0, 0.1))
    assert objective(model, {"x": torch.full((4, 1), 5.0, dtype=F64)}, None)["accuracy"] == 1.0
    assert objective(model, {"x": torch.zeros(4, 1, dtype=F64)}, None)["accuracy"] == 0.5


def test_NoiseContrastive_learns_nothing_from_a_datum_outside_the_support_of_the_noise() -> None:
    model = Bell()
    objective = NoiseContrastive(UniformNoise(0.0, 1.0))
    torch.manual_seed(1)
    inside = gradients_of(model, objective(model, {"x": torch.tensor([[3.0], [4.0]], dtype=F64)}, None))
    torch.manual_seed(1)
    moved = gradients_of(model, objective(model, {"x": torch.tensor([[-7.0], [2.0]], dtype=F64)}, None))
    assert all(torch.equal(inside[name], moved[name]) and inside[name].isfinite() for name in inside)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NoiseContrastive(GaussianNoise(), ratio=0), r"NoiseContrastive\(ratio=0\)"),
        (
            lambda: NoiseContrastive(GaussianNoise(), block="z")(Quartic(), quartic_state(), None),
            r"Quartic is an energy over \('x', 'context'\)",
        ),
    ],
)
def test_NoiseContrastive_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
