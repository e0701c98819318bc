"""The two-sample statistic of independent pixels, of an untrained model and of held-out data."""

import math

import pytest
import torch
from scipy import stats
from support.measured import TrainAndTest, sampled_module
from support.oracles import FALSE_ALARM
from torch import Tensor

from ebm_lightning.energies import Gaussian
from ebm_lightning.evaluation import MMD
from ebm_lightning.evaluation.metrics.mmd import median_bandwidth, mmd2
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.training.module import EBM


def _mmd2(means: tuple[Tensor, Tensor], covariances: tuple[Tensor, Tensor], bandwidth: float) -> float:
    """MMD^2 of two normal laws under a Gaussian kernel of bandwidth h.

    E k(x, y) = det(I + (S + T) / h^2)^(-1/2) exp(-d^T (h^2 I + S + T)^-1 d / 2), d the difference of the means.
    """

    def kernel(i: int, j: int) -> float:
        difference, eye = means[i] - means[j], torch.eye(len(means[0]))
        spread = covariances[i] + covariances[j]
        exponent = difference @ torch.linalg.solve(bandwidth**2 * eye + spread, difference) / 2
        return math.exp(-float(exponent)) / float(torch.linalg.det(eye + spread / bandwidth**2)) ** 0.5

    return kernel(0, 0) + kernel(1, 1) - 2 * kernel(0, 1)


def test_MMD_tells_the_floor_from_independent_pixels_and_from_an_untrained_model() -> None:
    """Correlated normal data, a perfect model and a shifted one: every number agrees with its closed form.

    The standard error comes from ten parts, so a number lies within t_9 of them at the suite's false-alarm rate.
    """
    covariance = 0.05 * torch.eye(9) + 0.95
    law = Gaussian([0.0] * 9, covariance.tolist())
    data = TrainAndTest(law.sample(1000), law.sample(1000))
    protocol = MMD(num_samples=1000, steps=2, scale=0.7)
    protocol.untrained = Gaussian([3.0] * 9, covariance.tolist())
    module = sampled_module(law)
    result = protocol.measure(module, data)
    assert module.model is law, "the trained model must be put back"
    zero, bandwidth = torch.zeros(9), 0.7 * float(median_bandwidth(data.tensors("train")["x"]))
    expected = {
        "training data": 0.0,
        "trained model": 0.0,
        "independent pixels": _mmd2((zero, zero), (covariance, torch.eye(9)), bandwidth),
        "untrained model": _mmd2((zero, zero + 3), (covariance, covariance), bandwidth),
    }
    t = float(stats.t.isf(FALSE_ALARM / (2 * len(expected)), 9))
    found = {name: result.measurements[f"mmd2_{name.replace(' ', '_')}"] for name in expected}
    for name, value in expected.items():
        assert abs(found[name].value - value) < t * found[name].standard_error, name
    low, middle, high = (found[name] for name in ("training data", "independent pixels", "untrained model"))
    for lower, higher in ((low, middle), (middle, high)):
        assert higher.value - lower.value > t * math.hypot(lower.standard_error, higher.standard_error)
    assert found["trained model"].value < middle.value / 4
    floor = mmd2(data.tensors("train")["x"], data.tensors("test")["x"], bandwidth)
    assert low.value == pytest.approx(float(floor), abs=1e-6), "the noise floor: training data with held-out data"
    assert result.pictures.keys() == {"training-data", "trained-model", "independent-pixels", "untrained-model"}


def test_MMD_copies_the_untrained_model_before_the_weights_are_loaded() -> None:
    module = EBM(Gaussian([0.0], [1.0]), ContrastiveDivergence())
    protocol = MMD()
    protocol.setup(None, module, "test")
    module.model.mean.fill_(5.0)
    assert protocol.untrained.mean == 0
