"""Calibration against bins counted by hand, scikit-learn and a temperature that is known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import brier_score_loss, log_loss
from support.measured import module_of
from support.oracles import FALSE_ALARM, Examples, LinearClassifier, bits, perturbed
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.energies import RBM, DeepEnergy
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax
from ebm_lightning.energies.networks import MLP
from ebm_lightning.evaluation import Calibration, ProtocolResult
from ebm_lightning.evaluation.protocols.calibration import ece, fit_temperature, reliability

CLASSES = 3


def _logits_are_x(sharpness: float = 1.0) -> EBM:
    return module_of(LinearClassifier(sharpness * torch.eye(CLASSES), torch.zeros(CLASSES)))


def _drawn(n: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    x = 2 * torch.randn(n, CLASSES)
    return x, torch.distributions.Categorical(logits=x / temperature).sample()


def _ece_by_hand(p: np.ndarray, y: np.ndarray, bins: int) -> float:
    confidence, right = p.max(1), p.argmax(1) == y
    total = 0.0
    for b in range(bins):
        last = b == bins - 1
        inside = (confidence >= b / bins) & ((confidence < (b + 1) / bins) | last)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("bins", [1, 7, 20])
def test_ece_is_that_of_bins_counted_by_hand(bins: int) -> None:
    """Confidences of exactly 1 among them, which belong to the last bin: always wrong, while the others are right."""
    p = torch.softmax(3 * torch.randn(500, CLASSES, dtype=torch.float64), 1)
    p[:50] = torch.eye(CLASSES, dtype=torch.float64)[torch.randint(CLASSES, (50,))]
    y = (p.argmax(1) + (torch.arange(500) < 50)) % CLASSES
    y[50:200] = torch.randint(CLASSES, (150,))
    assert ece(p, y, bins) == pytest.approx(_ece_by_hand(p.numpy(), y.numpy(), bins), abs=1e-6)
    accuracy, share = reliability(p, y, bins)
    confidence = p.max(1).values
    last = confidence >= (bins - 1) / bins
    assert float(share.sum()) == pytest.approx(1)
    assert float(share[-1]) == pytest.approx(float(last.double().mean()))
    assert float(accuracy[-1]) == pytest.approx(float((p.argmax(1) == y)[last].double().mean()))


def test_an_empty_bin_has_no_accuracy() -> None:
    accuracy, share = reliability(torch.tensor([[0.9, 0.1], [0.95, 0.05]]).double(), torch.tensor([0, 1]), 4)
    assert accuracy[:3].isnan().all()
    assert (float(accuracy[3]), share.tolist()) == (0.5, [0, 0, 0, 1])


def test_the_protocol_measures_what_scikit_learn_does() -> None:
    x, y = _drawn(400)
    result = Calibration(scaling=False).measure(_logits_are_x(), Examples(x, y, CLASSES))
    p = torch.softmax(x.double(), 1).numpy()
    found = {name: m.value for name, m in result.measurements.items()}
    assert found["nll_nats"] == pytest.approx(log_loss(y, p), rel=1e-5)
    each = sum(brier_score_loss(y == k, p[:, k]) for k in range(CLASSES))
    assert found["brier_score"] == pytest.approx(each, rel=1e-5)
    assert found["ece_percent"] == pytest.approx(100 * _ece_by_hand(p, y.numpy(), 20), rel=1e-5)
    assert found["test_error_percent"] == pytest.approx(100 * np.mean(p.argmax(1) != y.numpy()))
    assert found.keys().isdisjoint({"temperature"})
    assert result.pictures.keys() == {"reliability"}


def test_temperature_scaling_finds_the_temperature_that_the_labels_were_drawn_at() -> None:
    """The estimate of 1 / T has the variance 1 / (n E Var_p(logit)): maximum likelihood of an exponential family."""
    n, truth = 4000, 2.5
    x, y = _drawn(n, truth)
    found = _calibrated(x, y, val_size=n - 1)
    p = torch.softmax(x / truth, 1)
    information = n * float(((p * x.square()).sum(1) - (p * x).sum(1).square()).mean())
    z = (1 / found["temperature"] - 1 / truth) * math.sqrt(information)
    assert abs(z) < stats.norm.isf(FALSE_ALARM / 2)
    assert found["nll_after_scaling_nats"] < found["nll_nats"]
    assert found["ece_after_scaling_percent"] < found["ece_percent"] / 3


def _calibrated(x: Tensor, y: Tensor, val_size: int) -> dict[str, float]:
    result: ProtocolResult = Calibration().measure(_logits_are_x(), Examples(x, y, CLASSES, val_size=val_size))
    return {name: m.value for name, m in result.measurements.items()}


def test_at_the_fitted_temperature_the_likelihood_has_no_slope() -> None:
    x, y = _drawn(300, 0.5)
    log_p = torch.log_softmax(x.double(), 1)
    beta = torch.tensor(1 / fit_temperature(log_p, y).value, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.cross_entropy(beta * log_p, y).backward()
    assert abs(float(beta.grad)) < 1e-6


def test_where_all_validation_examples_are_classified_correctly_it_says_so() -> None:
    x = torch.randn(50, CLASSES)
    found = Calibration().measure(_logits_are_x(), Examples(x, x.argmax(1), CLASSES, val_size=40)).measurements
    assert "100 percent of the 40 validation examples" in found["temperature"].warning
    assert found["ece_after_scaling_percent"].warning
    assert not found["ece_percent"].warning


def test_a_classification_rbm_is_judged_by_its_exact_posterior() -> None:
    model = perturbed(RBM({"x": Bernoulli([4]), "y": Softmax(CLASSES)}, 3, weight_std=1.0))
    x = bits(4)
    y = torch.randint(CLASSES, (16,))
    every = torch.stack([model.energy({"x": x, "y": torch.full((16,), k)}) for k in range(CLASSES)], 1)
    expected = torch.nn.functional.cross_entropy(-every, y)
    found = Calibration(scaling=False).measure(module_of(model), Examples(x, y, CLASSES)).measurements
    assert found["nll_nats"].value == pytest.approx(expected.item(), rel=1e-6)


X, Y = torch.randn(9, CLASSES), torch.arange(9) % CLASSES


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Calibration(bins=0), "expected bins >= 1"),
        (lambda: Calibration().measure(_logits_are_x(), Examples(X, Y, CLASSES)), "Examples has none: set its"),
        (
            lambda: Calibration().measure(_logits_are_x(), Examples(X)),
            r"needs labels 'y', but Examples has only \['x'\]",
        ),
        (
            lambda: Calibration(scaling=False).measure(_logits_are_x(), Examples(X, Y + 1, CLASSES + 1)),
            "the model has 3 classes, expected labels 0..2, got torch.int64 from 1 to 3",
        ),
        (
            lambda: Calibration(scaling=False).measure(module_of(DeepEnergy(MLP(3, [2]))), Examples(X, Y, CLASSES)),
            "a classifier .* is needed, and there is none here: DeepEnergy is not GibbsSampleable, it has no "
            "conditional",
        ),
        (
            lambda: Calibration(scaling=False, block="h").measure(
                module_of(RBM({"x": Bernoulli([3])}, 2)), _with_labels_called_h()
            ),
            "RBM is a BernoulliConditional: name the label",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def _with_labels_called_h() -> Examples:
    class Named(Examples):
        def prepare(self, batch, generator, train):
            return {"x": batch["x"], "h": batch["y"]}

    return Named(X.sign().clamp_min(0), Y, CLASSES)
