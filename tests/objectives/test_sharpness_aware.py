"""Sharpness-aware gradients against their closed form and against parameters that are moved by hand."""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from support.oracles import identical, perturbed
from torch import Tensor, nn

from ebm_lightning import EBM
from ebm_lightning.chains import SampleBuffer
from ebm_lightning.core import EnergyModel, Objective, State, Terms
from ebm_lightning.data import Digits
from ebm_lightning.energies import JEM
from ebm_lightning.energies.networks import MLP, WideResNet
from ebm_lightning.objectives import Classification, ContrastiveDivergence, SharpnessAware, Sparsity, Sum
from ebm_lightning.samplers import SGLD
from ebm_lightning.training.trainer import Trainer

F64 = torch.float64


class Bowl(EnergyModel):
    """E(x) = (w - x) . A (w - x) / 2 with w in two parameters, and one parameter that plays no part."""

    def __init__(self, curvature: Tensor) -> None:
        super().__init__()
        self.curvature = curvature
        self.first, self.second = (nn.Parameter(torch.randn(n, dtype=F64)) for n in (2, 3))
        self.idle = nn.Parameter(torch.ones(4, dtype=F64))

    @property
    def w(self) -> Tensor:
        return torch.cat([self.first, self.second])

    def forward(self, x: Tensor) -> Tensor:
        off = self.w - x
        return ((off @ self.curvature) * off).sum(1) / 2


class MeanEnergy(Objective):
    """mean E(data)."""

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        return {"loss": model.energy(pos).mean(), "energy": model.energy(pos).mean()}


@pytest.mark.parametrize("adaptive", [False, True])
def test_SharpnessAware_a_step_on_a_quadratic_is_its_closed_form(adaptive: bool) -> None:
    root = torch.randn(5, 5, dtype=F64)
    model, x = Bowl(root @ root.T), torch.randn(8, 5, dtype=F64)
    w = model.w.detach()
    g = model.curvature @ (w - x.mean(0))
    t = w.abs() if adaptive else torch.ones(5, dtype=F64)
    e = 0.7 * t.square() * g / (t * g).norm()
    expected = w - 0.1 * model.curvature @ (w + e - x.mean(0))
    terms = SharpnessAware(MeanEnergy(), rho=0.7, adaptive=adaptive)(model, {"x": x}, None)
    terms["loss"].backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    torch.testing.assert_close(model.w.detach(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(model.idle.detach(), torch.ones(4, dtype=F64))
    rise = g @ e + e @ model.curvature @ e / 2
    torch.testing.assert_close(terms["sharpness"], rise, rtol=1e-10, atol=1e-10)
    assert {name for name, term in terms.items() if term.requires_grad} == {"loss"}


def _jem(norm: bool = False) -> JEM:
    net = WideResNet(10, 1, classes=3, channels=1, normalization=nn.BatchNorm2d if norm else None)
    return perturbed(JEM(net, 3)).train()


def _hybrid() -> Sum:
    return Sum(
        {"generative": ContrastiveDivergence(l2=0.1), "discriminative": Classification()}, weights={"generative": 2}
    )


def _phases() -> tuple[State, State]:
    pos = {"x": torch.randn(6, 1, 4, 4, dtype=F64), "y": torch.arange(6) % 3}
    return pos, {"x": torch.randn(4, 1, 4, 4, dtype=F64)}


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_SharpnessAware_the_gradient_is_that_of_a_copy_moved_by_hand(rho: float) -> None:
    model, (pos, neg) = _jem(norm=True), _phases()
    here, there = copy.deepcopy(model), copy.deepcopy(model)
    plain = _hybrid()(here, pos, neg)
    plain["loss"].backward()
    length = torch.cat([p.grad.flatten() for p in here.parameters()]).norm()
    with torch.no_grad():
        for mine, theirs in zip(there.parameters(), here.parameters(), strict=True):
            mine += rho * theirs.grad / length
    _hybrid()(there, pos, neg)["loss"].backward()
    terms = SharpnessAware(_hybrid(), rho=rho)(model, pos, neg)
    terms["loss"].backward()
    for mine, theirs in zip(model.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(terms["generative/gap"], plain["generative/gap"])


def test_SharpnessAware_the_second_pass_moves_no_statistics() -> None:
    plain, sharp, phases = _jem(norm=True), _jem(norm=True), _phases()
    sharp.load_state_dict(plain.state_dict())
    fresh = copy.deepcopy(dict(plain.named_buffers()))
    _hybrid()(plain, *phases)
    SharpnessAware(_hybrid(), rho=0.3)(sharp, *phases)["loss"].backward()
    assert identical(dict(sharp.named_buffers()), dict(plain.named_buffers()))
    assert not identical(dict(sharp.named_buffers()), fresh)


@dataclass(frozen=True)
class Recording(Objective):
    """An objective that keeps the phases it is called with."""

    seen: list[tuple[State, State | None]] = field(default_factory=list)

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        self.seen.append((pos, neg))
        return ContrastiveDivergence()(model, pos, neg)


def test_SharpnessAware_chains_advance_once_in_a_step_and_both_passes_see_them(tmp_path) -> None:
    recording, chains = Recording(), SampleBuffer(64)
    module = EBM(
        JEM(MLP(64, [8], outputs=10), 10),
        SharpnessAware(recording, rho=0.1),
        SGLD(0.1, noise=0.01),
        steps=2,
        chains=chains,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=3, accelerator="cpu", default_root_dir=tmp_path, enable_checkpointing=False, **quiet)
    trainer.fit(module, Digits(16))
    assert chains.seen == 3 * 16
    assert len(recording.seen) == 6
    for first, second in zip(recording.seen[::2], recording.seen[1::2], strict=True):
        assert first[0] is second[0]
        assert first[1] is second[1]


def test_SharpnessAware_without_gradients_it_is_the_objective() -> None:
    model, phases = _jem(), _phases()
    with torch.no_grad():
        assert identical(SharpnessAware(_hybrid(), rho=0.3)(model, *phases), _hybrid()(model, *phases))


def _with_a_graph() -> object:
    pos, neg = _phases()
    return SharpnessAware(_hybrid(), rho=0.1)(_jem(), pos, {"x": neg["x"].requires_grad_()})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SharpnessAware(_hybrid(), rho=-0.1), "expected a number >= 0"),
        (lambda: SharpnessAware(Sum({"sparse": Sparsity(0.1, 1.0)}), rho=0.1), "leave out Sparsity"),
        (lambda: SharpnessAware(Sparsity(0.1, 1.0), rho=0.1), "leave out Sparsity"),
        (_with_a_graph, "set backprop: 0"),
    ],
)
def test_SharpnessAware_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
