"""Langevin moves against their own law and the published loops, bit for bit."""

import pytest
import torch
from support.targets import Normal, Tilted, assert_normal, tilted_state

from ebm_lightning.core import energy_grad, run_chain
from ebm_lightning.samplers import MALA, SGLD, Langevin


def test_SGLD_backprop_of_the_last_step_is_that_of_a_loop_written_out() -> None:
    """SGLD in the order of JEM, two steps, the first detached."""
    model, state = Tilted(), tilted_state()
    torch.manual_seed(1)
    end, _ = run_chain(SGLD(0.1, noise=0.05), model, state, steps=2, backprop=1)
    (ours,) = torch.autograd.grad(end["x"].sum(), model.scale)
    torch.manual_seed(1)
    x = state["x"]
    for _ in range(2):
        x = x.detach() - 0.1 * (model.scale * x.detach() ** 3 + state["context"]) + 0.05 * torch.randn_like(x)
    (theirs,) = torch.autograd.grad(x.sum(), model.scale)
    assert torch.allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("noise_first", [True, False])
def test_sgld_is_the_published_loop_bit_for_bit(noise_first: bool) -> None:
    """IGEBM adds noise, then takes the clipped gradient there; JEM takes the gradient, then adds noise."""
    model, state = Tilted(), tilted_state(64)
    sampler = SGLD(0.5, noise=0.1, clip=0.3, bounds=(-1.0, 1.0), noise_first=noise_first)
    torch.manual_seed(1)
    end, info = run_chain(sampler, model, state, steps=5)
    torch.manual_seed(1)
    x, shares = state["x"], []
    for _ in range(5):
        if noise_first:
            x = x + 0.1 * torch.randn_like(x)
        x.requires_grad_()
        (grad,) = torch.autograd.grad(model(x, state["context"]).sum(), x)
        shares.append((grad.abs() > 0.3).double().mean())
        x = x.detach() - 0.5 * grad.clamp(-0.3, 0.3)
        if not noise_first:
            x = x + 0.1 * torch.randn_like(x)
        x = x.clamp(-1, 1)
    assert torch.equal(end["x"], x)
    assert 0 < info["clip_share"] < 1
    assert torch.equal(info["clip_share"], torch.stack(shares).mean())


@pytest.mark.parametrize(
    ("sampler", "temperature"),
    [
        (SGLD(10, noise=0.005, clip=0.01, bounds=(0, 1), noise_first=True), 1.25e-6),
        (SGLD(1, noise=0.01), 5e-5),
        (SGLD(1, noise=0, clip=1, bounds=(-1, 1)), 0),
        (SGLD(100, noise=0.001, bounds=(0, 1), noise_first=True), 5e-9),
    ],
)
def test_sgld_says_its_temperature(sampler: SGLD, temperature: float) -> None:
    assert sampler.temperature == pytest.approx(temperature)


def test_sgld_at_its_temperature_is_langevin() -> None:
    model, state = Tilted(), tilted_state()
    sgld = SGLD(0.1, noise=0.3)
    torch.manual_seed(1)
    decoupled, _ = run_chain(sgld, model, state, steps=3)
    torch.manual_seed(1)
    coupled, _ = run_chain(Langevin(0.1, temperature=sgld.temperature), model, state, steps=3)
    assert torch.allclose(decoupled["x"], coupled["x"], rtol=1e-13)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_unadjusted_langevin_has_its_own_law(temperature: float) -> None:
    """On N(0, 1) with step s the variance is T / (1 - s/2): at s = 1/2 it exceeds the target's by a third."""
    step = 0.5
    end, _ = run_chain(Langevin(step, temperature=temperature), Normal(), {"x": torch.randn(100_000, 1)}, steps=30)
    assert_normal(end["x"], 0, temperature / (1 - step / 2))


def test_MALA_info_speaks_of_where_a_step_ends() -> None:
    model, state = Tilted(), tilted_state()
    end, info = MALA(0.3).step(model, state)
    moved = (end["x"] != state["x"]).flatten(1).any(1)
    assert torch.allclose(info["energy"], model.energy(end).mean())
    assert torch.allclose(info["accept"], moved.double().mean())
    grad, _ = energy_grad(model, state, "x")
    assert torch.allclose(info["grad_norm"], grad.flatten(1).norm(dim=1).mean())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Langevin(0.0), r"Langevin\(step_size=0.0, temperature=1.0\): expected step_size > 0"),
        (lambda: Langevin(0.1, temperature=-1.0), "temperature >= 0"),
        (lambda: Langevin(0.1, free=("x", "y")), r"Langevin\(free=\('x', 'y'\)\) moves exactly one variable"),
        (lambda: SGLD(0.1, noise=-0.1), "noise >= 0"),
        (lambda: SGLD(0.1, noise=0.1, clip=0.0), r"SGLD\(clip=0.0\): expected a number > 0"),
        (lambda: SGLD(0.1, noise=0.1, bounds=(1.0, -1.0)), "low < high"),
        (lambda: MALA(-1.0), r"MALA\(step_size=-1.0\)"),
        (
            lambda: Langevin(0.1).step(Tilted(), {"y": torch.zeros(1, 1)}),
            "'x' is to be moved or scored, but Tilted is an energy over",
        ),
        (lambda: MALA(0.1, free=("y",)).step(Tilted(), {"y": torch.zeros(1, 1)}), "the state holds"),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
