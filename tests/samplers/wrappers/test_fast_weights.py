"""Fast weights against the rule written out."""

import copy

import pytest
import torch
from support.boltzmann import set_gradients, tiny_rbm
from support.oracles import bits, identical
from support.targets import Still

from ebm_lightning.core import EnergyModel, Info, Sampler, State, run_chain
from ebm_lightning.samplers import FastWeights, Gibbs, TrajectoryTempering

F64 = torch.float64


class Failing(Still):
    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        raise RuntimeError("the inner sampler fails")


def test_FastWeights_of_rate_zero_change_nothing() -> None:
    model, start, gibbs = tiny_rbm(), {"x": torch.zeros(100, 4, dtype=F64)}, Gibbs(("h", "x"))
    sampler = FastWeights(gibbs, rate=0.0)
    set_gradients(model, 1)
    sampler.update(model)
    ends = []
    for kernel in (gibbs, sampler):
        torch.manual_seed(1)
        ends.append(run_chain(kernel, model, start, 5)[0])
    assert identical(*ends)


@pytest.mark.parametrize("centering", [None, 0.1])
def test_FastWeights_move_chains_under_theta_plus_fast_weights_by_the_rule_written_out(centering: float | None) -> None:
    """fast_1 = -rate g_1, fast_2 = -decay rate g_1 - rate g_2; a parameter without a gradient has none."""
    rate, decay, model = 0.3, 0.9, tiny_rbm(centering=centering)
    sampler, gibbs, grads = FastWeights(Gibbs(("h", "x")), rate=rate, decay=decay), Gibbs(("h", "x")), []
    start = {"x": torch.zeros(200, 4, dtype=F64)}
    for seed in (1, 2):
        set_gradients(model, seed)
        model.hidden_bias.grad = None
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        sampler.update(model)
    fast = {name: -decay * rate * g - rate * grads[1][name] for name, g in grads[0].items()}
    assert fast.keys() == {"weight", "visible.x.bias"} == sampler.state_dict().keys()
    assert all(torch.allclose(sampler.fast[name], value) for name, value in fast.items())
    shifted = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in shifted.named_parameters():
            parameter += fast.get(name, 0)
    torch.manual_seed(1)
    ours = run_chain(sampler, model, start, 3)[0]
    torch.manual_seed(1)
    theirs = run_chain(gibbs, shifted, start, 3)[0]
    assert torch.equal(ours["x"], theirs["x"])
    torch.manual_seed(1)
    assert not torch.equal(ours["x"], run_chain(gibbs, model, start, 3)[0]["x"])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inner", [Gibbs(("h", "x")), Failing()], ids=["a step", "a step that fails"])
def test_FastWeights_leave_theta_the_same_memory_with_the_same_bits_after_a_step(inner: Sampler, mode) -> None:
    model = tiny_rbm()
    sampler = FastWeights(inner, rate=0.5)
    set_gradients(model, 1)
    sampler.update(model)
    before = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    energy = model.energy({"x": bits(4)}).sum()  # a graph that was started before the step survives it
    with mode():
        if isinstance(inner, Failing):
            with pytest.raises(RuntimeError, match="the inner sampler fails"):
                sampler.step(model, {"x": torch.zeros(3, 4, dtype=F64)})
        else:
            sampler.step(model, {"x": torch.zeros(3, 4, dtype=F64)})
    for name, parameter in model.named_parameters():
        same, address, value = before[name]
        assert parameter is same
        assert parameter.data_ptr() == address
        assert torch.equal(parameter, value)
        assert parameter.requires_grad
    energy.backward()


def test_FastWeights_come_back_from_their_memory() -> None:
    model, sampler, other = tiny_rbm(), FastWeights(Still(), rate=0.5), FastWeights(Still(), rate=0.5)
    assert sampler.state_dict() == {}
    set_gradients(model, 1)
    sampler.update(model)
    other.load_state_dict(sampler.state_dict())
    for one in (sampler, other):
        one.update(model)
    assert identical(other.state_dict(), sampler.state_dict())


GIBBS = Gibbs(("h", "x"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FastWeights(GIBBS, rate=-0.1), r"FastWeights\(rate=-0.1, decay=0.95\): expected rate >= 0"),
        (lambda: FastWeights(GIBBS, rate=0.1, decay=1.0), r"decay in \[0, 1\)"),
        (lambda: FastWeights(TrajectoryTempering(GIBBS, rungs=2), rate=0.1), "only one sampler can be adaptive"),
        (
            lambda: FastWeights(GIBBS, rate=0.1).step(tiny_rbm(), {"x": bits(4)}),
            "FastWeights cannot move chains inside an autograd graph.*set backprop: 0",
        ),
    ],
)
def test_FastWeights_refuse_what_cannot_work_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
