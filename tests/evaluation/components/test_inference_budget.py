"""Errors after each number of steps, on energies whose descent is known, and of predictions in one pass."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.oracles import Examples, identical
from support.predictions import Pairs, TowardsHalf
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.text import Perplexity as Reference

from ebm_lightning import EBM
from ebm_lightning.chains import SampleBuffer
from ebm_lightning.core import EnergyModel, State
from ebm_lightning.data.base import DataModule, Subset
from ebm_lightning.data.sources import InMemory
from ebm_lightning.distributions import UniformNoise
from ebm_lightning.energies import Denoiser, NextToken
from ebm_lightning.evaluation import Findings, Perplexity, PredictionError
from ebm_lightning.evaluation.protocols.prediction import perplexity
from ebm_lightning.objectives import ImagePrediction, TokenPrediction
from ebm_lightning.runs import checkpoints
from ebm_lightning.samplers import Descent


class Table(EnergyModel):
    """E(x, y) = sum over positions of table[x_t] . y_t: k steps from 0 without normalizing reach -k alpha table[x]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.table[x] * y).flatten(1).sum(1)

    def positive_phase(self, batch: State) -> State:
        return {"y": torch.zeros(*batch["x"].shape, len(self.table)), **batch}


def _values(findings: Findings) -> dict[str, float]:
    return {name: found.value for name, found in findings.measurements.items()}


def _text() -> Pairs:
    return Pairs(torch.randint(0, 5, (20, 6)), torch.randint(0, 5, (20, 6)))


def test_perplexity_after_each_number_of_steps_is_torchmetrics_on_the_closed_form() -> None:
    """With spread step sizes, a path and a buffer, all of which are matters of training."""
    model, data = Table(5), _text()
    sampler = Descent(0.3, spread=3.0, return_trajectory=True)
    module = EBM(model, TokenPrediction(), sampler)
    found = _values(Perplexity(steps=[0, 1, 4], ignore=3).measure(module, data))
    x, target = data.rows["x"], data.rows["target"]
    for k, name in ((0, "0 steps"), (1, "1 step"), (4, "4 steps")):
        reference = Reference(ignore_index=3)
        reference.update((-k * 0.3 * model.table[x]).detach(), target)
        assert found[f"perplexity after {name}"] == pytest.approx(float(reference.compute()), rel=1e-5)
    assert found["perplexity after 0 steps"] == pytest.approx(5)
    assert sampler.training


def test_predictions_start_where_chains_are_born() -> None:
    data, buffer = _text(), SampleBuffer(8, noise=UniformNoise(2.0, 2.0 + 1e-6))
    module = EBM(Table(5), TokenPrediction(), Descent(0.3, normalize=True), chains=buffer)
    assert _values(Perplexity(steps=[0]).measure(module, data))["perplexity"] == pytest.approx(5, rel=1e-4)
    assert not buffer.store


def test_the_perplexity_of_one_pass() -> None:
    data, net = _text(), nn.Embedding(5, 5)
    findings = Perplexity(num_examples=10).measure(EBM(NextToken(net), TokenPrediction()), data)
    logits, target = net(data.rows["x"][:10]).detach(), data.rows["target"][:10]
    assert set(findings.measurements) == {"perplexity"}
    expected = F.cross_entropy(logits.flatten(0, 1), target.flatten()).exp()
    assert findings.measurements["perplexity"].value == pytest.approx(float(expected), rel=1e-5)
    of_sequences = F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(1)
    error = float(expected * of_sequences.std() / math.sqrt(10))
    assert findings.measurements["perplexity"].standard_error == pytest.approx(error, rel=1e-5)


def test_the_standard_error_of_a_ratio_is_that_of_repetitions() -> None:
    """Sequences of different length and error: the spread over 4000 repetitions, within five standard errors of it."""
    tokens = torch.randint(3, 20, (4000, 200), dtype=torch.float64)
    error = tokens * (1 + 0.5 * torch.rand_like(tokens))
    found = [perplexity(e, t) for e, t in zip(error, tokens, strict=True)]
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([one.standard_error for one in found])
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1, abs=5 / math.sqrt(2 * 4000))


def test_denoising_error_after_each_number_of_steps_is_the_closed_form() -> None:
    x, target = torch.rand(20, 1, 4, 4), torch.rand(20, 1, 4, 4)
    module = EBM(TowardsHalf(), ImagePrediction(), Descent(1.0))
    found = _values(PredictionError(steps=[0, 1, 2]).measure(module, Pairs(x, target, (0.0, 1.0))))
    for k, name in enumerate(("0 steps", "1 step", "2 steps")):
        reference = PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
        assert found[f"PSNR, dB after {name}"] == pytest.approx(float(reference(x / 2**k, target)), rel=1e-5)
        assert found[f"MSE after {name}"] == pytest.approx(float((x / 2**k - target).square().mean()), rel=1e-5)


