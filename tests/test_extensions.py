"""Energies, samplers, objectives, chains, data and protocols from outside the package train, continue and measure."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import TESTS
from support.continued import PowerCut, cut_at, newest_checkpoint
from support.oracles import identical

from ebm_lightning.runs.folder import RunFolder


@pytest.fixture(autouse=True)
def _extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS / "support" / "extensions"))


@pytest.mark.parametrize(
    "parts",
    [
        ("--model.init_args.chains=my_chains.ChainQueue", "--model.init_args.chains.init_args.size=40"),
        ("--model.init_args.sampler=my_adaptive_sampler.AdaptedLangevin", "--model.init_args.sampler.step_size=0.01"),
        (
            *("--model.init_args.chains=my_chains.ChainQueue", "--model.init_args.chains.init_args.size=40"),
            "--model.init_args.sampler=my_adaptive_sampler.AdaptedLangevin",
            "--model.init_args.sampler.init_args.step_size=0.01",
        ),
    ],
    ids=["Chains", "AdaptiveSampler", "both"],
)
def test_a_run_with_outside_state_continues_bit_for_bit(parts, ebm, tiny: Path, tmp_path: Path, monkeypatch) -> None:
    straight, cut = tmp_path / "x" / "straight", tmp_path / "x" / "cut"
    status, said = ebm("fit", "-c", tiny, "--run", straight, *parts)
    assert status == 0, said
    for step in (3, 7, 10):
        with monkeypatch.context() as patch:
            cut_at(patch, step)
            with pytest.raises(PowerCut):
                ebm("fit", "-c", tiny, "--run", cut, *parts)
    assert ebm("fit", "-c", tiny, "--run", cut, *parts)[0] == 0
    (whole, rank_state), (other, other_rank_state) = newest_checkpoint(straight), newest_checkpoint(cut)
    assert identical(whole["state_dict"], other["state_dict"])
    assert identical(rank_state, other_rank_state)
    assert any("BufferCallback" in key or "SamplerState" in key for key, state in rank_state.items() if state)


CONFIGURATION = """
seed_everything: 0
trainer: {max_steps: 60, accelerator: cpu, devices: 1, log_every_n_steps: 1, val_check_interval: 60,
  enable_progress_bar: false, enable_model_summary: false}
model:
  class_path: EBM
  init_args:
    model: {class_path: my_energy.RingEnergy, init_args: {radius: 1.0}}
    objective: {class_path: my_objective.LogisticContrast, init_args: {offset: 0.5}}
    sampler: {class_path: my_sampler.RandomWalkMetropolis, init_args: {scale: 0.5}}
    steps: 5
    chains: {class_path: NoiseChains, init_args: {init: {class_path: GaussianNoise}}}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.02}}
data: {class_path: my_data.Ring, init_args: {batch_size: 32, samples: 400, test_size: 50}}
checkpoint: {every_n_steps: 60}
samples: {every_n_steps: 0}
evaluation:
  - {class_path: my_protocol.EnergyIncrease, init_args: {std: 0.5}}
"""


def test_a_run_of_outside_energy_sampler_objective_and_data_trains_samples_and_is_measured(ebm, tmp_path: Path) -> None:
    """The energy and the measurement are written out here, from the parameters of the checkpoint."""
    from my_data import Ring

    (tmp_path / "tiny.yaml").write_text(CONFIGURATION)
    run = tmp_path / "run"
    status, said = ebm("fit", "-c", tmp_path / "tiny.yaml", "--run", run)
    assert status == 0, said
    weights = torch.load(RunFolder(run).checkpoints()[-1], weights_only=True)["state_dict"]
    radius, precision = float(weights["model.radius"]), float(weights["model.log_precision"].exp())
    assert abs(radius - 2) < abs(1 - 2) / 2, "more than half the way from the initial circle to that of the data"

    def energy(x: np.ndarray) -> np.ndarray:
        return precision / 2 * (np.hypot(x[:, 0], x[:, 1]) - radius) ** 2

    status, said = ebm("sample", run, "--num-samples", 7, "--steps", 3)
    assert status == 0, said
    drawn = np.load(run / "samples" / "fresh-3-steps-seed-0.npz")
    assert drawn["x"].shape == (7, 2)
    np.testing.assert_allclose(drawn["energy"], energy(drawn["x"].astype(float)), rtol=1e-4, atol=1e-6)

    status, said = ebm("test", run)
    assert status == 0, said
    record = json.loads((run / "evaluation" / "EnergyIncrease.json").read_text())
    x = Ring(samples=400, test_size=50).tensors("test")["x"]
    torch.manual_seed(0)  # the stream of a protocol on rank 0
    noise = torch.randn(50, 2)
    increase = energy((x + 0.5 * noise).double().numpy()) - energy(x.double().numpy())
    found = record["measurements"]["energy_increase"]
    assert found["value"] == pytest.approx(increase.mean(), rel=1e-5)
    assert found["standard_error"] == pytest.approx(increase.std(ddof=1) / 50**0.5, rel=1e-5)
    assert (record["protocol"], record["settings"]) == ("EnergyIncrease(std=0.5)", {"std": 0.5})
    assert "increase of the energy by noise" in said
