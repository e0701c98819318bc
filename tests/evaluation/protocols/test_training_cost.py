"""Costs and slopes that can be worked out by hand."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import linregress
from support.oracles import Examples, Linear

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains, SampleBuffer
from ebm_lightning.distributions import UniformNoise
from ebm_lightning.evaluation import LearningCurve, TrainingCost
from ebm_lightning.evaluation.protocols.training_cost import work
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import SGLD


def test_operations_are_those_of_the_matrix_products() -> None:
    """A product costs 2 B dim outputs. A step of SGLD takes two, W x and the gradient in x. In the comparison each
    phase takes W x and the gradient in W: 4, and none in x, which no step stands behind."""
    data = Examples(torch.rand(8, 6))
    module = EBM(Linear(6, 5), ContrastiveDivergence(), SGLD(0.1, noise=0.0), steps=3, chains=SampleBuffer(16))
    found = TrainingCost(repeats=2).measure(module, data).measurements
    product = 2 * 8 * 6 * 5 / 1e9
    assert found["gflop_per_step"].value == pytest.approx(product * (3 * 2 + 4))
    assert found["parameters"].value == 30
    assert found["examples_per_step"].value == 8
    assert 0 < found["ms_per_step"].value < 1000
    compiled = EBM(module.model, ContrastiveDivergence(), SGLD(0.1, noise=0.0), steps=3, compiled=True)
    assert work(compiled, {"x": torch.rand(8, 6)}).flop == pytest.approx(1e9 * found["gflop_per_step"].value)


def test_the_gradient_is_that_of_training_and_moves_no_chain() -> None:
    module = EBM(Linear(6, 5), ContrastiveDivergence(), SGLD(0.1, noise=0.0), steps=3, chains=SampleBuffer(16))
    batch = {"x": torch.rand(8, 6)}
    state = torch.get_rng_state()
    (found,) = module.gradient(batch)
    torch.set_rng_state(state)
    neg, _ = module.run_negative_chains(NoiseChains(UniformNoise()).start(batch, ("x",)), 3)
    loss = module.model.energy(batch).mean() - module.model.energy(neg).mean()
    torch.testing.assert_close(found, torch.autograd.grad(loss, module.model.layer.weight)[0])
    assert module.chains.state_dict() == {}


def _run(folder: Path, values: dict[int, float]) -> EBM:
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["time", "step", "name", "value"])
        rows.writerows([0, step - 1, "valid/loss", value] for step, value in values.items())
    return SimpleNamespace(trainer=SimpleNamespace(default_root_dir=str(folder)))


def test_a_power_law_has_its_exponent_as_slope(tmp_path: Path) -> None:
    values = {step: 3 * step**-0.25 for step in range(100, 1001, 100)} | {1: 50.0}
    found = LearningCurve(since=100).measure(_run(tmp_path, values), None).measurements
    slope = found["log_slope_valid_loss"]
    assert slope.value == pytest.approx(-0.25)
    assert slope.standard_error == pytest.approx(0, abs=1e-9)
    assert found["last_valid_loss"].value == pytest.approx(3 * 1000**-0.25)


def test_the_error_of_the_slope_is_that_of_the_regression(tmp_path: Path) -> None:
    steps = np.arange(1, 12)
    losses = np.exp(np.random.default_rng(0).normal(size=11))
    result = LearningCurve().measure(_run(tmp_path, dict(zip(steps.tolist(), losses.tolist(), strict=True))), None)
    expected = linregress(np.log(steps), np.log(losses))
    slope = result.measurements["log_slope_valid_loss"]
    assert slope.value == pytest.approx(expected.slope)
    assert slope.standard_error == pytest.approx(expected.stderr)
    assert result.pictures["curve"].size[0] > 100


@pytest.mark.parametrize("values", [{1: 2.0, 2: 1.0}, {1: 2.0, 2: 0.0, 3: 1.0}])
def test_too_little_for_a_slope_is_refused(tmp_path: Path, values: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="needs 3 or more positive values"):
        LearningCurve().measure(_run(tmp_path, values), None)
    with pytest.raises(ValueError, match="expected at least 1"):
        TrainingCost(repeats=0)
