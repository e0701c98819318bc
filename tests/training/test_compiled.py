"""Compiled negative phases against those that are not: the same gradients, the same random numbers."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.continued import KEPT, PowerCut, cut_at, ending
from support.oracles import identical, images, perturbed, text
from support.predictions import Pairs
from support.targets import Bowl
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader

import ebm_lightning.training.module as module_file
from ebm_lightning import EBM, Trainer
from ebm_lightning.core import EnergyModel, Objective, State
from ebm_lightning.energies import DeepEnergy, ImageEBT, StepToken, TextEBT
from ebm_lightning.energies.networks import MLP
from ebm_lightning.evaluation import Perplexity
from ebm_lightning.objectives import DenoisingScoreMatching, ImagePrediction, TokenPrediction
from ebm_lightning.samplers import Descent
from ebm_lightning.training.acceleration import Acceleration
from ebm_lightning.utils import fused_ops

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
SHORT = ("--samples.every_n_steps", "0", "--trainer.limit_val_batches", "0")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    """Compiles whole functions, and derivatives in them, without generating code: what counts the graphs."""
    counter, compile_ = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(
        fused_ops.torch,
        "compile",
        lambda function, **_: compile_(function, backend=counter, fullgraph=True, dynamic=False),
    )
    yield counter
    torch._dynamo.reset()


def _number(graphs: CompileCounterWithBackend) -> int:
    """Of graphs in which anything is done."""
    return sum(len(graph.graph.nodes) > 0 for graph in graphs.graphs)


def _text(layers: int = 1) -> TextEBT:
    return TextEBT(5, layers=layers, heads=2, dim=8, condition=StepToken(2))


def _image() -> ImageEBT:
    return ImageEBT(4, patch=2, channels=2, layers=1, heads=2, dim=8)


SYSTEM_1 = Descent(0.5, learned=True, detach=True, softmax=True, return_trajectory=True)
SYSTEM_2 = Descent(0.3, noise=0.3, step_size_jitter=2.0, step_size_jitter_axes=2)


@pytest.mark.parametrize(
    ("make", "objective", "sampler", "steps", "backprop", "state"),
    [
        pytest.param(lambda: _text(2), TokenPrediction(), SYSTEM_1, 2, 2, text(3, 5), id="text-system-1"),
        pytest.param(_image, ImagePrediction(), SYSTEM_2, 2, 1, images(2, 4, 4), id="image-system-2"),
    ],
)
def test_a_compiled_step_has_the_gradients_of_one_that_is_not(
    make: Callable[[], EnergyModel],
    objective: Objective,
    sampler: Descent,
    steps: int,
    backprop: int,
    state: Callable[[int], State],
    graphs: CompileCounterWithBackend,
) -> None:
    model, batch, sampler = perturbed(make()), state(3), sampler.double()
    found = []
    for compiled in (False, True):
        module = EBM(model, objective, sampler, steps, backprop, acceleration=Acceleration(compile=compiled))
        torch.manual_seed(1)
        loss = module.training_step(batch, 0)["loss"]
        parameters = [p for p in module.parameters() if p.requires_grad]
        found.append((loss, torch.autograd.grad(loss, parameters, materialize_grads=True)))
        assert all(p.grad is None for p in module.parameters())
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
    assert sum(bool(slope.abs().max() > 0) for slope in found[1][1]) > len(found[1][1]) / 2
    assert _number(graphs) == 1


def test_each_number_of_steps_has_one_graph_and_the_chain_is_that_of_the_closed_form(graphs) -> None:
    """y_k = x + (1 - alpha a)^k (y_0 - x), and through the last step alone dy_k/da = -alpha r^(k-1) (y_0 - x)."""
    model, sampler = Bowl(), Descent(0.3)
    module = EBM(model, ImagePrediction(), sampler, 2, 1, acceleration=Acceleration(compile=True))
    for steps in (2, 3, 2):
        x, y = torch.randn(2, 5, 3, dtype=torch.float64)
        end, info = module.run_negative_chains({"x": x, "y": y}, steps, 1)
        r = 1 - 0.3 * model.a.item()
        torch.testing.assert_close(end["y"], x + r**steps * (y - x), rtol=1e-6, atol=1e-8)
        (slope,) = torch.autograd.grad(end["y"].sum(), model.a)
        torch.testing.assert_close(slope, -0.3 * r ** (steps - 1) * (y - x).sum(), rtol=1e-6, atol=1e-8)
        assert set(info) == {"energy", "grad_norm", "alpha", "drift_y"}
    assert _number(graphs) == 2
    assert module.eval().run_negative_chains({"x": x, "y": y}, 4)[0]["y"].requires_grad is False
    assert _number(graphs) == 2, "only training is compiled"


def test_langevin_compiled_to_code_continues_bit_for_bit_and_draws_what_torch_draws(
    ebm, tiny: Path, tmp_path: Path, monkeypatch
) -> None:
    def fit(run: str, *arguments: object) -> Path:
        assert ebm("fit", "-c", tiny, "--run", tmp_path / "x" / run, *SHORT, *arguments)[0] == 0
        return tmp_path / "x" / run

    compiled = "--model.init_args.acceleration.compile=true"
    straight, plain = fit("straight", compiled), fit("plain")
    with monkeypatch.context() as patch:
        cut_at(patch, 6)
        with pytest.raises(PowerCut):
            fit("cut", compiled)
    cut = fit("cut", compiled)
    ours, theirs = ending(cut), ending(straight)
    assert all(identical(ours[key], theirs[key]) for key in KEPT)
    torch.testing.assert_close(theirs["state_dict"], ending(plain)["state_dict"], rtol=1e-3, atol=1e-5)


def test_a_run_that_cannot_be_compiled_says_what_is_missing(ebm, tiny: Path, monkeypatch) -> None:
    monkeypatch.setattr(fused_ops.shutil, "which", lambda name: None)
    status, said = ebm("fit", "-c", tiny, "--model.init_args.acceleration.compile=true")
    assert status == 1
    assert "compiled=True needs a C++ compiler on a CPU, but none of g++, clang++ and c++ was found" in said


def test_held_out_data_need_first_derivatives_alone(monkeypatch) -> None:
    """Validation of an objective that takes gradients, and a protocol that thinks: no graph to differentiate again."""
    asked, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *of, create_graph: asked.append(create_graph) or grad(*of))
    data = Pairs(torch.randint(0, 5, (14, 6)), torch.randint(0, 5, (14, 6)))
    sampler = Descent(0.3, learned=True, detach=True, return_trajectory=True, softmax=True)
    Perplexity(steps=[2]).measure(EBM(_text(), TokenPrediction(), sampler, 2, 2), data)
    assert asked == [False] * 4
    asked.clear()
    points = DataLoader([{"x": torch.randn(4, 2)} for _ in range(3)], batch_size=None)
    found = Trainer(**QUIET).validate(EBM(DeepEnergy(MLP(2, [4])), DenoisingScoreMatching(0.5)), points, verbose=False)
    assert set(found[0]) >= {"val/loss", "val/energy_data"}
    assert asked == [False] * 3


@pytest.mark.parametrize("pays", [True, False])
def test_what_pays_is_measured_once_and_remembered(
    pays: bool, ebm, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins: the compiled form is the function, and the slow one waits. The run is one that measured nothing."""
    called: list[str] = []

    def recorded(name: str, chain_function: Callable, slow: bool) -> Callable:
        def call(*arguments, **settings):
            called.append(name)
            time.sleep(0.02 if slow else 0)
            return chain_function(*arguments, **settings)

        return call

    def fit(run: str, *arguments: object) -> tuple[Path, str]:
        status, said = ebm("fit", "-c", tiny, "--run", tmp_path / "x" / run, *SHORT, *arguments)
        assert status == 0, said
        return tmp_path / "x" / run, said

    plain, _ = fit("plain")
    monkeypatch.setattr(
        fused_ops, "compiled", lambda chain_function: recorded("compiled", chain_function, slow=not pays)
    )
    monkeypatch.setattr(module_file, "run_chain_cached", recorded("plain", module_file.run_chain_cached, slow=pays))
    auto = "--model.init_args.acceleration.compile=auto"
    with monkeypatch.context() as patch:
        cut_at(patch, 6)
        with pytest.raises(PowerCut):
            fit("auto", auto)
    assert {"plain", "compiled"} == set(called)
    called.clear()
    run, said = fit("auto", auto)
    assert set(called) == {"compiled" if pays else "plain"}
    assert "a step takes" not in said.lower(), "it was measured once"
    assert all(identical(ending(run)[key], ending(plain)[key]) for key in KEPT)
    assert ending(run)["callbacks"]["AutoCompile"] == {"compiled": pays}
