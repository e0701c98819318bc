"""Schedules, and what an optimizer does with them."""

import math

import pytest
import torch
from support.oracles import assert_counts
from torch import nn

from ebm_lightning import EBM, Trainer
from ebm_lightning.core import EnergyModel, Sampler, State
from ebm_lightning.data import BarsAndStripes
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.training.module import exclude_biases_from_weight_decay
from ebm_lightning.training.schedules import (
    Cosine,
    Inverse,
    Linear,
    Milestones,
    Piecewise,
    RandomSteps,
    ScheduledLR,
    StepIncrease,
    WarmUp,
)


def test_Linear_StepIncrease_Inverse_Piecewise_Milestones_Cosine_and_WarmUp_give_these_numbers() -> None:
    assert [Linear(1.0, 0.0, 4)(step) for step in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [StepIncrease(1, 3, 2)(step) for step in range(8)] == [1, 1, 2, 2, 3, 3, 3, 3]
    assert [Inverse(StepIncrease(1, 2, 2))(step) for step in range(4)] == [1, 1, 0.5, 0.5]
    assert [Piecewise(0.5, 0.9, 2)(step) for step in range(4)] == [0.5, 0.5, 0.9, 0.9]
    assert [Milestones((2, 3), 0.5)(step) for step in range(5)] == [1, 1, 0.5, 0.25, 0.25]
    assert [Cosine(2, 0.1)(step) for step in range(4)] == pytest.approx([1, 0.55, 0.1, 0.1])
    assert [WarmUp(2)(step) for step in range(4)] == [0, 0.5, 1, 1]
    assert [WarmUp(4, Milestones((3,), 0.5))(step) for step in range(6)] == [0, 0.25, 0.5, 0.375, 0.5, 0.5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(1, 0, 0),
        lambda: WarmUp(0),
        lambda: Cosine(0),
        lambda: StepIncrease(1, 3, 0),
        lambda: StepIncrease(3, 1, 5),
        lambda: RandomSteps(0, 3),
        lambda: RandomSteps(3, 2),
    ],
)
def test_bad_arguments(make) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


def test_RandomSteps_are_uniform_and_the_same_for_everyone() -> None:
    schedule = RandomSteps(2, 4)
    numbers = torch.tensor([schedule(step) for step in range(6000)]).long()
    assert_counts(numbers.bincount(minlength=5)[2:], torch.full((3,), 1 / 3))
    torch.manual_seed(5)
    assert [RandomSteps(2, 4)(step) for step in range(5990, 6000)] == numbers[-10:].tolist()
    assert [RandomSteps(2, 4, seed=1)(step) for step in range(6000)] != numbers.tolist()


def test_ScheduledLR_keeps_momentum_outside_the_learning_rate() -> None:
    """Under a constant gradient g the step tends to lr g / (1 - momentum)."""
    weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = ScheduledLR(optimizer, factor=Linear(1.0, 1.0, 1), momentum=Piecewise(0.5, 0.9, 50))
    steps = []
    for _ in range(300):
        before = weight.item()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        scheduler.step()
        steps.append(before - weight.item())
    assert steps[45] == pytest.approx(0.1 / (1 - 0.5) * (1 - 0.5**46), rel=1e-12)
    assert steps[-1] == pytest.approx(0.1 / (1 - 0.9), rel=0.9**240)


def test_ScheduledLR_follows_and_a_continued_schedule_goes_on() -> None:
    def made() -> tuple[torch.optim.Optimizer, ScheduledLR]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.5)
        return optimizer, ScheduledLR(optimizer, factor=Linear(1.0, 0.0, 10))

    optimizer, scheduler = made()
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5 * (1 - step / 10) for step in range(10)])
    optimizer, first = made()
    for _ in range(4):
        optimizer.step()
        first.step()
    other, second = made()
    second.load_state_dict(first.state_dict())
    other.load_state_dict(optimizer.state_dict())
    other.step()
    second.step()
    assert other.param_groups[0]["lr"] == pytest.approx(rates[5])


def _cosine(step: int) -> float:
    return 0.1 + 0.9 * (1 + math.cos(math.pi * step / 10)) / 2


@pytest.mark.parametrize(
    ("factor", "free", "held"),
    [
        (None, lambda t: 1, lambda t: 1),
        (Linear(1.0, 0.0, 10), lambda t: 1 - t / 10, lambda t: max(1 - t / 10, 0.4)),
        (WarmUp(4), lambda t: min(t / 4, 1), lambda t: min(t / 4, 1)),
        (
            WarmUp(4, Cosine(10, 0.1)),
            lambda t: min(t / 4, 1) * _cosine(t),
            lambda t: min(t / 4, 1) * max(_cosine(t), 0.4),
        ),
    ],
)
def test_ScheduledLR_floor_holds_the_rate_of_its_group_and_lifts_no_warm_up(factor, free, held) -> None:
    first, second = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([{"params": first}, {"params": second, "lr": 2.0, "min_lr_ratio": 0.4}], lr=0.5)
    scheduler = ScheduledLR(optimizer, factor)
    for step in range(11):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.5 * free(step), 2.0 * held(step)])
        optimizer.step()
        scheduler.step()


def test_ScheduledLR_refuses_an_optimizer_without_momentum() -> None:
    with pytest.raises(ValueError, match="Adam has no momentum"):
        ScheduledLR(torch.optim.Adam([nn.Parameter(torch.zeros(()))]), momentum=Piecewise(0.5, 0.9, 2))


def test_weight_decay_spares_biases() -> None:
    model = RBM({"x": Bernoulli([4])}, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.25)
    exclude_biases_from_weight_decay(optimizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert model.weight.eq(0.75).all()
    assert model.hidden_bias.eq(1).all()
    assert model.units("x").bias.eq(1).all()


class Counting(Sampler):
    """Moves nothing and counts its transitions."""

    free = ("x",)

    def __init__(self) -> None:
        self.count = 0

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, State]:
        self.count += 1
        return {**state}, {}


def test_cd_k_grows_with_its_schedule() -> None:
    sampler = Counting()
    module = EBM(
        RBM({"x": Bernoulli([1, 2, 2])}, 2),
        ContrastiveDivergence(),
        sampler,
        steps=StepIncrease(first=1, last=3, every=2),
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=6, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)
    trainer.fit(module, BarsAndStripes(2, batch_size=4, samples=60))
    assert sampler.count == 1 + 1 + 2 + 2 + 3 + 3