def test_the_denoising_error_of_one_pass_is_of_values_within_the_bounds() -> None:
    x, target = 3 * torch.randn(9, 1, 4, 4), torch.rand(9, 1, 4, 4)
    module = EBM(Denoiser(nn.Identity()), ImagePrediction())
    found = _values(PredictionError().measure(module, Pairs(x, target, (0.0, 1.0))))
    assert found["MSE"] == pytest.approx(float((x.clamp(0, 1) - target).square().mean()), rel=1e-5)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="each at least 0, and num_examples >= 1"):
        Perplexity(steps=[])
    with pytest.raises(ValueError, match="each at least 0, and num_examples >= 1"):
        PredictionError(num_examples=0)
    images = Pairs(torch.rand(3, 1, 2, 2), torch.rand(3, 1, 2, 2))
    module = EBM(TowardsHalf(), ImagePrediction(), Descent(1.0))
    with pytest.raises(ValueError, match="has no bounds"):
        PredictionError().measure(module, images)
    with pytest.raises(ValueError, match=r"\['target'\] is not in the state"):
        Perplexity().measure(module, Examples(torch.rand(3, 2)))


class Cycle(DataModule):
    """Windows of a text that runs through its tokens in turn."""

    def __init__(self, vocabulary: int = 4, positions: int = 6) -> None:
        super().__init__(8, valid=16, split_seed=0, seed=None, memory_gb=1.0)
        self.vocabulary, self.positions = vocabulary, positions

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.positions,)

    def load(self) -> tuple[Subset, Subset]:
        tokens = (torch.arange(64)[:, None] + torch.arange(self.positions + 1)) % self.vocabulary
        rows = InMemory({"x": tokens[:, :-1], "target": tokens[:, 1:]})
        return Subset(rows, torch.arange(48)), Subset(rows, torch.arange(48, 64))

    def prepare(self, batch: State, generator: torch.Generator, train: bool) -> State:
        return {name: batch[name] for name in ("x", "target")}


SYSTEMS = {
    "System 1": """
    sampler:
      class_path: Descent
      init_args:
        step_size: 5.0
        learned: true
        lr_multiplier: 15.0
        detach: true
        normalize: true
        return_trajectory: true
    steps: 2
    backprop: 2
    chains: {class_path: NoiseChains, init_args: {noise: {class_path: GaussianNoise}}}
""",
    "System 2": """
    sampler:
      class_path: Descent
      init_args: {step_size: 5.0, noise: 0.1, normalize: true, spread: 2.0, step_size_jitter_axes: 2}
    steps: {class_path: RandomSteps, init_args: {low: 2, high: 3}}
    backprop: 1
    chains:
      class_path: SampleBuffer
      init_args:
        size: 16
        reinit_prob: 0.5
        noise: {class_path: GaussianNoise}
        replacement: {class_path: FIFO}
        keep: [x, target]
""",
}
RUN = """
seed_everything: 0
trainer: {{max_steps: {steps}, accelerator: cpu, devices: 1, log_every_n_steps: 1, val_check_interval: 2,
  enable_progress_bar: false, enable_model_summary: false}}
model:
  class_path: EBM
  init_args:
    model:
      class_path: TextEBT
      init_args:
        vocabulary: 4
        layers: 1
        heads: 1
        dim: 8
        condition: {{class_path: StepToken, init_args: {{landscapes: 2}}}}
    objective: {{class_path: TokenPrediction}}
{system}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01, weight_decay: 0.01}}}}
data: {{class_path: test_inference_budget.Cycle}}
checkpoint: {{every_n_steps: 2}}
samples: {{every_n_steps: 2, num_chains: 3, steps: 2}}
evaluation: [{{class_path: Perplexity, init_args: {{steps: [1, 2]}}}}]
"""


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_learns_continues_predicts_and_is_judged(system: str, ebm, tmp_path: Path) -> None:
    """Four steps at once have the weights of two steps and two more, from the configuration alone."""
    file, weights = tmp_path / "run.yaml", []
    for name, parts in (("whole", [4]), ("parts", [2, 4])):
        for steps in parts:
            file.write_text(RUN.format(system=SYSTEMS[system], steps=steps))
            status, said = ebm("fit", "-c", file, "--run", tmp_path / name)
            assert status == 0, said
        weights.append(checkpoints.load(tmp_path / name / "checkpoints" / "step=00000004.ckpt")["state_dict"])
    assert identical(*weights)
    assert ("sampler.alpha" in weights[0]) == (system == "System 1")
    status, said = ebm("test", tmp_path / "whole")
    assert status == 0, said
    assert "perplexity after 2 steps" in said
    (archive,) = (tmp_path / "whole" / "samples").glob("*.npz")
    drawn = np.load(archive)
    assert drawn["x"].tolist() == [[(row + t) % 4 for t in range(6)] for row in range(3)]
    assert drawn["y"].shape == (3, 6, 4)


def test_the_number_of_steps_that_serves_best_is_named() -> None:
    """By the values beside it; of the noised image nothing is said, and one pass has no steps."""
    model, data = Table(5), _text()
    found = _values(Perplexity(steps=[0, 1, 4, 9]).measure(EBM(model, TokenPrediction(), Descent(0.3)), data))
    by_steps = {k: found[f"perplexity after {k} step{'s' * (k > 1)}"] for k in (1, 4, 9)}
    assert found["steps of the lowest perplexity"] == min(by_steps, key=by_steps.get)
    x = torch.rand(9, 1, 4, 4)
    pairs = Pairs(x, x / 4, (0.0, 1.0))
    found = _values(
        PredictionError(steps=[0, 1, 2, 3]).measure(EBM(TowardsHalf(), ImagePrediction(), Descent(1.0)), pairs)
    )
    assert found["steps of the highest PSNR"] == 2  # each step halves: two of them reach a quarter
