"""Masked chains against known conditional laws, and what repairing images is measured by."""

from pathlib import Path

import pytest
import torch
from scipy import linalg, stats
from support.oracles import (
    FALSE_ALARM,
    Examples,
    Z,
    assert_counts,
    assert_means,
    bits,
    index_of,
    perturbed,
    probabilities,
)
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import EnergyModel, Sampler, run
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.energies import RBM, Gaussian
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.evaluation import (
    AdditiveGaussianNoise,
    BottomHalf,
    Denoising,
    Inpainting,
    RandomPixels,
    SaltAndPepper,
)
from ebm_lightning.evaluation.protocols.inpainting import squared_error
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import HMC, MALA, SGLD, FastWeights, Gibbs, Langevin, Masked, ParallelTempering, Tempered
from ebm_lightning.utils import plots

F64 = torch.float64
FACTOR = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0], [-0.5, 0.4, 0.9, 0.0], [0.3, 0.7, -0.2, 0.5]])
MEAN, COVARIANCE = torch.tensor([1.0, -0.5, 0.0, 2.0], dtype=F64), (FACTOR @ FACTOR.T).double()


class Picture(Gaussian):
    """The normal law over images (1, 2, 2)."""

    def __init__(self) -> None:
        symmetric = (COVARIANCE + COVARIANCE.T) / 2
        super().__init__(MEAN.tolist(), symmetric.tolist())
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def _conditional(known: list[int], hidden: list[int], values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the covariance of the hidden coordinates given values (B, known) of the others."""
    gain = COVARIANCE[hidden][:, known] @ torch.linalg.inv(COVARIANCE[known][:, known])
    mean = MEAN[hidden] + (values - MEAN[known]) @ gain.T
    return mean, COVARIANCE[hidden][:, hidden] - gain @ COVARIANCE[known][:, hidden]


S = 0.1


def _coupled(precision: Tensor) -> Tensor:
    """x <- A x + sqrt(2 s) z has the covariance C = A C A^T + 2 s I."""
    a = torch.eye(len(precision), dtype=F64) - S * precision
    return torch.tensor(linalg.solve_discrete_lyapunov(a.numpy(), 2 * S * torch.eye(len(a), dtype=F64).numpy()))


def _noise_first(precision: Tensor) -> Tensor:
    """x <- A (x + 0.3 z)."""
    a = torch.eye(len(precision), dtype=F64) - S * precision
    return torch.tensor(linalg.solve_discrete_lyapunov(a.numpy(), 0.09 * (a @ a.T).numpy()))


@pytest.mark.parametrize(
    ("sampler", "law"),
    [
        (Langevin(S), _coupled),
        (SGLD(S, noise=0.3, noise_first=True), _noise_first),
        (MALA(0.2), torch.linalg.inv),
        (HMC(0.35, leapfrog=2), torch.linalg.inv),
        (Tempered(MALA(0.3), temperature=2.0), lambda precision: 2 * torch.linalg.inv(precision)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_hidden_values_have_the_conditional_law_and_known_ones_never_move(sampler: Sampler, law) -> None:
    """The mean and the covariance of each sampler's own law, given known values that differ from chain to chain.

    The trajectory of HMC is not half a period of the narrowest direction, which it would never leave.
    """
    n, known, hidden = 8000, [0, 2], [1, 3]
    x = Picture().sample(n) + 1
    mask = torch.tensor([True, False, True, False]).expand(n, 4).view(n, 1, 2, 2)
    start = {"x": torch.where(mask, x.view(n, 1, 2, 2), 3 * torch.randn(n, 1, 2, 2, dtype=F64)), "x_known": mask}
    with torch.no_grad():
        end, _ = run(Masked(sampler), Picture(), start, steps=100)
    drawn = end["x"].flatten(1)
    assert torch.equal(drawn[:, known], x[:, known])
    mean, covariance = _conditional(known, hidden, x[:, known])
    off = drawn[:, hidden] - mean
    expected = law(torch.linalg.inv(covariance))
    assert_means(off, torch.zeros(2, dtype=F64))
    assert_means(off[:, :, None] * off[:, None, :], expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_masked_gibbs_reaches_the_enumerated_conditional_of_a_boltzmann_machine(temperature: float) -> None:
    model = perturbed(RBM({"v": Bernoulli([4])}, 3, weight_std=1.0))
    n, known = 4000, torch.tensor([True, False, False, True])
    start = {"v": torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=F64).repeat(n, 1), "v_known": known.repeat(n, 1)}
    sampler = Masked(Tempered(Gibbs(("h", "v")), temperature=temperature))
    with torch.no_grad():
        end, _ = run(sampler, model, start, steps=40)
    assert torch.equal(end["v"][:, known], start["v"][:, known])
    states = bits(4)
    agree = (states[:, known] == start["v"][0, known]).all(1)
    p = probabilities(model.tempered(1 / temperature), {"v": states}) * agree
    assert_counts(index_of(end["v"]).bincount(minlength=16), p / p.sum())


def test_a_variable_without_a_mask_moves_as_a_whole_and_the_inner_info_is_handed_on() -> None:
    state = {"x": torch.randn(5, 1, 2, 2, dtype=F64)}
    torch.manual_seed(1)
    expected, info = MALA(0.1).step(Picture(), state)
    torch.manual_seed(1)
    end, said = Masked(MALA(0.1)).step(Picture(), state)
    assert torch.equal(end["x"], expected["x"])
    assert said == info


def _module(sampler: Sampler | None) -> EBM:
    return EBM(Picture(), ContrastiveDivergence(), sampler=sampler, chains=NoiseChains(GaussianNoise()))


def _data(n: int, **settings: object) -> Examples:
    return Examples(Picture().sample(n).view(n, 1, 2, 2), **settings)


def test_a_perfect_model_inpaints_with_twice_the_conditional_variance() -> None:
    """Truth and draw are independent given the known half; the mean image has the marginal variance."""
    findings = Inpainting(BottomHalf(), num_examples=3000, steps=60).measure(_module(MALA(0.2)), _data(3000))
    _, covariance = _conditional([0, 1], [2, 3], MEAN[None, :2])
    expected = {"MSE": 2 * covariance.trace() / 2, "MSE of the mean image,": COVARIANCE[2:, 2:].trace() / 2}
    for name, value in expected.items():
        for split in ("test", "training"):
            found = findings.measurements[f"{name} {split}"]
            assert abs(found.value - value) < Z * found.standard_error < 0.2 * value
    assert findings.pictures.keys() == {"test", "training"}


def test_descent_on_the_true_energy_denoises_by_its_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
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
        before, after = (found[f"MSE {when}, {split}"] for when in ("before", "after"))
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
    assert found["MSE test"].value == pytest.approx(0, abs=1e-20), "one step of size 1 lands on the label"
    of_all = ((y.double() - 49.5) ** 2).mean()
    baseline = found["MSE of the mean image, test"]
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


def test_masks_hide_what_they_say() -> None:
    half = BottomHalf().known(torch.zeros(2, 3, 5, 4))
    assert half[:, :, :2].all()
    assert not half[:, :, 2:].any()
    known = RandomPixels(0.3).known(torch.zeros(200, 3, 10, 10))
    assert torch.equal(known, known[:, :1].expand_as(known))
    assert_counts(known[:, 0].flatten().long().bincount(), torch.tensor([0.3, 0.7]))


def test_salt_and_pepper_replace_their_shares_of_the_pixels_by_two_values() -> None:
    x = torch.full((200, 3, 10, 10), 0.25)
    made = SaltAndPepper(0.1)(x, (-1.0, 1.0))
    assert torch.equal(made, made[:, :1].expand_as(made))
    counts = torch.stack([(made[:, 0] - value).abs().lt(1e-6).sum() for value in (-0.8, 0.8, 0.25)])
    assert counts.sum() == 200 * 100
    assert_counts(counts, torch.tensor([0.1, 0.1, 0.8]))


def test_added_noise_has_its_standard_deviation() -> None:
    made = AdditiveGaussianNoise(0.3)(torch.full((50, 1, 20, 20), 0.9), (0.0, 1.0))
    assert stats.kstest(made.flatten().numpy(), stats.norm(0.9, 0.3).cdf).pvalue > FALSE_ALARM


def test_both_protocols_run_from_the_command_line(ebm, tiny: Path) -> None:
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


def _masked(mask: Tensor) -> None:
    Masked(MALA(0.1)).step(Picture(), {"x": torch.zeros(2, 1, 2, 2), "x_known": mask})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _masked(torch.ones(2, 1, 2, 2)), "expected bool of shape .*got torch.float32"),
        (lambda: _masked(torch.ones(1, 2, 2, dtype=torch.bool)), r"got torch.bool of shape \(1, 2, 2\)"),
        (lambda: Masked(FastWeights(MALA(0.1), rate=0.1)), r"Masked\(FastWeights\): an adaptive sampler has to be"),
        (
            lambda: Masked(ParallelTempering(MALA(0.1), betas=(1.0, 0.5))).extend({"x": torch.zeros(2, 1)}),
            "cannot hold the known values of x_replicas",
        ),
        (lambda: RandomPixels(1.0), "a probability between 0 and 1"),
        (lambda: SaltAndPepper(0.6), r"a share in \(0, 1/2\]"),
        (lambda: AdditiveGaussianNoise(0.0), "expected std > 0"),
        (lambda: Inpainting(BottomHalf(), num_examples=0), "expected num_examples >= 1"),
        (lambda: Denoising(AdditiveGaussianNoise(1.0), steps=0), "steps >= 1"),
        (lambda: Inpainting(BottomHalf()).measure(_module(None), _data(2)), "this run has no sampler of x"),
        (lambda: Denoising(AdditiveGaussianNoise(1.0)).measure(_module(MALA(0.1)), _data(2)), "but Examples has none"),
        (
            lambda: Inpainting(BottomHalf()).measure(_module(MALA(0.1)), Examples(torch.zeros(3, 4))),
            r"takes images \(C, H, W\), but x of Examples is of shape \(4,\)",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
