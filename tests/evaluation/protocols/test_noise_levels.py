"""Predictions at several noise levels, against descent written out at each."""

import pytest
import torch
from support.predictions import Pairs, TowardsHalf
from torchmetrics.image import PeakSignalNoiseRatio

from ebm_lightning import EBM
from ebm_lightning.data import Digits, Noised
from ebm_lightning.energies import Denoiser
from ebm_lightning.evaluation import PredictionError
from ebm_lightning.objectives import ImagePrediction
from ebm_lightning.samplers import Descent
from ebm_lightning.utils.plots import plot_curves, plot_samples


def _noised() -> Noised:
    return Noised(Digits(100, bounds=(-1.0, 1.0)), levels={"weak": 9, "out of range": 199})


def test_noised_images_are_measured_at_every_level() -> None:
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
            psnr, mse = (found.measurements[f"{of} {name}"] for of in ("PSNR, dB", "MSE"))
            assert psnr.value == pytest.approx(float(reference(reached, batch["target"])), rel=1e-5)
            assert mse.value == pytest.approx(float((reached - batch["target"]).square().mean()), rel=1e-5)
            measured.append(psnr)
        values, errors = torch.tensor([[one.value, one.standard_error] for one in measured]).T
        lines[f"PSNR, dB {level}"] = torch.tensor([0.0, 2.0]), values, errors
    assert sum(" after " in name for name in found.measurements) == 8
    assert found.pictures["steps"].tobytes() == plot_curves(lines, "steps", "PSNR, dB").tobytes()


def test_examples_are_drawn_noised_thought_about_and_clean() -> None:
    data = _noised()
    found = PredictionError(steps=[0, 1, 3]).measure(EBM(TowardsHalf(), ImagePrediction(), Descent(1.0)), data)
    assert set(found.pictures) == {"steps", "examples-weak", "examples-out-of-range"}
    for level in data.levels:
        batch = {name: value[:8] for name, value in data.at(level).tensors("test").items()}
        x, target = batch["x"], batch["target"]
        expected = plot_samples(torch.cat([x, x / 2, x / 8, target]), (-1.0, 1.0), 8)
        assert found.pictures[f"examples-{level.replace(' ', '-')}"].tobytes() == expected.tobytes()


def test_one_pass_is_measured_at_every_level_too() -> None:
    data = _noised()
    found = PredictionError().measure(EBM(Denoiser(torch.nn.Identity()), ImagePrediction()), data)
    assert set(found.measurements) == {f"{of} {level}" for of in ("PSNR, dB", "MSE") for level in data.levels}
    assert set(found.pictures) == {"examples-weak", "examples-out-of-range"}


def test_data_of_one_level_keep_their_names() -> None:
    pairs = Pairs(torch.rand(9, 1, 4, 4), torch.rand(9, 1, 4, 4), (0.0, 1.0))
    found = PredictionError(steps=[1, 2]).measure(EBM(TowardsHalf(), ImagePrediction(), Descent(1.0)), pairs)
    assert set(found.pictures) == {"steps", "examples"}
    assert next(iter(found.measurements)) == "PSNR, dB after 1 step"
    without = Noised(Digits(100, bounds=(-1.0, 1.0)), levels={})
    found = PredictionError(steps=[1]).measure(EBM(TowardsHalf(), ImagePrediction(), Descent(1.0)), without)
    assert {"PSNR, dB after 1 step", "MSE after 1 step"} <= set(found.measurements)
    assert not any("range" in name for name in found.measurements)
