"""Balls of perturbations."""

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM

from ebm_lightning.evaluation import L2, Linf, ThreatModel


@pytest.mark.parametrize(("ball", "power"), [(Linf([1.0]), None), (L2([1.0]), 3)])
def test_Linf_and_L2_have_random_starts_uniform_in_the_ball(ball: ThreatModel, power: int | None) -> None:
    z = ball.random(torch.zeros(4000, 3), 2.0)
    draws = (z.flatten() + 2) / 4 if power is None else (z.norm(dim=1) / 2) ** power
    assert stats.kstest(draws.numpy(), "uniform").pvalue > FALSE_ALARM
