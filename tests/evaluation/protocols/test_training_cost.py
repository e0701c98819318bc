"""Costs that can be worked out by hand."""

from types import SimpleNamespace

import pytest
import torch
from support.oracles import Examples, Linear

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains, SampleBuffer
from ebm_lightning.distributions import UniformNoise
from ebm_lightning.evaluation import TrainingCost
from ebm_lightning.evaluation.protocols import training_cost
from ebm_lightning.evaluation.protocols.training_cost import work
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import SGLD
from ebm_lightning.training.acceleration import Acceleration


def test_TrainingCost_operations_are_those_of_the_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product costs 2 B dim outputs. A step of SGLD takes two, W x and the gradient in x. In the comparison each
    phase takes W x and the gradient in W: 4, and none in x, which no step stands behind."""
    data = Examples(torch.rand(8, 6))
    module = EBM(Linear(6, 5), ContrastiveDivergence(), SGLD(0.1, noise=0.0), steps=3, chains=SampleBuffer(16))
    clock = iter([0.0, 0.003, 1.0, 1.005, 2.0, 2.04])
    with monkeypatch.context() as patch:
        patch.setattr(training_cost, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
        found = TrainingCost(repeats=3).measure(module, data).measurements
    product = 2 * 8 * 6 * 5 / 1e9
    assert found["gflop_per_step"].value == pytest.approx(product * (3 * 2 + 4))
    assert found["parameters"].value == 30
    assert found["examples_per_step"].value == 8
    assert found["ms_per_step"].value == pytest.approx(5), "the median of 3, 5 and 40 ms"
    compiled = EBM(
        module.model, ContrastiveDivergence(), SGLD(0.1, noise=0.0), steps=3, acceleration=Acceleration(compile=True)
    )
    assert work(compiled, {"x": torch.rand(8, 6)}).flop == pytest.approx(1e9 * found["gflop_per_step"].value)


def test_TrainingCost_the_gradient_is_that_of_training_and_moves_no_chain() -> None:
    module = EBM(Linear(6, 5), ContrastiveDivergence(), SGLD(0.1, noise=0.0), steps=3, chains=SampleBuffer(16))
    batch = {"x": torch.rand(8, 6)}
    state = torch.get_rng_state()
    (found,) = module.gradient(batch)
    torch.set_rng_state(state)
    neg, _ = module.run_negative_chains(NoiseChains(UniformNoise()).start(batch, ("x",)), 3)
    loss = module.model.energy(batch).mean() - module.model.energy(neg).mean()
    torch.testing.assert_close(found, torch.autograd.grad(loss, module.model.layer.weight)[0])
    assert module.chains.state_dict() == {}
