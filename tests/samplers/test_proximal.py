"""Proximal SGLD against plain SGLD, and against full autograd with the rest's gradient held."""

import pytest
import torch
from support.oracles import identical, perturbed
from torch import Tensor, nn

from ebm_lightning import EBM
from ebm_lightning.chains import DataChains
from ebm_lightning.core import EnergyModel, State, run_chain
from ebm_lightning.energies import JEM, DeepEnergy, JointJEM
from ebm_lightning.energies.networks import MLP, ConvNet, IGEBMMnistNet, WideResNet
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import SGLD, ProximalSGLD

F64 = torch.float64
CURVED, WIDE = "net.0", "net.trunk.0"


def _curved() -> EnergyModel:
    """A first layer with a J that changes."""
    return perturbed(DeepEnergy(nn.Sequential(nn.Sequential(nn.Linear(5, 7), nn.Tanh()), MLP(7, [6]))))


def _wide() -> EnergyModel:
    return perturbed(JEM(WideResNet(10, 1, classes=3, channels=2, normalization=nn.BatchNorm2d), 3))


def _images(n: int = 4) -> State:
    return {"x": torch.randn(n, 2, 4, 4, dtype=F64), "y": torch.arange(n) % 3}


@pytest.mark.parametrize(
    ("make", "first", "state"),
    [
        (_curved, CURVED, lambda: {"x": torch.randn(6, 5, dtype=F64)}),
        (_wide, WIDE, _images),
        (lambda: JointJEM(_wide()), "jem.net.trunk.0", _images),
        (
            lambda: perturbed(DeepEnergy(ConvNet(2, (3, 4), 5, size=4, stem_padding=2))),
            "net.net.0",
            _images,
        ),
        (lambda: perturbed(DeepEnergy(IGEBMMnistNet(2, channels=2, size=4))), "net.stem", _images),
    ],
)
@pytest.mark.parametrize(
    "settings",
    [{"noise": 0.0}, {"noise": 0.3}, {"noise": 0.3, "clip": 0.2, "bounds": (-0.8, 0.8)}],
)
def test_ProximalSGLD_with_one_inner_step_it_is_sgld(make, first: str, state, settings: dict) -> None:
    model, begin, ends = make(), state(), []
    for sampler in (SGLD(0.7, **settings), ProximalSGLD(0.7, first=first, inner=1, **settings)):
        torch.manual_seed(3)
        ends.append(run_chain(sampler, model, begin, 4))
    assert identical(*ends)
    assert not torch.allclose(ends[0][0]["x"], begin["x"])


def test_ProximalSGLD_the_inner_steps_are_those_of_autograd_with_the_rest_held() -> None:
    """The rest is replaced by its linear part at the beginning, and that energy is descended by autograd."""
    model, x = _curved(), torch.randn(6, 5, dtype=F64)
    first, rest = model.net[0], model.net[1]
    h = first(x).detach().requires_grad_()
    (p,) = torch.autograd.grad(rest(h).sum(), h)
    expected = x
    for _ in range(5):
        z = expected.clone().requires_grad_()
        (grad,) = torch.autograd.grad((p * first(z)).sum(), z)
        expected = (expected - 0.4 * grad.clamp(-0.15, 0.15)).clamp(-1.2, 1.2)
    sampler = ProximalSGLD(0.4, first=CURVED, inner=5, noise=0.0, clip=0.15, bounds=(-1.2, 1.2))
    end, info = sampler.step(model, {"x": x})
    torch.testing.assert_close(end["x"], expected, rtol=1e-12, atol=1e-12)
    z = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model({"x": z}["x"]).sum(), z)
    assert float(info["energy"]) == pytest.approx(float(model.energy({"x": x}).mean().detach()))
    assert float(info["grad_norm"]) == pytest.approx(float(grad.norm(dim=1).mean()))
    assert float(info["clip_share"]) == pytest.approx(float((grad.abs() > 0.15).double().mean()))
    plain, _ = run_chain(SGLD(0.4, noise=0.0, clip=0.15, bounds=(-1.2, 1.2)), model, {"x": x}, 5)
    assert not torch.allclose(plain["x"], end["x"])


