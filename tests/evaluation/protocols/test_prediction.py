"""Errors after each number of steps on energies whose descent is known, at one noise level and at several."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.oracles import Examples, Z, identical
from support.predictions import Pairs, TowardsHalf, random_tokens
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.text import Perplexity as Reference

from ebm_lightning import EBM
from ebm_lightning.chains import SampleBuffer
from ebm_lightning.core import EnergyModel, State
from ebm_lightning.data import DenoisingPairs, Digits
from ebm_lightning.distributions import UniformNoise
from ebm_lightning.energies import Denoiser, NextToken
from ebm_lightning.evaluation import Perplexity, PredictionError, ProtocolResult
from ebm_lightning.evaluation.protocol import snake_case
from ebm_lightning.evaluation.protocols.prediction import perplexity
from ebm_lightning.objectives import ImagePrediction, TokenPrediction
from ebm_lightning.runs import checkpoints
from ebm_lightning.samplers import Descent
from ebm_lightning.utils.plots import plot_curves, plot_samples


def _noised() -> DenoisingPairs:
    return DenoisingPairs(Digits(100, bounds=(-1.0, 1.0)), levels={"weak": 9, "out of range": 199})


def test_PredictionError_is_measured_at_every_level() -> None:
    """A step halves what is there: PSNR and MSE in closed form, under the names of the levels, a curve for each."""
    data = _noised()
    found = PredictionError(steps=[0, 2], num_examples=150).measure(
        EBM(TowardsHalf(), ImagePrediction(), Descent(1.0)), data
    )
    lines = {}
    for level in data.levels:
        batch = {name: value[:150] for name, value in data.at(level).tensors("test").items()}
        measured = []
        for k in (0, 2):
            reached, name = (batch["x"] / 2**k).clamp(-1, 1), f"{level} after {k} steps"
            reference = PeakSignalNoiseRatio(data_range=2.0, reduction="elementwise_mean", dim=(1, 2, 3))
            psnr, mse = (found.measurements[f"{of}_{snake_case(name)}"] for of in ("psnr_db", "mse"))
            assert psnr.value == pytest.approx(float(reference(reached, batch["target"])), rel=1e-5)
            assert mse.value == pytest.approx(float((reached - batch["target"]).square().mean()), rel=1e-5)
            measured.append(psnr)
        values, errors = torch.tensor([[one.value, one.standard_error] for one in measured]).T
        lines[f"PSNR, dB {level}"] = torch.tensor([0.0, 2.0]), values, errors
    assert sum("_after_" in name for name in found.measurements) == 8
    assert found.pictures["steps"].tobytes() == plot_curves(lines, "steps", "PSNR, dB").tobytes()


def test_PredictionError_draws_examples_noised_thought_about_and_clean() -> None:
    data = _noised()
    found = PredictionError(steps=[0, 1, 3]).measure(EBM(TowardsHalf(), ImagePrediction(), Descent(1.0)), data)
    assert set(found.pictures) == {"steps", "examples-weak", "examples-out-of-range"}
    for level in data.levels:
        batch = {name: value[:8] for name, value in data.at(level).tensors("test").items()}
        x, target = batch["x"], batch["target"]
        expected = plot_samples(torch.cat([x, x / 2, x / 8, target]), (-1.0, 1.0), 8)
        assert found.pictures[f"examples-{level.replace(' ', '-')}"].tobytes() == expected.tobytes()


def test_PredictionError_of_one_pass_is_measured_at_every_level_too() -> None:
    data = _noised()
    found = PredictionError().measure(EBM(Denoiser(torch.nn.Identity()), ImagePrediction()), data)
    assert set(found.measurements) == {
        f"{of}_{snake_case(level)}" for of in ("psnr_db", "mse") for level in data.levels
    }
    assert set(found.pictures) == {"examples-weak", "examples-out-of-range"}


def test_PredictionError_of_data_of_one_level_keeps_their_names() -> None:
    pairs = Pairs(torch.rand(9, 1, 4, 4), torch.rand(9, 1, 4, 4), (0.0, 1.0))
    found = PredictionError(steps=[1, 2]).measure(EBM(TowardsHalf(), ImagePrediction(), Descent(1.0)), pairs)
    assert set(found.pictures) == {"steps", "examples"}
    assert next(iter(found.measurements)) == "psnr_db_after_1_step"
    without = DenoisingPairs(Digits(100, bounds=(-1.0, 1.0)), levels={})
    found = PredictionError(steps=[1]).measure(EBM(TowardsHalf(), ImagePrediction(), Descent(1.0)), without)
    assert {"psnr_db_after_1_step", "mse_after_1_step"} <= set(found.measurements)
    assert not any("range" in name for name in found.measurements)


class Table(EnergyModel):
    """E(x, y) = sum over positions of table[x_t] . y_t: k steps from 0 without normalizing reach -k alpha table[x]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.table[x] * y).flatten(1).sum(1)

    def positive_phase(self, batch: State) -> State:
        return {"y": torch.zeros(*batch["x"].shape, len(self.table)), **batch}


def _values(result: ProtocolResult) -> dict[str, float]:
    return {name: found.value for name, found in result.measurements.items()}


def test_Perplexity_after_each_number_of_steps_is_torchmetrics_on_the_closed_form() -> None:
    """With spread step sizes, a path and a buffer, all of which are matters of training."""
    model, data = Table(5), random_tokens()
    sampler = Descent(0.3, step_size_jitter=3.0, return_trajectory=True)
    module = EBM(model, TokenPrediction(), sampler)
    found = _values(Perplexity(steps=[0, 1, 4], ignore=3).measure(module, data))
    x, target = data.rows["x"], data.rows["target"]
    for k, name in ((0, "0_steps"), (1, "1_step"), (4, "4_steps")):
        reference = Reference(ignore_index=3)
        reference.update((-k * 0.3 * model.table[x]).detach(), target)
        assert found[f"perplexity_after_{name}"] == pytest.approx(float(reference.compute()), rel=1e-5)
    assert found["perplexity_after_0_steps"] == pytest.approx(5)
    assert sampler.training


