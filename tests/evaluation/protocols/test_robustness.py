"""Attacks on linear classifiers, whose worst case is known: margin - radius times the dual norm of the weights."""

import pytest
import torch
from scipy import stats
from support.measured import module_of
from support.oracles import FALSE_ALARM, Examples, LinearClassifier, perturbed
from torch import Tensor, nn

from ebm_lightning.core import Conditional, EnergyModel, State
from ebm_lightning.distributions import CategoricalConditional
from ebm_lightning.energies import RBM, DeepEnergy
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax
from ebm_lightning.energies.networks import MLP
from ebm_lightning.evaluation import L2, Linf, Robustness, ThreatModel
from ebm_lightning.evaluation.protocol import snake_case

WIDE = (-100.0, 100.0)


def _problem(n: int, shape: tuple[int, ...] = (1, 2, 3)) -> tuple[LinearClassifier, Tensor, Tensor]:
    """A classifier of two classes, points, and their labels, of which one in four is wrong."""
    model = LinearClassifier(torch.randn(2, 6), torch.randn(2)).double()
    x = torch.randn(n, *shape, dtype=torch.float64)
    return model, x, (model.logits(x).argmax(1) + (torch.arange(n) % 4 == 0)) % 2


def _margins(model: LinearClassifier, x: Tensor, y: Tensor) -> Tensor:
    f = model.logits(x).detach()
    return (f.gather(1, y[:, None]) - f.gather(1, 1 - y[:, None])).flatten()


@pytest.mark.parametrize(("ball", "dual"), [(Linf, 1), (L2, 2)])
@pytest.mark.parametrize("restarts", [1, 3])
def test_accuracy_is_the_share_of_margins_beyond_the_radius_times_the_dual_norm(ball, dual: int, restarts: int) -> None:
    model, x, y = _problem(200)
    radii = [0.5, 0.05, 0.2]
    protocol = Robustness([ball(radii, chance_radius=50.0)], steps=20, restarts=restarts)
    found = protocol.measure(module_of(model), Examples(x, y, 2, WIDE)).measurements
    margins, slope = _margins(model, x, y), (model.weight[0] - model.weight[1]).norm(p=dual).detach()
    for radius in radii:
        expected = float((margins > radius * slope).double().mean())
        measured = found[f"accuracy_{snake_case(f'{ball.name} {radius:g}')}_percent"]
        assert measured.value == pytest.approx(100 * expected)
        assert measured.standard_error == pytest.approx(100 * (expected * (1 - expected) / 200) ** 0.5)
        assert 0 < expected < 0.75
    assert found["accuracy_percent"].value == pytest.approx(75)
    assert found[f"surviving_{ball.name.lower()}_50_percent"].value == 0
    assert not any(m.warning for m in found.values())


@pytest.mark.parametrize(("ball", "dual"), [(Linf([0.3]), 1), (L2([0.3]), 2)])
def test_the_worst_point_has_the_largest_loss_in_the_ball(ball: ThreatModel, dual: int) -> None:
    """Which is log(1 + exp(-(margin - radius |w|_dual))) for two classes."""
    model, x, y = _problem(50)
    worst, wrong = Robustness([ball], steps=20, restarts=2).attack(module_of(model), {"x": x, "y": y}, ball, 0.3, WIDE)
    lowest = _margins(model, x, y) - 0.3 * (model.weight[0] - model.weight[1]).norm(p=dual).detach()
    assert torch.allclose(_margins(model, worst, y), lowest)
    assert torch.equal(wrong, lowest < 0)
    assert torch.allclose(ball.project(worst - x, 0.3), worst - x)


def test_the_bounds_hold_but_an_image_beyond_them_is_not_moved_by_more_than_the_radius() -> None:
    model, x, y = _problem(50)
    for ball in (Linf([0.3]), L2([0.3])):
        worst, _ = Robustness([ball], steps=7).attack(module_of(model), {"x": x, "y": y}, ball, 0.3, (-1.0, 1.0))
        assert bool((worst <= x.clamp(min=1)).all())
        assert bool((worst >= x.clamp(max=-1)).all())
        assert torch.allclose(ball.project(worst - x, 0.3), worst - x)
        assert float((worst - x).abs().max()) > 0.1