@pytest.mark.parametrize("bounds", [None, (-0.5, 0.5)])
def test_ProximalSGLD_with_a_linear_first_layer_it_is_sgld_of_the_whole_length(bounds) -> None:
    model, state = _wide(), _images()
    state["x"] = state["x"].clamp(-0.5, 0.5)
    long, short = SGLD(1.0, noise=0.0, clip=0.1, bounds=bounds), {"noise": 0.0, "clip": 0.1, "bounds": bounds}
    ends = [
        run_chain(sampler, model, state, 3)[0]["x"]
        for sampler in (ProximalSGLD(0.2, first=WIDE, inner=5, **short), long)
    ]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(ends[0], state["x"])


@pytest.mark.parametrize("inner", [1, 3])
def test_ProximalSGLD_a_step_is_differentiable_exactly_where_grad_mode_is_on(inner: int) -> None:
    """Through p as well: the derivative of the end along a direction is that of finite differences."""
    model, x, direction = _curved(), torch.randn(3, 5, dtype=F64), torch.randn(3, 5, dtype=F64)
    sampler = ProximalSGLD(0.4, first=CURVED, inner=inner, noise=0.0)

    def end(t: float | Tensor) -> Tensor:
        return sampler.step(model, {"x": x + t * direction})[0]["x"].sum()

    t = torch.zeros((), dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(end(t), t)
    with torch.no_grad():
        assert not end(0.0).requires_grad
        numeric = (end(1e-5) - end(-1e-5)) / 2e-5
    torch.testing.assert_close(slope, numeric, rtol=1e-7, atol=1e-9)
    with torch.inference_mode():
        torch.testing.assert_close(end(0.0), end(torch.zeros(())).detach())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_ProximalSGLD_in_train_mode_the_statistics_of_batch_norm_move_once_a_transition() -> None:
    """JEM++ samples in train mode: inner steps ask the first layer alone."""
    ends = []
    for inner in (1, 4):
        torch.manual_seed(5)
        model = JEM(WideResNet(10, 1, classes=3, channels=2, normalization=nn.BatchNorm2d), 3)
        sampler = ProximalSGLD(0.2, first=WIDE, inner=inner, noise=0.0, clip=1.0, bounds=(-1.0, 1.0))
        kept = EBM(model, ContrastiveDivergence(), sampler, 3, chains=DataChains())
        fresh = {name: buffer.clone() for name, buffer in model.named_buffers()}
        kept.sample_negatives({"x": torch.rand(8, 2, 4, 4)})
        assert identical(dict(model.named_buffers()), fresh)
        moving = EBM(model, ContrastiveDivergence(), sampler, 3, chains=DataChains(), eval_sampling=False)
        moving.sample_negatives({"x": torch.rand(8, 2, 4, 4)})
        ends.append([int(b) for name, b in model.named_buffers() if name.endswith("num_batches_tracked")])
    assert ends[0] == ends[1] == [3] * 7


class Twice(EnergyModel):
    """An energy that calls its first layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(4, [3])

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) + self.net(-x)).flatten()


def _step(model: EnergyModel, first: str) -> object:
    return ProximalSGLD(0.1, first=first, inner=2, noise=0.0).step(model, {"x": torch.randn(2, 4)})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ProximalSGLD(0.0, first="net", inner=1, noise=0.0), "expected step_size > 0"),
        (lambda: ProximalSGLD(0.1, first="net", inner=0, noise=0.0), "inner >= 1"),
        (lambda: ProximalSGLD(0.1, first="net", inner=1, noise=-1.0), "noise >= 0"),
        (lambda: ProximalSGLD(0.1, first="net", inner=1, noise=0.0, clip=0.0), "or None for no clipping"),
        (lambda: ProximalSGLD(0.1, first="net", inner=1, noise=0.0, bounds=(1.0, 0.0)), "low < high"),
        (lambda: ProximalSGLD(0.1, first="net", inner=1, noise=0.0, free=()), "exactly one variable"),
        (lambda: _step(DeepEnergy(MLP(4, [3])), "net.trunk.0"), "is no part of DeepEnergy: name the path"),
        (lambda: _step(DeepEnergy(MLP(4, [3])), "net.net.3"), "takes x itself, once in every pass"),
        (lambda: _step(Twice(), "net"), "in Twice this one does not"),
    ],
)
def test_ProximalSGLD_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
