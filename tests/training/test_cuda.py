"""What only a GPU can show: recorded phases are the chain itself, and a run on it ends as it does on a CPU."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from support.continued import KEPT, PowerCut, cut_at, ending
from support.oracles import identical

from ebm_lightning.core import SLOT, EnergyModel, Info, Sampler, State, run_chain
from ebm_lightning.energies import JEM, RBM, DeepEnergy
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.energies.networks import MLP, IGEBMNet, WideResNet
from ebm_lightning.samplers import SGLD, Gibbs, Langevin
from ebm_lightning.training.module import run_chain_cached
from ebm_lightning.utils import cuda_graphs, fused_ops
from ebm_lightning.utils.cuda_graphs import Graphed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GPU = ("--trainer.accelerator", "gpu", "--samples.every_n_steps", "0")
AS_IGEBM = SGLD(10.0, noise=0.005, clip=0.01, bounds=(0.0, 1.0), noise_first=True)


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions sum in one order, so that bits can be compared."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def _case(name: str) -> tuple[EnergyModel, Sampler, tuple[int, ...]]:
    """By the name of a net; ``training`` has dropout and a power iteration that goes on at each step."""
    torch.manual_seed(0)
    model, sampler, shape = {
        "mlp": lambda: (DeepEnergy(MLP(2, [16, 16])), Langevin(0.01), (2,)),
        "spectral": lambda: (DeepEnergy(IGEBMNet(width=4, stages=((4, 1),))), AS_IGEBM, (3, 8, 8)),
        "training": lambda: (DeepEnergy(IGEBMNet(width=4, stages=((4, 1),), dropout=0.5)), AS_IGEBM, (3, 8, 8)),
        "wide": lambda: (JEM(WideResNet(10, 1), classes=10), SGLD(1.0, noise=0.01), (3, 16, 16)),
        "rbm": lambda: (RBM({"x": Bernoulli([12])}, 5), Gibbs(("h", "x")), (12,)),
    }[name]()
    return model.train(name == "training").cuda(), sampler, shape


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mlp", "spectral", "training", "wide", "rbm"])
def test_a_replayed_phase_is_the_chain_itself_with_the_weights_of_now(name: str, half: bool) -> None:
    model, sampler, shape = _case(name)
    graphed, kept = Graphed(run_chain_cached), torch.arange(6).cuda()
    for turn in range(3):
        start = {"x": (torch.rand(6, *shape, device="cuda") > 0.5).float(), SLOT: kept}
        found, before = [], deepcopy(model.state_dict())
        for chain_function in (run_chain_cached, graphed):
            model.load_state_dict(before)
            torch.manual_seed(turn)
            with torch.autocast("cuda", torch.bfloat16, enabled=half), torch.no_grad():
                end, info = chain_function(sampler, model, start, 4)
            found.append((end["x"], info, torch.rand(3, device="cuda"), deepcopy(model.state_dict())))
            assert end[SLOT] is kept
        assert identical(*found), f"turn {turn}: positions, reports, random numbers after it, or moving statistics"
        assert not torch.equal(found[0][0], start["x"])
        with torch.no_grad():  # as an optimizer does
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert len(graphed._recorded) == 1


def test_each_form_of_a_phase_has_its_graph_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    model, sampler, shape = _case("mlp")
    called: list[int] = []

    def counted(sampler: Sampler, model: EnergyModel, state: State, steps: int, *_: int, with_info: bool) -> object:
        called.append(steps)
        return run_chain(sampler, model, state, steps, with_info=with_info)

    graphed = Graphed(counted)
    for steps, number in ((1, 4), (1, 4), (1, 6), (2, 4), (2, 4), (1, 6)):
        end, _ = graphed(sampler, model, {"x": torch.rand(number, *shape, device="cuda")}, steps)
        assert end["x"].shape == (number, *shape)
    assert called == [1] * 6 + [2] * 2, "two are recorded after two warm-ups each; the third form is never recorded"


def test_a_recorded_phase_may_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sampler, shape = _case("mlp")
    _ = model.variables
    start, found = {"x": torch.rand(6, *shape, device="cuda")}, []
    for chain_function in (run_chain, Graphed(fused_ops.compiled(run_chain))):
        for _ in range(2):
            torch.manual_seed(5)
            end, _ = chain_function(sampler, model, start, 3)
        found.append(end["x"])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.fixture
def fit(ebm, tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    def call(name: str, *options: object) -> Path:
        status, said = ebm("fit", "-c", tiny, "--run", tmp_path / "x" / name, *GPU, *options)
        assert status == 0, said
        return tmp_path / "x" / name

    return call


def test_a_run_with_graphs_ends_as_one_without_and_one_that_was_cut(fit, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = "--model.init_args.acceleration.cuda_graphs=true"
    plain, graphed = ending(fit("plain")), ending(fit("graphed", graphs))
    with monkeypatch.context() as patch:
        cut_at(patch, 6)
        with pytest.raises(PowerCut):
            fit("cut", graphs)
    cut = ending(fit("cut", graphs))
    for key in KEPT:
        assert identical(graphed[key], plain[key]), key
        assert identical(cut[key], graphed[key]), key


def test_a_group_of_nccl_trains_as_a_process_alone(fit) -> None:
    """One rank: its gradients pass through NCCL, and the agreement on signals through gloo beside it."""
    alone, ranked = ending(fit("alone")), ending(fit("ranked", "--trainer.strategy", "ddp"))
    assert all(identical(ranked[key], alone[key]) for key in ("state_dict", "optimizer_states", "rank_state"))


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_precisions_compiled_and_channels_last_train_on_a_gpu(fit, precision: str) -> None:
    compiled = ("--model.init_args.acceleration.compile=true", "--model.init_args.acceleration.cuda_graphs=true")
    final = ending(fit("run", "--trainer.precision", precision, *compiled))
    assert final["global_step"] == 12
    assert all(bool(weight.isfinite().all()) for weight in final["state_dict"].values())


def test_a_transition_that_waits_for_the_device_is_refused_with_a_message() -> None:
    class Waits(Langevin):
        def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
            assert float(state["x"].sum()) < torch.inf
            return super().step(model, state)

    model, _, shape = _case("mlp")
    with pytest.raises(ValueError, match=r"transitions of Waits on DeepEnergy cannot be recorded .* leave cuda_graphs"):
        Graphed(run_chain)(Waits(0.1), model, {"x": torch.rand(6, *shape, device="cuda")}, 1)
    assert float(torch.rand(3, device="cuda").sum()) > 0, "the device goes on"
