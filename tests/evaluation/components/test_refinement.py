"""Refined classification and its adaptive attack, where refinement is an affine map or pure noise."""

import math

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, Examples, LinearClassifier, Z
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.core import Conditional, EnergyModel, State
from ebm_lightning.data import Digits
from ebm_lightning.distributions import CategoricalConditional
from ebm_lightning.evaluation import L2, ClassificationError, Linf, Refinement, Robustness, ThreatModel
from ebm_lightning.evaluation.protocol import snake_case
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import SGLD, Langevin

STEP = 0.1


class Drawn(EnergyModel):
    """E(x) = sum curvature (x - center)^2 / 2, and two classes with logits -+ f(x) / 2, f(x) = slope . x.

    A step of gradient descent draws x towards the center: x - center shrinks by 1 - step curvature.
    """

    def __init__(self, curvature: Tensor, center: Tensor, slope: Tensor) -> None:
        super().__init__()
        self.curvature, self.center, self.slope = curvature, center, slope

    def forward(self, x: Tensor) -> Tensor:
        return (self.curvature * (x.flatten(1) - self.center).square()).sum(1) / 2

    def refined(self, x: Tensor, steps: int) -> Tensor:
        shrunk = (1 - STEP * self.curvature) ** steps * (x.flatten(1) - self.center)
        return (self.center + shrunk).view_as(x)

    def margin(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.slope

    def conditional(self, block: str, state: State) -> Conditional:
        assert "y" not in state, "the label must not be seen"
        f = self.margin(state["x"])
        return CategoricalConditional(torch.stack([-f, f], 1) / 2)


def _drawn(size: int = 6) -> Drawn:
    return Drawn(1 + 8 * torch.rand(size), torch.randn(size), torch.randn(size))


def _module(model: EnergyModel, noise: float = 0.0) -> EBM:
    return EBM(model, ContrastiveDivergence(), SGLD(STEP, noise=noise))


def _error(model: Drawn, x: Tensor, y: Tensor, steps: int) -> float:
    return 100 * float(((model.margin(model.refined(x, steps)) > 0).long() != y).double().mean())


@pytest.mark.parametrize("chains", [1, 3])
def test_the_refined_error_is_that_of_the_affine_map(chains: int) -> None:
    model, x, y = _drawn(), torch.randn(300, 1, 2, 3), torch.randint(0, 2, (300,))
    found = ClassificationError(refinement=Refinement(4, chains)).measure(_module(model), Examples(x, y, 2))
    errors = {name: measured.value for name, measured in found.measurements.items()}
    assert errors["test_error_after_4_steps_percent"] == pytest.approx(_error(model, x, y, 4))
    assert errors["test_error_percent"] == pytest.approx(_error(model, x, y, 0))
    assert _error(model, x, y, 4) != _error(model, x, y, 0)
    assert len(errors) == 3


def test_it_is_measured_with_the_noise_of_evaluation_and_without() -> None:
    model, data = _drawn(64), Digits(test_noise=0.5)
    found = ClassificationError(refinement=Refinement(2, 1)).measure(_module(model), data).measurements
    noisy, quiet = data.tensors("test"), Digits().tensors("test")
    for name, x in (("", noisy["x"]), ("_without_test_noise", quiet["x"])):
        expected = _error(model, x, noisy["y"], 2)
        assert found[f"test_error_after_2_steps{name}_percent"].value == pytest.approx(expected)
    assert found["test_error_percent"].value == pytest.approx(_error(model, noisy["x"], noisy["y"], 0))


def test_the_average_is_the_softmax_of_the_averaged_logits() -> None:
    """With noise alone the ends can be drawn again, and the logits of a linear classifier averaged by hand."""
    model = LinearClassifier(torch.randn(3, 4), torch.randn(3)).double()
    module = EBM(model, ContrastiveDivergence(), Langevin(0.01))
    state, refinement = {"x": torch.randn(5, 4).double(), "y": torch.arange(5) % 3}, Refinement(2, 7)
    torch.manual_seed(1)
    log_p = refinement.log_posterior(module, state, "y")
    torch.manual_seed(1)
    ends = [end["x"] for end in refinement.ends(module, state, "y")]
    assert len(ends) == 7
    assert len({float(end.sum()) for end in ends}) == 7
    logits = torch.stack([model.logits(end) for end in ends]).mean(0)
    torch.testing.assert_close(log_p, torch.log_softmax(logits, 1).detach())


@pytest.mark.parametrize("ball", [Linf([0.4], chance_radius=20.0), L2([0.8], chance_radius=40.0)])
def test_the_attack_passes_the_sampler_as_the_identity(ball: ThreatModel) -> None:
    """The gradient at the end points along the slope, whatever the sampler does to it on the way.

    So the ascent ends at x -+ radius ascent_direction(slope), though for L2 the sampler makes another point worse.
    """
    model, x, y = _drawn(), torch.randn(200, 1, 2, 3), torch.randint(0, 2, (200,))
    protocol, (radius,) = Robustness([ball], steps=8, restarts=1, refinement=Refinement(3, 2)), ball.radii
    sign = (2 * y - 1)[:, None].float()
    away = ball.ascent_direction(-sign * model.slope.expand(200, -1)).view_as(x)
    worst, wrong = protocol.attack(_module(model), {"x": x, "y": y}, ball, radius, None)
    torch.testing.assert_close(worst, x + radius * away, rtol=0, atol=1e-5)
    margins = sign[:, 0] * model.margin(model.refined(x + radius * away, 3))
    assert torch.equal(wrong, margins < 0)
    found = protocol.measure(_module(model), Examples(x, y, 2, (-100.0, 100.0))).measurements
    clean = sign[:, 0] * model.margin(model.refined(x, 3)) > 0
    survives = (clean & (margins > 0)).double().mean()
    assert found["accuracy_percent"].value == pytest.approx(100 * float(clean.double().mean()))
    assert found[f"accuracy_{snake_case(f'{ball.name} {radius:g}')}_percent"].value == pytest.approx(
        100 * float(survives)
    )
    assert not any(measured.warning for measured in found.values())


def test_without_steps_everything_is_as_without_a_refinement() -> None:
    model = LinearClassifier(torch.randn(3, 6), torch.randn(3))
    x, y = torch.randn(100, 6), torch.randint(0, 3, (100,))
    data, module = Examples(x, y, 3, (-5.0, 5.0)), EBM(model, ContrastiveDivergence())
    found = []
    for refinement in (None, Refinement(0, 4)):
        torch.manual_seed(2)
        balls: list[ThreatModel] = [Linf([0.2]), L2([0.3])]
        found.append(Robustness(balls, steps=5, restarts=3, refinement=refinement).measure(module, data).measurements)
    assert found[0] == found[1]
    state = {"x": x, "y": y}
    (end,) = Refinement(0, 4).ends(module, state, "y")
    assert end == {"x": x}
    errors = ClassificationError(refinement=Refinement(0, 4)).measure(module, data).measurements
    assert errors["test_error_after_0_steps_percent"].value == errors["test_error_percent"].value


def test_noise_in_front_of_a_linear_classifier_defends_nothing() -> None:
    """The averaged margin is normal around that of the point, of which chains average the noise away.

    The margins are wide enough that only the images within a few standard deviations of the radius are uncertain.
    """
    slope, radius, steps, chains, noise = torch.tensor([3.0, -1.0]), 0.5, 4, 8, 0.04
    model = Drawn(torch.zeros(2), torch.zeros(2), slope)
    spread, reach = noise * math.sqrt(steps / chains) * float(slope.norm()), radius * float(slope.abs().sum())
    y = torch.randint(0, 2, (2000,))
    margins = reach + 4 * spread * torch.randn(2000)
    x = ((2 * y - 1) * margins)[:, None] * slope / slope.square().sum()
    protocol = Robustness([Linf([radius], chance_radius=20.0)], steps=1, restarts=1, num_examples=2000)
    protocol.refinement = Refinement(steps, chains)
    found = protocol.measure(_module(model, noise), Examples(x, y, 2, (-100.0, 100.0))).measurements
    p = torch.distributions.Normal(0.0, spread).cdf(margins - reach).double()
    survivors = 20 * found["accuracy_linf_0_5_percent"].value
    assert abs(survivors - float(p.sum())) < Z * float((p * (1 - p)).sum().sqrt())
    assert found["accuracy_percent"].value == 100
    assert found["surviving_linf_20_percent"].value == 0


class Rippled(Drawn):
    """f(t) = t + 0.1 sin(50 t): a ripple that no average sees, and whose slope, up to 5, drowns the other one."""

    def margin(self, x: Tensor) -> Tensor:
        return x[:, 0] + 0.1 * torch.sin(50 * x[:, 0])


def test_the_average_over_chains_sees_through_noise_that_shatters_the_gradient() -> None:
    """Of one chain the slope 1 + 5 cos(50 t) has the wrong sign with probability arccos(0.2) / pi.

    Of 400 chains the mean of the slope is 1, with a standard error of 5 / sqrt(800).
    """
    module = _module(Rippled(torch.zeros(1), torch.zeros(1), torch.ones(1)), noise=0.3)
    state, ball = {"x": torch.ones(200, 1), "y": torch.ones(200, dtype=torch.int64)}, Linf([2.0])
    blind, seeing = (Robustness([ball], 1, 1, refinement=Refinement(1, chains)) for chains in (1, 400))
    assert seeing.attack(module, state, ball, 2.0, None)[1].all()
    survivors = int((~blind.attack(module, state, ball, 2.0, None)[1]).sum())
    law = stats.binom(200, math.acos(0.2) / math.pi)
    assert law.ppf(FALSE_ALARM) <= survivors <= law.isf(FALSE_ALARM)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Refinement(-1), "expected steps >= 0 and chains >= 1"),
        (lambda: Refinement(1, 0), "expected steps >= 0 and chains >= 1"),
        (lambda: list(Refinement(1).ends(EBM(_drawn(), ContrastiveDivergence()), {}, "y")), "has no sampler of x"),
        (
            lambda: list(
                Refinement(1).ends(EBM(_drawn(), ContrastiveDivergence(), SGLD(1, noise=0, free=("z",))), {}, "y")
            ),
            "has no sampler of x",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
