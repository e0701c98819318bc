"""Importance weights against the enumerated log-probability."""

import math

import torch
from support.helmholtz import every_state, log_marginal, machine
from support.oracles import Z, assert_means, bits

from ebm_lightning.evaluation.metrics.importance import log_weights


def test_importance_sampling_comes_to_the_exact_log_probability() -> None:
    """The bias of log mean w is -var(w) / (2 S mean(w)^2) to first order: it shrinks as 1/S."""
    model, x = machine(), bits(3)[5:6]
    exact = float(log_marginal(model, x, {"h1": 3, "h2": 2}).detach())
    found = {}
    for samples in (1, 5, 500):
        log_w = log_weights(model, {"x": x.expand(2000, -1)}, samples)
        log_p = torch.logsumexp(log_w, 1) - math.log(samples)
        found[samples] = (float(log_p.mean()) - exact, float(log_p.std()) / math.sqrt(2000))
    assert found[1][0] < -Z * found[1][1]  # the bound, below log p
    assert found[1][0] < found[5][0] - Z * math.hypot(found[1][1], found[5][1])
    assert found[5][0] < found[500][0] + Z * found[5][1]
    relative = log_weights(model, {"x": x}, 200_000)[0] - exact
    spread = float(relative.exp().var())
    assert abs(found[500][0] + spread / 1000) < Z * found[500][1] + spread / 1000
    assert abs(float(relative.exp().mean()) - 1) < Z * float(relative.exp().std()) / math.sqrt(200_000)


def test_the_bound_is_the_entropy_and_the_energy_of_all_causes() -> None:
    model, x = machine(), bits(3)[4:5]
    state = {"x": x.expand(32, -1), **every_state({"h1": 3, "h2": 2})}
    r, e = model.recognition_energy(state).detach(), model.energy(state).detach()
    bound = ((-r).exp() * (r - e)).sum()
    assert float(bound) < float(log_marginal(model, x, {"h1": 3, "h2": 2}).detach())
    assert_means(log_weights(model, {"x": x}, 20_000)[0], bound)
    assert_means(model.free_energy({"x": x.expand(20_000, -1)}), -bound)
