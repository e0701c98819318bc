"""Likelihoods and classes by importance sampling against enumeration."""

import copy
import math

import pytest
import torch
from support.helmholtz import machine, on_cpu
from support.oracles import Z

from ebm_lightning.data import Bars, Digits, Threshold
from ebm_lightning.energies import HelmholtzMachine, PerClass
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.evaluation import DescriptionLengthClassifier, ImportanceSampledLikelihood
from ebm_lightning.evaluation.metrics.importance import log_weights
from ebm_lightning.evaluation.protocols.exact_divergence import exact_log_prob
from ebm_lightning.evaluation.protocols.importance_sampling import chosen


def test_ImportanceSampledLikelihood_measures_what_enumeration_says() -> None:
    """log of a mean of S weights of relative variance v: the error is sqrt(v / S), the bias -v / (2 S)."""
    data, model = Bars(2, samples=100), HelmholtzMachine({"x": Bernoulli([1, 2, 2])}, [3, 2], weight_std=0.5)
    found = ImportanceSampledLikelihood(samples=1000).measure(on_cpu(model), data).measurements
    exact = exact_log_prob(copy.deepcopy(model), data.tensors("test")).mean()
    gain = found["tenfold_gain_nats"].value
    x = data.tensors("test")["x"]
    relative = log_weights(model, {"x": x}, 20_000).double().exp()
    v = (relative / relative.mean(1, keepdim=True)).var(1)
    error, coarse = (math.sqrt(float(v.sum()) / number) / len(x) for number in (1000, 100))
    bias = float(v.mean()) / (2 * 1000)
    assert abs(found["test_log_prob_nats"].value - float(exact) + bias) < Z * error
    assert found["test_variational_bound_nats"].value < found["test_log_prob_nats"].value
    assert abs(gain - 9 * bias) < Z * math.hypot(error, coarse)
    assert 1 < found["effective_samples"].value < 1000
    nats, in_bits = (found[f"description_length_{unit}"].value for unit in ("nats", "bits"))
    assert nats == pytest.approx(in_bits * math.log(2))
    assert nats == -found["test_variational_bound_nats"].value


def test_ImportanceSampledLikelihood_draws_a_subset_at_random() -> None:
    state = {"x": torch.arange(1000.0)}
    few = chosen("", state, 100)["x"]
    assert len(few.unique()) == 100
    assert abs(float(few.mean()) - 499.5) < Z * 1000 / math.sqrt(12 * 100)
    assert chosen("", state, None) is state


def test_DescriptionLengthClassifier_names_the_class_whose_machine_made_the_data() -> None:
    """Ten machines whose latents have no weight, that is ten products of independent pixels fitted to their digits."""
    data = Digits(100, val_size=0, pixels=Threshold())
    model = PerClass(HelmholtzMachine({"x": Bernoulli([1, 8, 8])}, [1], weight_std=0.0), 10)
    module = on_cpu(model)
    train, test = data.tensors("train"), data.tensors("test")
    model.initialize(data.eval_loader("train"))
    found = DescriptionLengthClassifier(samples=1).measure(module, data).measurements
    on = torch.stack([train["x"][train["y"] == label].flatten(1).mean(0) for label in range(10)]).clamp(1e-3, 1 - 1e-3)
    x = test["x"].flatten(1)
    log_p = x @ on.log().T + (1 - x) @ (1 - on).log().T
    wrong = 100 * float((log_p.argmax(1) != test["y"]).double().mean())
    assert found["test_error_percent"].value == pytest.approx(wrong)
    assert found["test_error_by_importance_sampling_percent"].value == pytest.approx(wrong)
    own = -log_p.gather(1, test["y"][:, None]).mean() / math.log(2)
    rounding = 64 * 2**-23  # of a sum over 64 pixels in float32
    assert found["own_class_description_length_bits"].value == pytest.approx(float(own), rel=rounding)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ImportanceSampledLikelihood(samples=15), "multiple of 10"),
        (lambda: chosen("Protocol", {"x": torch.zeros(3)}, 4), "there are 3 test examples"),
        (lambda: DescriptionLengthClassifier(samples=0), "samples >= 1"),
        (lambda: DescriptionLengthClassifier().measure(on_cpu(machine()), Bars(2, samples=9)), "needs labels 'y'"),
    ],
)
def test_ImportanceSampledLikelihood_and_DescriptionLengthClassifier_refuse_what_cannot_work(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
