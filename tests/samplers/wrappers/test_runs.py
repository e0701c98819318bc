"""Runs that replicas, snapshots and fast weights are part of: what they learn, and that they continue bit for bit."""

from pathlib import Path

import pytest
import torch
from support.fits import fit, sgd, to_zero
from support.four_bits import divergence, divergence_without_hidden_units, four_bits_law
from support.oracles import bits, identical

from ebm_lightning import EBM
from ebm_lightning.chains import SampleBuffer
from ebm_lightning.core import Sampler
from ebm_lightning.distributions import BernoulliNoise
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.samplers import FastWeights, Gibbs, ParallelTempering, TrajectoryTempering

GIBBS = Gibbs(("h", "x"))


@pytest.mark.parametrize(
    "sampler",
    [
        ParallelTempering(GIBBS, betas=(1.0, 0.5, 0.0)),
        TrajectoryTempering(GIBBS, rungs=2, threshold=0.9),
        FastWeights(GIBBS, rate=0.05),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_persistent_chains_with_each_of_them_bring_an_rbm_near_to_four_bits(sampler: Sampler) -> None:
    """KL(data || model), enumerated, falls below a tenth of the least that independent units can reach."""
    steps, batch, law = 200, 128, four_bits_law()
    independent = divergence_without_hidden_units(law)
    model = RBM({"x": Bernoulli([4])}, 6, weight_std=0.5)
    before = divergence(law, model)
    data = bits(4)[torch.multinomial(law, steps * batch, replacement=True)].float()
    chains = SampleBuffer(batch, init=BernoulliNoise())
    module = EBM(
        model,
        ContrastiveDivergence(),
        sampler,
        2,
        chains=chains,
        optimizer=sgd(1.0),
        scheduler=to_zero(steps),
    )
    fit(module, data, steps, batch)
    assert before > independent / 2
    assert divergence(law, model) < independent / 10


CONFIGURATION = """
seed_everything: 3
trainer: {max_steps: 12, accelerator: cpu, devices: 1, log_every_n_steps: 1, val_check_interval: 5,
          enable_progress_bar: false, enable_model_summary: false}
model:
  class_path: EBM
  init_args:
    model:
      class_path: RBM
      init_args:
        visible: {x: {class_path: Bernoulli, init_args: {shape: [1, 3, 3]}}}
        hidden: 5
        weight_std: 1.0
        centering: 0.1
    objective: ContrastiveDivergence
    sampler: %s
    steps: 2
    chains: {class_path: SampleBuffer, init_args: {size: 32, reinit_prob: 0.1, init: BernoulliNoise}}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.5}}
data: {class_path: BarsAndStripes, init_args: {side: 3, batch_size: 16, samples: 64}}
checkpoint: {every_n_steps: 6}
samples: {every_n_steps: 4, num_chains: 4, steps: 3}
"""


INNER = "{class_path: Gibbs, init_args: {free: [h, x]}}"


SAMPLERS = {
    "replicas": f"{{class_path: ParallelTempering, init_args: {{sampler: {INNER}, betas: [1.0, 0.5, 0.1]}}}}",
    "snapshots": f"{{class_path: TrajectoryTempering, init_args: {{sampler: {INNER}, rungs: 2, threshold: 1.0}}}}",
    "fast weights": f"{{class_path: FastWeights, init_args: {{sampler: {INNER}, rate: 0.5}}}}",
}


def _final(folder: Path) -> dict:
    newest = RunFolder(folder).checkpoints()[-1]
    sides = [torch.load(file, weights_only=True) for file in checkpoints.rank_files(newest)]
    return {"rank files": sides, **torch.load(newest, weights_only=True)}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_ParallelTempering_TrajectoryTempering_and_FastWeights_continue_bit_for_bit_and_pictures_move_no_chain(
    kind: str, ebm, tmp_path: Path
) -> None:
    """Bit for bit: weights, optimizer, chains with replicas, snapshots and fast weights, random streams."""
    file = tmp_path / "run.yaml"
    file.write_text(CONFIGURATION % SAMPLERS[kind])
    straight, cut, blind = (tmp_path / "x" / name for name in ("straight", "cut", "blind"))
    assert ebm("fit", "-c", file, "--run", straight)[0] == 0
    assert ebm("fit", "-c", file, "--run", cut, "--trainer.max_steps", 6)[0] == 0
    assert ebm("fit", "-c", file, "--run", cut)[0] == 0
    assert ebm("fit", "-c", file, "--run", blind, "--samples.every_n_steps", 0)[0] == 0
    truth = _final(straight)
    (side,) = truth["rank files"]
    assert any("SamplerState" in key for key in side) == (kind != "replicas")
    assert all(bool(value) for value in side.values())
    for other in (cut, blind):
        ours = _final(other)
        for key in ("state_dict", "optimizer_states", "rank files", "global_step"):
            assert identical(ours[key], truth[key]), key
    drawn = {path.parent.relative_to(straight).as_posix() for path in straight.glob("samples/*/*/*.png")}
    assert drawn == {"samples/fresh/x", "samples/chains/x", "samples/chains/age"}