class Jump(EnergyModel):
    """p(y | x) that jumps at x = 0 and is flat everywhere else: its gradient says nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1).sum(1)

    def conditional(self, block: str, state: State) -> Conditional:
        x = state["x"].flatten(1)[:, 0]
        f = x.sign() + 0 * x
        return CategoricalConditional(torch.stack([-f, f], 1))


def test_an_attack_that_finds_nothing_where_it_must_says_so() -> None:
    x = torch.cat([torch.rand(30, 1, 2, 2) + 1, -torch.rand(30, 1, 2, 2) - 1])
    y = (x[:, 0, 0, 0] > 0).long()
    protocol = Robustness([Linf([0.1]), L2([0.1])], steps=5, restarts=1)
    result = protocol.measure(module_of(Jump()), Examples(x, y, 2, (-2.0, 2.0)))
    found = result.measurements
    for name in ("accuracy_linf_0_1_percent", "surviving_linf_4_percent", "surviving_l2_8_percent"):
        assert "100 percent of the images survive" in found[name].warning
    assert not found["accuracy_percent"].warning
    assert result.pictures.keys() == {"Linf", "L2", "Linf-adversarial", "L2-adversarial"}


def test_random_restarts_find_what_an_ascent_from_the_image_does_not() -> None:
    """Within the radius the jump is reached from some starts only, and one wrong point is enough."""
    x = torch.full((40, 1, 1, 1), 0.5)
    ball, state = Linf([0.6]), {"x": x, "y": torch.ones(40, dtype=torch.int64)}
    assert not Robustness([ball], restarts=1).attack(module_of(Jump()), state, ball, 0.6, None)[1].any()
    worst, wrong = Robustness([ball], restarts=200, steps=1).attack(module_of(Jump()), state, ball, 0.6, None)
    assert wrong.all()
    assert bool((worst <= 0).all()), "the point that was classified wrongly must be kept"


@pytest.mark.parametrize("ball", [Linf, L2])
def test_where_nothing_survives_larger_radii_are_zero_too(ball) -> None:
    model, x, y = _problem(10)
    found = Robustness([ball([30.0, 40.0])], steps=3).measure(module_of(model), Examples(x, y, 2, WIDE)).measurements
    assert found[f"accuracy_{ball.name.lower()}_30_percent"].value == 0
    assert found[f"accuracy_{ball.name.lower()}_40_percent"].value == 0


def test_the_images_are_a_random_subset() -> None:
    model, x, y = _problem(100)
    y = model.logits(x).argmax(1)
    y[:50] = 1 - y[:50]
    found = Robustness([Linf([0.1])], steps=1, restarts=1, num_examples=60).measure(
        module_of(model), Examples(x, y, 2, WIDE)
    )
    clean = found.measurements["accuracy_percent"].value
    law = stats.hypergeom(100, 50, 60)
    assert law.ppf(FALSE_ALARM) <= round(0.6 * clean) <= law.isf(FALSE_ALARM)
    assert clean > 0


def test_a_classification_rbm_can_be_attacked_and_keeps_no_gradient() -> None:
    model = perturbed(RBM({"x": Bernoulli([4]), "y": Softmax(2)}, 3, weight_std=1.0))
    x, y = torch.randint(0, 2, (20, 4)).double(), torch.randint(0, 2, (20,))
    found = Robustness([Linf([0.2])], steps=5, restarts=1).measure(module_of(model), Examples(x, y, 2, (0.0, 1.0)))
    values = [m.value for m in found.measurements.values()]
    assert values == sorted(values, reverse=True)
    assert all(parameter.grad is None for parameter in model.parameters())


class Blind(Jump):
    """p(y | x) that does not depend on x."""

    def conditional(self, block: str, state: State) -> Conditional:
        return CategoricalConditional(torch.zeros(len(state["x"]), 2))


X, Y = torch.randn(8, 4), torch.arange(8) % 2


def _attack(model: nn.Module, data: Examples, certain: float | None = 9.0):
    return Robustness([Linf([0.1], certain)], steps=1).measure(module_of(model), data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Robustness([]), "expected one or more threat models"),
        (lambda: Robustness([L2([1.0]), L2([2.0])]), "each of another norm"),
        (lambda: Robustness([L2([1.0])], steps=0), "expected steps >= 1"),
        (lambda: Linf([]), "expected at least one radius"),
        (lambda: L2([0.1, 0.0]), "all > 0"),
        (lambda: L2([0.1], chance_radius=-1.0), "all > 0"),
        (lambda: _attack(Blind(), Examples(X)), "needs labels 'y', but Examples has only"),
        (lambda: _attack(Blind(), Examples(X, Y, 2)), "Blind does not depend on x differentiably"),
        (
            lambda: _attack(Jump(), Examples(X, Y, 2), None),
            "Examples has no bounds .* give Linf its `chance_radius`",
        ),
        (lambda: _attack(Jump(), Examples(X, Y + 1, 3)), "the model has 2 classes, expected labels 0..1"),
        (
            lambda: _attack(DeepEnergy(MLP(4, [2])), Examples(X, Y, 2)),
            "DeepEnergy is not GibbsSampleable, it has no conditional",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
