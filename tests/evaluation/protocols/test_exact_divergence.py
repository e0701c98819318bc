"""The divergence from a known law against models written out."""

import math

import pytest
import torch
from support.helmholtz import log_marginal, machine, on_cpu
from support.oracles import bits, perturbed

from ebm_lightning.data import Bars, Digits, Gray
from ebm_lightning.energies import RBM, HelmholtzMachine
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.evaluation import ExactDivergence
from ebm_lightning.evaluation.protocols.exact_divergence import exact_log_prob

ROUNDING = 16 * 2**-23
"""Of sums over 16 pixels in float32."""


def test_exact_log_prob_equals_the_enumeration() -> None:
    model = machine()
    ours = exact_log_prob(model, {"x": bits(3)})
    torch.testing.assert_close(ours, log_marginal(model, bits(3), {"h1": 3, "h2": 2}).detach())
    rbm = perturbed(RBM({"x": Bernoulli([3])}, 2, weight_std=0.7))
    assert float(exact_log_prob(rbm, {"x": bits(3)}).exp().sum()) == pytest.approx(1)


def test_ExactDivergence_from_bars_is_that_of_a_model_written_out() -> None:
    """A machine without weights is independent pixels: the divergence is a sum over the patterns."""
    data = Bars(batch_size=100, samples=20_000)
    model = HelmholtzMachine({"x": Bernoulli([1, 4, 4])}, [3, 1], weight_std=0.0)
    with torch.no_grad():
        model.units("x").bias.fill_(math.log(0.3 / 0.7))
    found = {name: one.value for name, one in ExactDivergence().measure(on_cpu(model), data).measurements.items()}
    patterns, p = data.true_distribution()
    on = patterns.flatten(1).sum(1).double()
    log_q = on * math.log(0.3) + (16 - on) * math.log(0.7)
    nats = float((p * (p.log() - log_q)).sum())
    assert found["kl_nats"] == pytest.approx(nats, rel=ROUNDING)
    assert found["kl_bits"] == pytest.approx(nats / math.log(2), rel=ROUNDING)
    assert found["data_entropy_bits"] == pytest.approx(3.428, abs=5e-4)
    assert found["other_images_probability"] == pytest.approx(1 - float(log_q.exp().sum()), rel=ROUNDING)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: exact_log_prob(machine(), {"x": bits(3)}, largest=4),
            "expected at most 4; use ImportanceSampledLikelihood",
        ),
        (lambda: Digits(pixels=Gray()).true_distribution(), "distribution of Digits is not known"),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
