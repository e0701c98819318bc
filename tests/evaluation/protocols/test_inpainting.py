"""Repaired images against the conditional law, and what repairing them is measured by."""

from pathlib import Path

import pytest
import torch
from support.oracles import Examples, Z
from support.pictures import COVARIANCE, MEAN, Picture, conditional_law
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import EnergyModel, Sampler
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.evaluation import AdditiveGaussianNoise, BottomHalf, Denoising, Inpainting
from ebm_lightning.evaluation.protocols.inpainting import squared_error
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import MALA, Langevin
from ebm_lightning.utils import plots

F64 = torch.float64


def _module(sampler: Sampler | None) -> EBM:
    return EBM(Picture(), ContrastiveDivergence(), sampler=sampler, chains=NoiseChains(GaussianNoise()))


def _data(n: int, **settings: object) -> Examples:
    return Examples(Picture().sample(n).view(n, 1, 2, 2), **settings)


def test_a_perfect_model_inpaints_with_twice_the_conditional_variance() -> None:
    """Truth and draw are independent given the known half; the mean image has the marginal variance."""
    result = Inpainting(BottomHalf(), num_examples=3000, steps=60).measure(_module(MALA(0.2)), _data(3000))
    _, covariance = conditional_law([0, 1], [2, 3], MEAN[None, :2])
    expected = {"mse": 2 * covariance.trace() / 2, "mean_image_mse": COVARIANCE[2:, 2:].trace() / 2}
    for name, value in expected.items():
        for split in ("test", "training"):
            found = result.measurements[f"{name}_{split}"]
            assert abs(found.value - value) < Z * found.standard_error < 0.2 * value
    assert result.pictures.keys() == {"test", "training"}


def test_Denoising_by_descent_on_the_true_energy_has_its_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Langevin at temperature 0 takes x to mean + (I - s P)^k (x - mean)."""
    rows: list[Tensor] = []
    monkeypatch.setattr(plots, "plot_samples", lambda x, *_: rows.append(x))
    data, steps, s = _data(200, bounds=(-5.0, 5.0)), 4, 0.02
    protocol = Denoising(AdditiveGaussianNoise(1.0), num_examples=200, steps=steps)
    found = protocol.measure(_module(Langevin(s, temperature=0.0)), data).measurements
    truth, start, end = (part.flatten(1) for part in rows[0].view(3, 10, 1, 2, 2))
    shrunk = torch.linalg.matrix_power(torch.eye(4, dtype=F64) - s * torch.linalg.inv(COVARIANCE), steps)
    assert torch.allclose(end, MEAN + (start - MEAN) @ shrunk.T, atol=1e-10)
    assert all((truth != start).any(1))
    for split in ("test", "training"):
        before, after = (found[f"mse_{when}_{split}"] for when in ("before", "after"))
        assert abs(before.value - 1) < Z * before.standard_error
        # truth + noise z becomes A (truth + z): the error is (A - I) (truth - mean) + A z
        lost = shrunk - torch.eye(4, dtype=F64)
        expected = ((lost @ COVARIANCE @ lost.T).trace() + (shrunk @ shrunk.T).trace()) / 4
        assert abs(after.value - expected) < Z * after.standard_error
        assert after.value < before.value


def test_images_are_a_random_choice_and_their_labels_stay_with_them() -> None:
    class Labeled(EnergyModel):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x.flatten(1) - y[:, None]).square().sum(1) / 2

    y = torch.arange(100)
    data = Examples(y.double().view(100, 1, 1, 1).expand(100, 1, 4, 1).clone(), y, 100)
    module = EBM(Labeled(), ContrastiveDivergence(), sampler=Langevin(1.0, temperature=0.0), chains=NoiseChains())
    found = Inpainting(BottomHalf(), num_examples=40, steps=1).measure(module, data).measurements
    assert found["mse_test"].value == pytest.approx(0, abs=1e-20), "one step of size 1 lands on the label"
    of_all = ((y.double() - 49.5) ** 2).mean()
    baseline = found["mean_image_mse_test"]
    assert baseline.value != pytest.approx(float(of_all), rel=1e-6), "40 of 100"
    assert abs(baseline.value - of_all) < Z * baseline.standard_error


def test_the_error_is_the_mean_over_images_of_means_over_what_is_hidden() -> None:
    guess, truth = torch.randn(6, 1, 3, 3), torch.randn(6, 1, 3, 3)
    hidden = torch.rand(6, 1, 3, 3) < 0.5
    hidden[2] = False
    each = [float((guess[i] - truth[i])[hidden[i]].double().square().mean()) for i in (0, 1, 3, 4, 5)]
    found = squared_error(guess, truth, hidden)
    assert found.value == pytest.approx(sum(each) / 5)
    assert found.standard_error == pytest.approx(float(torch.tensor(each).std()) / 5**0.5, rel=1e-5)


def test_Inpainting_and_Denoising_run_from_the_command_line(ebm, tiny: Path) -> None:
    inpainting = "{class_path: Inpainting, init_args: {mask: BottomHalf, num_examples: 5, steps: 2}}"
    denoising = "{class_path: Denoising, init_args: {corruption: SaltAndPepper, num_examples: 5, steps: 2}}"
    status, said = ebm("fit", "-c", tiny, "--trainer.max_steps", 1, "--evaluation", f"[{inpainting}, {denoising}]")
    assert status == 0, said
    place = said.split("run      ")[1].splitlines()[0]
    status, said = ebm("test", place)
    assert status == 0, said
    assert "Inpainting(mask=BottomHalf(), num_examples=5, steps=2)" in said
    assert "Denoising(corruption=SaltAndPepper(share=0.05, low=0.1, high=0.9), num_examples=5, steps=2)" in said
    assert (Path(place) / "evaluation" / "Inpainting-test.png").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Inpainting(BottomHalf(), num_examples=0), "expected num_examples >= 1"),
        (lambda: Denoising(AdditiveGaussianNoise(1.0), steps=0), "steps >= 1"),
        (lambda: Inpainting(BottomHalf()).measure(_module(None), _data(2)), "has no sampler of x"),
        (lambda: Denoising(AdditiveGaussianNoise(1.0)).measure(_module(MALA(0.1)), _data(2)), "but Examples has none"),
        (
            lambda: Inpainting(BottomHalf()).measure(_module(MALA(0.1)), Examples(torch.zeros(3, 4))),
            r"takes images \(C, H, W\), but x of Examples is of shape \(4,\)",
        ),
    ],
)
def test_Inpainting_and_Denoising_refuse_what_cannot_work_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
