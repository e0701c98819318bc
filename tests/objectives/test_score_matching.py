"""Score matching, denoising and sliced, against closed forms."""

import pytest
import torch
from support.densities import Bell, Quartic, quartic_state
from support.oracles import assert_means
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel
from ebm_lightning.objectives import DenoisingScoreMatching, SlicedScoreMatching

F64 = torch.float64


class Quadratic(EnergyModel):
    """E(x) = x.A x / 2 with A symmetric."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.a * x).sum(1) / 2


class Slope(EnergyModel):
    """E(x) = weight . x, without curvature."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize("precision", [0.4, 1 / (1 + 0.8**2), 1.0])
def test_DenoisingScoreMatching_of_a_normal_is_its_closed_form(precision: float) -> None:
    """With data N(0, 1), noise s and E = a x^2 / 2, the loss is u^2 / 2 of a normal u of variance
    (s a)^2 + (s^2 a - 1)^2, and its slope in a is s^2 ((1 + s^2) a - 1), zero at the variance 1 + s^2."""
    s, batches, size = 0.8, 400, 500
    model, losses, slopes = Bell(precision=precision), [], []
    for _ in range(batches):
        terms = DenoisingScoreMatching(s)(model, {"x": torch.randn(size, 1, dtype=F64)}, None)
        losses.append(terms["loss"].detach())
        slopes.append(torch.autograd.grad(terms["loss"], model.precision)[0])
    variance = (s * precision) ** 2 + (s**2 * precision - 1) ** 2
    expected = torch.tensor([variance / 2, s**2 * ((1 + s**2) * precision - 1)], dtype=F64)
    assert_means(torch.stack([torch.stack(losses), torch.stack(slopes)], 1), expected)


def test_DenoisingScoreMatching_noises_its_block_alone() -> None:
    """The loss is that of the formula with the noise drawn again."""
    model, pos, s = Quartic(), quartic_state(), 0.5
    torch.manual_seed(1)
    terms = DenoisingScoreMatching(s)(model, pos, None)
    torch.manual_seed(1)
    e = torch.randn_like(pos["x"])
    noised = pos["x"] + s * e
    slope = model.scale * noised**3 + pos["context"]
    assert torch.allclose(terms["loss"], (s * slope - e).square().sum() / 2 / len(e))
    assert torch.allclose(terms["energy_data"], model(noised, pos["context"]).mean())


def test_SlicedScoreMatching_is_exact_where_the_hessian_is_diagonal() -> None:
    """|dE/dx|^2 / 2 - tr H, loss and gradient, by the closed forms of the slope and the curvature."""
    model, pos = Quartic(), quartic_state()
    terms = SlicedScoreMatching()(model, pos, None)
    slope, curvature = model.scale * pos["x"] ** 3 + pos["context"], 3 * model.scale * pos["x"] ** 2
    exact = (slope.square() / 2 - curvature).flatten(1).sum(1).mean()
    assert torch.allclose(terms["loss"], exact)
    assert torch.allclose(terms["curvature"], curvature.flatten(1).sum(1).mean())
    ours, theirs = (torch.autograd.grad(loss, model.scale)[0] for loss in (terms["loss"], exact))
    assert torch.allclose(ours, theirs)


def test_SlicedScoreMatching_has_the_trace_of_a_full_hessian_as_its_mean() -> None:
    """On E = x.A x / 2: mean |A x|^2 / 2 - tr A, and its gradient in A. An independent batch of directions per draw."""
    factor = torch.randn(3, 3, dtype=F64)
    model, x = Quadratic(factor @ factor.T), torch.randn(50, 3, dtype=F64)
    exact = (x @ model.a).square().sum(1).mean() / 2 - model.a.trace()
    (exact_slope,) = torch.autograd.grad(exact, model.a)
    draws = []
    for _ in range(400):
        terms = SlicedScoreMatching(2)(model, {"x": x}, None)
        slope = torch.autograd.grad(terms["loss"], model.a)[0]
        slope = (slope + slope.T) / 2
        draws.append(torch.cat([terms["loss"].detach()[None], slope[*torch.triu_indices(3, 3, 1)]]))
        assert torch.allclose(slope.diagonal(), exact_slope.diagonal())
    exact_slope = (exact_slope + exact_slope.T) / 2
    expected = torch.cat([exact.detach()[None], exact_slope[*torch.triu_indices(3, 3, 1)]])
    assert_means(torch.stack(draws), expected)


def test_SlicedScoreMatching_has_its_minimum_at_the_data_variance() -> None:
    """For E = a x^2 / 2 the loss is a^2 <x^2> / 2 - a, least at a = 1 / <x^2>."""
    x = 1.7 * torch.randn(100, 1, dtype=F64)
    model = Bell(precision=float(1 / x.square().mean()))
    slope = torch.autograd.grad(SlicedScoreMatching()(model, {"x": x}, None)["loss"], model.precision)[0]
    assert abs(slope) < 1e-12


def test_SlicedScoreMatching_matches_an_energy_without_curvature_by_its_slope_alone() -> None:
    terms = SlicedScoreMatching()(Slope(), {"x": torch.randn(4, 2, dtype=F64)}, None)
    assert terms["curvature"] == 0
    assert torch.allclose(terms["loss"], torch.tensor(2.5, dtype=F64))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DenoisingScoreMatching(0.0), r"DenoisingScoreMatching\(sigma=0.0\)"),
        (lambda: SlicedScoreMatching(0), r"SlicedScoreMatching\(projections=0\)"),
        (
            lambda: DenoisingScoreMatching(0.1, block="z")(Quartic(), quartic_state(), None),
            r"'z' is to be moved or scored, but Quartic is an energy over",
        ),
        (lambda: SlicedScoreMatching(block="z")(Quartic(), quartic_state(), None), "'z' is to be moved or scored"),
    ],
)
def test_DenoisingScoreMatching_and_SlicedScoreMatching_refuse_what_cannot_work_with_a_message(
    make, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make()
