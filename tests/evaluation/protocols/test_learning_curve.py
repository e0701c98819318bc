"""Slopes that can be worked out by hand."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import linregress

from ebm_lightning import EBM
from ebm_lightning.evaluation import LearningCurve, TrainingCost
from ebm_lightning.utils.plots import plot_curves


def _run(folder: Path, values: dict[int, float]) -> EBM:
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["time", "step", "name", "value"])
        rows.writerows([0, step - 1, "val/loss", value] for step, value in values.items())
    return SimpleNamespace(trainer=SimpleNamespace(default_root_dir=str(folder)))


def test_LearningCurve_a_power_law_has_its_exponent_as_slope(tmp_path: Path) -> None:
    values = {step: 3 * step**-0.25 for step in range(100, 1001, 100)} | {1: 50.0}
    found = LearningCurve(since=100).measure(_run(tmp_path, values), None).measurements
    slope = found["log_slope_val_loss"]
    assert slope.value == pytest.approx(-0.25)
    assert slope.standard_error == pytest.approx(0, abs=1e-9)
    assert found["last_val_loss"].value == pytest.approx(3 * 1000**-0.25)


def test_LearningCurve_the_error_of_the_slope_is_that_of_the_regression(tmp_path: Path) -> None:
    steps = np.arange(1, 12)
    losses = np.exp(np.random.default_rng(0).normal(size=11))
    result = LearningCurve().measure(_run(tmp_path, dict(zip(steps.tolist(), losses.tolist(), strict=True))), None)
    expected = linregress(np.log(steps), np.log(losses))
    slope = result.measurements["log_slope_val_loss"]
    assert slope.value == pytest.approx(expected.slope)
    assert slope.standard_error == pytest.approx(expected.stderr)
    x, fitted = torch.tensor(steps).double(), np.exp(expected.intercept) * steps**expected.slope
    lines = {name: (x, torch.tensor(y), None) for name, y in (("run", losses), ("power law", fitted))}
    drawn = plot_curves(lines, "steps", "val/loss", logarithmic=True)
    assert result.pictures["curve"].tobytes() == drawn.tobytes()


@pytest.mark.parametrize("values", [{1: 2.0, 2: 1.0}, {1: 2.0, 2: 0.0, 3: 1.0}])
def test_LearningCurve_refuses_too_little_for_a_slope(tmp_path: Path, values: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="needs 3 or more positive values"):
        LearningCurve().measure(_run(tmp_path, values), None)
    with pytest.raises(ValueError, match="expected at least 1"):
        TrainingCost(repeats=0)
