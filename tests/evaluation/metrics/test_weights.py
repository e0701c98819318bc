"""Estimates from log-weights: their interval by hand, and the alarms that they raise."""

import math

import pytest
import torch

from ebm_lightning.evaluation.metrics import LogPartition


def test_LogPartition_interval_is_three_standard_deviations_of_the_mean_of_w() -> None:
    """By hand, for weights that may be exponentiated; shifted by a thousand nats, for some that may not."""
    log_w = torch.tensor([0.3, -0.2, 0.9, 0.1, -0.5, 0.4, 0.0, 0.2], dtype=torch.float64)
    w = [math.exp(value) for value in log_w.tolist()]
    mean = sum(w) / 8
    error = math.sqrt(sum((one - mean) ** 2 for one in w) / 7 / 8)
    for shift in (0.0, 1000.0, -1000.0):
        found = LogPartition.from_weights(5.0, log_w + shift)
        expected = [5.0 + shift + math.log(mean + k * error) for k in (0, -3, 3)]
        assert [found.log_z, found.low, found.high] == pytest.approx(expected, abs=1e-9)
        assert found.ess == pytest.approx(sum(w) ** 2 / sum(one**2 for one in w))
        assert found.log_weight_std == pytest.approx(float(log_w.std()))
        assert found.standard_error == pytest.approx(error / mean)
    skewed = LogPartition.from_weights(0.0, torch.tensor([0.0, 0.0, 9.0]))
    assert skewed.low == -math.inf < skewed.log_z < skewed.high < math.inf


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"log_weight_std": 1.51}, "log w has a standard deviation of 1.51 nats, more than 1.5"),
        ({"ess": 9.9}, "the effective sample size of 100 chains is 9.9, less than 10"),
        ({"low": -math.inf}, "no lower end"),
        ({"log_weight_std": math.nan}, "standard deviation of nan nats"),
        ({"low": math.nan}, "no lower end"),
    ],
)
def test_LogPartition_alarms_ring_by_themselves_and_not_in_a_healthy_estimate(
    change: dict[str, float], words: str
) -> None:
    healthy = {"log_z": 10.0, "low": 9.8, "high": 10.2, "log_weight_std": 1.49, "ess": 10.1, "chains": 100}
    assert LogPartition(**healthy).warning == ""
    warning = LogPartition(**{**healthy, **change}).warning
    assert words in warning
    assert "log Z is unreliable" in warning
    assert "\n" not in warning
    assert len([alarm for alarm in ("deviation of", "effective sample size", "no lower end") if alarm in warning]) == 1
