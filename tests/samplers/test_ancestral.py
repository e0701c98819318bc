"""Samples against the enumerated law of their machine."""

import pytest
import torch
from support.helmholtz import WIDTHS, every_state, machine
from support.oracles import assert_counts, bits, identical, index_of

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import run_chain
from ebm_lightning.data import Bars
from ebm_lightning.distributions import UniformNoise
from ebm_lightning.energies import RBM, HelmholtzMachine, PerClass
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.generation.samples import empty_batch, fresh_chains, save_samples
from ebm_lightning.objectives import WakeSleep
from ebm_lightning.samplers import Ancestral

F64 = torch.float64


def test_Ancestral_samples_follow_the_enumeration() -> None:
    model, start = machine(), {name: torch.zeros(5_000, width) for name, width in WIDTHS.items()}
    end, _ = run_chain(Ancestral(("x", "h1", "h2")), model, start, steps=1)
    draws = torch.cat([end[name] for name in WIDTHS], 1)
    p = (-model.energy(every_state(WIDTHS))).exp().detach()
    assert_counts(torch.bincount(index_of(draws), minlength=len(p)), p)
    assert draws.dtype == F64
    assert not draws.requires_grad


def test_Ancestral_samples_under_a_clamped_latent_follow_the_conditional() -> None:
    model, states = machine(), every_state(WIDTHS)
    latent = torch.tensor([0.0, 1.0], dtype=F64)
    start = {"x": torch.zeros(5_000, 3), "h1": torch.zeros(5_000, 3), "h2": latent.expand(5_000, -1)}
    end, _ = Ancestral(("x", "h1")).step(model, start)
    assert end["h2"] is start["h2"]
    draws = torch.cat([end["x"], end["h1"]], 1)
    log_p = -model.energy({**every_state({"x": 3, "h1": 3}), "h2": latent.expand(64, -1)}).detach()
    assert_counts(torch.bincount(index_of(draws), minlength=64), log_p.softmax(0))
    assert len(states["x"]) == 256


def test_where_an_ancestral_sample_starts_does_not_matter() -> None:
    model = machine()
    samples = []
    for start in (torch.zeros, torch.rand):
        state = {name: start(50, width, dtype=F64) for name, width in WIDTHS.items()}
        torch.manual_seed(1)
        samples.append(Ancestral(("x", "h1", "h2")).step(model, state)[0])
    assert identical(*samples)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_an_ancestral_sample_leaves_no_graph_no_gradient_and_the_clamped_object(context) -> None:
    model, sampler = machine(), Ancestral(("x", "h1", "h2"))
    with context():
        state = {**every_state(WIDTHS), "y": torch.zeros(256)}
        end, info = run_chain(sampler, model, state, steps=2)
    assert end["y"] is state["y"]
    assert not any(end[name].requires_grad for name in WIDTHS)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert set(info) == {"drift_x", "drift_h1", "drift_h2"}


def test_fresh_chains_and_their_files_are_ancestral_samples(tmp_path) -> None:
    """Layers that are no images are left out of the pictures, and kept in the arrays."""
    model = HelmholtzMachine({"x": Bernoulli([1, 4, 4])}, [5, 1])
    module = EBM(model, WakeSleep(), Ancestral(("x", "h1", "h2")), chains=NoiseChains(UniformNoise()))
    state = fresh_chains(module, empty_batch(Bars(), 9, torch.device("cpu")), steps=2)
    assert set(state["x"].unique().tolist()) <= {0.0, 1.0}
    files = [file.name for file in save_samples(module, state, tmp_path, "samples")]
    assert "samples.png" in files
    assert "samples.npz" in files
    assert "samples-h1.png" not in files


BITS = {"x": Bernoulli([3])}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Ancestral(()), "nothing to draw"),
        (
            lambda: Ancestral(("x", "h2")).step(machine(), {"x": bits(3)}),
            "cannot draw free=.*without the topmost layers",
        ),
        (lambda: Ancestral(("x", "h3")).step(machine(), {"x": bits(3)}), "cannot draw free="),
        (lambda: Ancestral(("x",)).step(RBM(BITS, 2), {"x": bits(3)}), "RBM is not AncestralSampleable"),
        (
            lambda: Ancestral(("x", "y")).step(PerClass(machine(), 2), {"x": bits(3), "y": torch.zeros(8).long()}),
            "PerClass cannot draw the label",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
