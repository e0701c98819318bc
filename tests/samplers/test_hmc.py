"""The leapfrog against the harmonic oscillator, backwards, and in the order of its error."""

import itertools
import math

import pytest
import torch
from support.targets import Normal, Tilted, tilted_state

from ebm_lightning.core import energy_grad
from ebm_lightning.samplers import HMC
from ebm_lightning.samplers.hmc import velocity_verlet

F64 = torch.float64


def test_the_leapfrog_error_falls_by_four_when_the_step_halves() -> None:
    """On the harmonic oscillator x(t) = x cos t + p sin t; over a fixed time the error is O(step^2).

    A step turns by the angle a with cos a = 1 - step^2 / 2, on the ellipse x^2 (1 - step^2 / 4) + p^2.
    """
    model, x, p = Normal(), torch.randn(8, 3, dtype=F64), torch.randn(8, 3, dtype=F64)
    errors = []
    for steps in (20, 40, 80):
        end, *_ = velocity_verlet(model, {"x": x}, "x", p, x, 1.0 / steps, steps)
        turn = steps * math.acos(1 - 1 / (2 * steps**2))
        exact = x * math.cos(turn) + p * math.sin(turn) / math.sqrt(1 - 1 / (4 * steps**2))
        torch.testing.assert_close(end, exact, rtol=1e-12, atol=1e-12)
        errors.append((end - (x * math.cos(1) + p * math.sin(1))).detach().norm())
    for coarse, fine in itertools.pairwise(errors):
        assert float(coarse / fine) == pytest.approx(4, rel=1 / 20**2)  # the next term is smaller by step^2


def test_the_leapfrog_runs_backwards_and_nearly_keeps_the_energy() -> None:
    model, state = Tilted(), tilted_state()
    p = torch.randn_like(state["x"])
    grad, energy = energy_grad(model, state, "x")
    x, q, slope, end_energy = velocity_verlet(model, state, "x", p, grad, 0.01, 50)
    assert torch.allclose(end_energy, model.energy({**state, "x": x}))
    drifts = []
    for step in (
        0.02,
        0.01,
    ):  # what is left of an error of step^2 is of step^4
        _, end, _, reached = velocity_verlet(model, state, "x", p, grad, step, round(0.5 / step))
        drifts.append(reached + end.square().flatten(1).sum(1) / 2 - energy - p.square().flatten(1).sum(1) / 2)
    assert round(math.log2(float((drifts[0].norm() / drifts[1].norm()).detach()))) == 2
    assert bool((4 * drifts[1] - drifts[0]).norm() / 3 < 0.02 * drifts[0].norm())
    back, momentum, *_ = velocity_verlet(model, {**state, "x": x}, "x", -q, slope, 0.01, 50)
    assert torch.allclose(back, state["x"], rtol=1e-10)
    assert torch.allclose(momentum, -p, rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HMC(0.1, leapfrog=0), "leapfrog >= 1"),
        (lambda: HMC(0.1, free=()), "moves exactly one variable"),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