def test_Perplexity_starts_where_chains_are_born() -> None:
    data, buffer = random_tokens(), SampleBuffer(8, init=UniformNoise(2.0, 2.0 + 1e-6))
    module = EBM(Table(5), TokenPrediction(), Descent(0.3, softmax=True), chains=buffer)
    assert _values(Perplexity(steps=[0]).measure(module, data))["perplexity"] == pytest.approx(5, rel=1e-4)
    assert not buffer.store


def test_Perplexity_of_one_pass() -> None:
    data, net = random_tokens(), nn.Embedding(5, 5)
    result = Perplexity(num_examples=10).measure(EBM(NextToken(net), TokenPrediction()), data)
    logits, target = net(data.rows["x"][:10]).detach(), data.rows["target"][:10]
    assert set(result.measurements) == {"perplexity"}
    expected = F.cross_entropy(logits.flatten(0, 1), target.flatten()).exp()
    assert result.measurements["perplexity"].value == pytest.approx(float(expected), rel=1e-5)
    of_sequences = F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(1)
    error = float(expected * of_sequences.std() / math.sqrt(10))
    assert result.measurements["perplexity"].standard_error == pytest.approx(error, rel=1e-5)


def test_Perplexity_has_the_standard_error_of_repetitions() -> None:
    """Sequences of different length and error: the spread over 4000 repetitions, within Z standard errors of it."""
    tokens = torch.randint(3, 20, (4000, 200), dtype=torch.float64)
    error = tokens * (1 + 0.5 * torch.rand_like(tokens))
    found = [perplexity(e, t) for e, t in zip(error, tokens, strict=True)]
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([one.standard_error for one in found])
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1, abs=Z / math.sqrt(2 * 4000))


def test_PredictionError_after_each_number_of_steps_is_the_closed_form() -> None:
    x, target = torch.rand(20, 1, 4, 4), torch.rand(20, 1, 4, 4)
    module = EBM(TowardsHalf(), ImagePrediction(), Descent(1.0))
    found = _values(PredictionError(steps=[0, 1, 2]).measure(module, Pairs(x, target, (0.0, 1.0))))
    for k, name in enumerate(("0_steps", "1_step", "2_steps")):
        reference = PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
        assert found[f"psnr_db_after_{name}"] == pytest.approx(float(reference(x / 2**k, target)), rel=1e-5)
        assert found[f"mse_after_{name}"] == pytest.approx(float((x / 2**k - target).square().mean()), rel=1e-5)


def test_PredictionError_of_one_pass_is_of_values_within_the_bounds() -> None:
    x, target = 3 * torch.randn(9, 1, 4, 4), torch.rand(9, 1, 4, 4)
    module = EBM(Denoiser(nn.Identity()), ImagePrediction())
    found = _values(PredictionError().measure(module, Pairs(x, target, (0.0, 1.0))))
    assert found["mse"] == pytest.approx(float((x.clamp(0, 1) - target).square().mean()), rel=1e-5)


def test_Perplexity_and_PredictionError_refuse_what_cannot_be_measured() -> None:
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


SYSTEMS = {
    "System 1": """
    sampler:
      class_path: Descent
      init_args:
        step_size: 5.0
        learned: true
        detach: true
        softmax: true
        return_trajectory: true
    sampler_param_group: {lr_multiplier: 15.0}
    steps: 2
    backprop: 2
    chains: {class_path: NoiseChains, init_args: {init: {class_path: GaussianNoise}}}
""",
    "System 2": """
    sampler:
      class_path: Descent
      init_args: {step_size: 5.0, noise: 0.1, softmax: true, step_size_jitter: 2.0, step_size_jitter_axes: 2}
    steps: {class_path: RandomSteps, init_args: {low: 2, high: 3}}
    backprop: 1
    chains:
      class_path: SampleBuffer
      init_args:
        size: 16
        reinit_prob: 0.5
        init: {class_path: GaussianNoise}
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
data: {{class_path: support.predictions.Cycle}}
checkpoint: {{every_n_steps: 2}}
samples: {{every_n_steps: 2, num_chains: 3, steps: 2}}
evaluation: [{{class_path: Perplexity, init_args: {{steps: [1, 2]}}}}]
"""


@pytest.mark.parametrize("system", SYSTEMS)
def test_Perplexity_of_a_run_that_learns_continues_and_predicts(system: str, ebm, tmp_path: Path) -> None:
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


def test_Perplexity_and_PredictionError_name_the_number_of_steps_that_serves_best() -> None:
    """By the values beside it; of the noised image nothing is said, and one pass has no steps."""
    model, data = Table(5), random_tokens()
    found = _values(Perplexity(steps=[0, 1, 4, 9]).measure(EBM(model, TokenPrediction(), Descent(0.3)), data))
    by_steps = {k: found[f"perplexity_after_{k}_step{'s' * (k > 1)}"] for k in (1, 4, 9)}
    assert found["steps_of_lowest_perplexity"] == min(by_steps, key=by_steps.get)
    x = torch.rand(9, 1, 4, 4)
    pairs = Pairs(x, x / 4, (0.0, 1.0))
    found = _values(
        PredictionError(steps=[0, 1, 2, 3]).measure(EBM(TowardsHalf(), ImagePrediction(), Descent(1.0)), pairs)
    )
    assert found["steps_of_highest_psnr"] == 2  # each step halves: two of them reach a quarter
