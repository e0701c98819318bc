"""Descent against the closed form of its chain on a quadratic energy, and of the chain's derivatives."""

import math

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM
from support.targets import Bowl
from torch import Tensor, nn

from ebm_lightning import EBM
from ebm_lightning.chains import SampleBuffer
from ebm_lightning.core import EnergyModel, State, Terms, run_chain
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import Descent
from ebm_lightning.training.optim import SamplerParamGroup
from ebm_lightning.training.schedules import Linear, ScheduledLR

F64 = torch.float64


class Slope(EnergyModel):
    """E(y) = slope . y: the same gradient everywhere."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, y: Tensor) -> Tensor:
        return (self.slope * y).flatten(1).sum(1)


def _state(n: int = 5) -> State:
    return {"x": torch.randn(n, 3, dtype=F64), "y": torch.randn(n, 3, dtype=F64)}


def _learned(**settings: object) -> Descent:
    return Descent(0.3, learned=True, **settings).double()


def test_the_walk_and_its_derivatives_are_the_closed_form() -> None:
    """With r = 1 - alpha a: dy_k/da = -alpha k r^(k-1) (y_0 - x), dy_k/dalpha = -a k r^(k-1) (y_0 - x)."""
    model, sampler, state, k = Bowl(), _learned(), _state(), 3
    end, info = run_chain(sampler, model, state, steps=k, backprop=k)
    a, alpha, apart = 0.7, sampler.alpha.item(), state["y"] - state["x"]
    r = 1 - alpha * a
    torch.testing.assert_close(end["y"], state["x"] + r**k * apart)
    error = end["y"].square().sum() / 2
    of_a, of_alpha = torch.autograd.grad(error, [model.a, sampler.alpha])
    slope = (end["y"].detach() * apart).sum() * k * r ** (k - 1)
    torch.testing.assert_close(of_a, -alpha * slope)
    torch.testing.assert_close(of_alpha, -a * slope)
    energies = torch.stack([a * (r**i * apart).square().sum(1) / 2 for i in range(k)])
    norms = torch.stack([a * (r**i * apart).norm(dim=1) for i in range(k)])
    torch.testing.assert_close(info["energy"], energies.mean())
    torch.testing.assert_close(info["grad_norm"], norms.mean())
    torch.testing.assert_close(info["alpha"], sampler.alpha.detach())


def test_detached_steps_are_judged_one_by_one() -> None:
    """dy_k/da = -alpha (y_(k-1) - x) and dy_k/dalpha = -a (y_(k-1) - x): nothing flows through earlier steps."""
    model, sampler, state, k = Bowl(), _learned(detach=True, return_trajectory=True), _state(), 3
    end, _ = run_chain(sampler, model, sampler.augment_state(state), steps=k, backprop=k)
    a, alpha, apart = 0.7, sampler.alpha.item(), state["y"] - state["x"]
    r = 1 - alpha * a
    path = torch.stack([state["x"] + r**i * apart for i in range(1, k + 1)], 1)
    torch.testing.assert_close(end["y.trajectory"], path)
    assert torch.equal(end["y"], end["y.trajectory"][:, -1])
    torch.testing.assert_close(
        end["y.energies"], torch.stack([a * (r**i * apart).square().sum(1) / 2 for i in range(k)], 1)
    )
    of_a, of_alpha = torch.autograd.grad(end["y.trajectory"].square().sum() / 2, [model.a, sampler.alpha])
    slope = sum((path[:, i] * r**i * apart).sum() for i in range(k))
    torch.testing.assert_close(of_a, -alpha * slope)
    torch.testing.assert_close(of_alpha, -a * slope)


def test_one_differentiable_step_after_others_leaves_the_others_out() -> None:
    model, sampler, state = Bowl(), _learned(), _state()
    end, _ = run_chain(sampler, model, state, steps=3, backprop=1)
    (ours,) = torch.autograd.grad(end["y"].sum(), model.a)
    alpha = sampler.alpha.item()
    torch.testing.assert_close(ours, -alpha * (1 - alpha * 0.7) ** 2 * (state["y"] - state["x"]).sum())


def test_the_energy_sees_a_distribution_and_the_step_starts_from_it() -> None:
    slope, y = torch.randn(3, dtype=F64), torch.randn(4, 2, 3, dtype=F64)
    sampler = Descent(0.25, softmax=True)
    end, info = run_chain(sampler, Slope(slope), {"y": y}, steps=2)
    p = y.softmax(-1)
    q = (p - 0.25 * slope).softmax(-1)
    torch.testing.assert_close(end["y"], q - 0.25 * slope)
    torch.testing.assert_close(info["energy"], ((p + q) * slope).sum((1, 2)).mean() / 2)


def test_a_clipped_element_moves_by_the_clip_whatever_alpha_is() -> None:
    slope = torch.tensor([0.1, -3.0, 5.0], dtype=F64)
    sampler, y = _learned(clip=0.6), torch.zeros(2, 3, dtype=F64)
    end, info = run_chain(sampler, Slope(slope), {"y": y}, steps=1, backprop=1)
    torch.testing.assert_close(end["y"], torch.tensor([-0.03, 0.6, -0.6], dtype=F64).expand(2, 3), rtol=1e-6, atol=0)
    (of_alpha,) = torch.autograd.grad(end["y"].sum(), sampler.alpha)
    torch.testing.assert_close(of_alpha, torch.tensor(-0.2, dtype=F64))
    assert info["clip_share"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("axes", [1, 2])
def test_step_sizes_spread_uniformly_over_the_leading_axes_in_train_mode_alone(axes: int) -> None:
    shape = (2000, 3, 2) if axes == 1 else (50, 40, 2)
    y, sampler = torch.zeros(*shape, dtype=F64), Descent(0.5, step_size_jitter=2.0, step_size_jitter_axes=axes)
    steps = -sampler.step(Slope(torch.ones(2, dtype=F64)), {"y": y})[0]["y"]
    own = steps.flatten(0, axes - 1).flatten(1)
    assert own.eq(own[:, :1]).all()
    assert stats.kstest(own[:, 0].numpy(), stats.uniform(0.25, 0.75).cdf).pvalue > FALSE_ALARM
    still = sampler.eval().step(Slope(torch.ones(2, dtype=F64)), {"y": y})[0]["y"]
    assert still.eq(-0.5).all()


def test_the_noise_has_its_standard_deviation() -> None:
    y = torch.zeros(20_000, 1, dtype=F64)
    end, _ = run_chain(Descent(1.0, noise=3.0), Slope(torch.zeros(1, dtype=F64)), {"y": y}, steps=1)
    assert stats.kstest(end["y"][:, 0].numpy(), stats.norm(0, 3).cdf).pvalue > FALSE_ALARM


def test_a_learned_step_size_stays_positive() -> None:
    sampler = _learned()
    with torch.no_grad():
        sampler.alpha.fill_(-1.0)
    end, info = run_chain(sampler, Slope(torch.ones(1, dtype=F64)), {"y": torch.zeros(1, 1, dtype=F64)}, steps=1)
    assert end["y"].item() == pytest.approx(-1e-4)
    assert info["alpha"] == pytest.approx(1e-4)


def test_the_number_of_the_step_is_counted_where_it_rides_along() -> None:
    state = _state()
    start = {**state, "descent.step": torch.zeros(5, dtype=torch.int64)}
    end, _ = run_chain(Descent(0.1), Bowl(), start, steps=3)
    assert end["descent.step"].eq(3).all()
    assert end["x"] is state["x"]
    assert "descent.step" not in run_chain(Descent(0.1), Bowl(), state, steps=1)[0]


class Reached(ContrastiveDivergence):
    """The mean square of the end."""

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        assert neg is not None
        return {"loss": neg["y"].square().mean()}


@pytest.mark.parametrize("learned", [True, False])
def test_a_learned_step_size_has_its_own_learning_rate_and_no_weight_decay(learned: bool) -> None:
    module = EBM(
        Bowl(),
        Reached(),
        Descent(2.0, learned=learned),
        sampler_param_group=SamplerParamGroup(lr_multiplier=30.0),
        backprop=1,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.5),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5),
    )
    optimizer = module.configure_optimizers()["optimizer"]
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == 1 + learned
    assert groups[id(module.model.a)]["lr"] == pytest.approx(0.005)
    assert learned == isinstance(module.sampler.alpha, nn.Parameter)
    if learned:
        own = groups[id(module.sampler.alpha)]
        assert own["lr"] == pytest.approx(0.15)
        assert own["weight_decay"] == 0
        module.training_step(_state(), 0)["loss"].backward()
        before = module.sampler.alpha.item()
        optimizer.step()
        assert abs(module.sampler.alpha.item() - before) == pytest.approx(0.15, rel=1e-5)
        assert "sampler.alpha" in module.state_dict()


def test_a_learned_step_size_keeps_its_floor_when_a_run_goes_on() -> None:
    """The rate of the weights falls to 0 in 8 steps, that of alpha to a quarter of its own."""

    def made() -> tuple[EBM, torch.optim.Optimizer, ScheduledLR]:
        module = EBM(
            Bowl(),
            Reached(),
            Descent(2.0, learned=True),
            sampler_param_group=SamplerParamGroup(lr_multiplier=30.0, min_lr_ratio=0.25),
            backprop=1,
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.5),
            scheduler=lambda optimizer: ScheduledLR(optimizer, Linear(1.0, 0.0, 8)),
        )
        found = module.configure_optimizers()
        return module, found["optimizer"], found["lr_scheduler"]["scheduler"]

    module, optimizer, scheduler = made()
    for step in range(10):
        if step == 5:
            halted = optimizer.state_dict(), scheduler.state_dict()
            module, optimizer, scheduler = made()
            optimizer.load_state_dict(halted[0])
            scheduler.load_state_dict(halted[1])
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        share = max(1 - step / 8, 0)
        assert rates[id(module.model.a)] == pytest.approx(0.01 * share)
        assert rates[id(module.sampler.alpha)] == pytest.approx(0.3 * max(share, 0.25))
        optimizer.step()
        scheduler.step()


def test_chains_of_a_buffer_keep_the_variable_and_not_the_path() -> None:
    buffer, sampler = SampleBuffer(8), Descent(0.1, return_trajectory=True)
    for _ in range(2):
        start = buffer.start(sampler.augment_state(_state()), sampler.free)
        assert start["y.trajectory"].shape == (5, 0, 3)
        end, _ = run_chain(sampler, Bowl(), start, steps=2)
        assert end["y.trajectory"].shape == (5, 2, 3)
        buffer.finish(end)
    assert set(buffer.store) == {"y"}


@pytest.mark.parametrize(
    "settings",
    [
        {"step_size": 0.0},
        {"step_size": math.nan},
        {"noise": -1.0},
        {"clip": 0.0},
        {"step_size_jitter": 0.5},
        {"step_size_jitter_axes": 0},
        {"free": ("x", "y")},
    ],
)
def test_bad_arguments(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"expected|name one"):
        Descent(**{"step_size": 1.0, **settings})


@pytest.mark.parametrize(
    "settings", [{"lr_multiplier": 0.0}, {"min_lr_ratio": -0.1}, {"min_lr_ratio": 1.5}, {"min_lr_ratio": math.nan}]
)
def test_bad_settings_of_a_parameter_group_are_refused_by_SamplerParamGroup(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"expected lr_multiplier > 0 and min_lr_ratio in \[0, 1\]"):
        SamplerParamGroup(**settings)
