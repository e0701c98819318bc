"""NoisyOutliers images against the diffusion process taken step by step, and against the images they are made of."""

import itertools

import pytest
import torch
from support.configurations import configured_data
from support.oracles import Z

from ebm_lightning.core import State
from ebm_lightning.data import DenoisingPairs, Dequantized, Digits, HorizontalFlip, Loading
from ebm_lightning.data.images.denoising_pairs import signal_variance


def digits(split_seed: int = 0, max_train: int | None = None, **options: object) -> Digits:
    loading = Loading(seed=3, split_seed=split_seed, max_train=max_train)
    return Digits(100, bounds=(-1.0, 1.0), loading=loading, **options)


def residue(batch: State, step: int) -> torch.Tensor:
    """(x - sqrt(a) target) / sqrt(1 - a): the noise, if x is what it should be."""
    a = signal_variance()[step]
    return (batch["x"].double() - a.sqrt() * batch["target"].double()) / (1 - a).sqrt()


def test_DenoisingPairs_levels_are_the_published_ones() -> None:
    """a_t = .897 with noise of about .32 at t = 99, and of .584 at t = 199."""
    a = signal_variance()
    assert len(a) == 1000
    assert float(a[99]) == pytest.approx(0.897, abs=5e-4)
    assert float((1 - a[99]).sqrt()) == pytest.approx(0.32, abs=5e-3)
    assert float((1 - a[199]).sqrt()) == pytest.approx(0.584, abs=5e-4)


def test_signal_variance_is_that_of_the_process_step_by_step() -> None:
    """x_s = sqrt(1 - b_s) x_{s-1} + sqrt(b_s) e_s multiplies means and adds variances."""
    mean, variance, b = 1.0, 0.0, 1e-4
    for t in range(200):
        mean, variance = mean * (1 - b) ** 0.5, (1 - b) * variance + b
        b += (0.02 - 1e-4) / 999
        if t in (0, 99, 199):
            assert float(signal_variance()[t].sqrt()) == pytest.approx(mean, rel=1e-10)
            assert float(1 - signal_variance()[t]) == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("step", [0, 99, 199, 999])
def test_DenoisingPairs_noise_is_standard_normal_for_every_image(step: int) -> None:
    data = DenoisingPairs(digits(val_size=0), step)
    batches = list(itertools.islice(data.train_stream(15), 15))
    batch = {name: torch.cat([b[name] for b in batches]) for name in ("x", "target")}
    e, target = residue(batch, step), batch["target"].double()
    n = e.numel()
    # The residue divides the rounding of x, of up to 6e-8, by the standard deviation of the noise.
    rounding = 1e-7 / float((1 - signal_variance()[step]).sqrt())
    assert abs(float(e.mean())) < Z / n**0.5 + rounding
    assert abs(float(e.square().mean()) - 1) < Z * (2 / n) ** 0.5 + 2 * rounding
    assert abs(float((e * target).mean())) < Z * float(target.square().mean() / n) ** 0.5 + rounding
    pixels = e.flatten(1).mean(0).abs().max()
    assert float(pixels) < Z * len(e) ** -0.5 + rounding


def test_DenoisingPairs_targets_are_the_images() -> None:
    options: dict[str, object] = {"pixels": Dequantized(), "augmentations": [HorizontalFlip()], "max_train": 700}
    data, images = DenoisingPairs(digits(**options)), digits(**options)
    for noised, clean in zip(data.train_stream(15), images.train_stream(15), strict=True):
        assert set(noised) == {"x", "target"}
        assert torch.equal(noised["target"], clean["x"])
    for split in ("train", "val", "test"):
        assert torch.equal(data.tensors(split)["target"], images.tensors(split)["x"])
    assert (data.shape, data.bounds, data.classes) == ((1, 8, 8), (-1.0, 1.0), None)
    assert data.preprocessing == "Dequantized()"


def test_DenoisingPairs_noise_is_fresh_in_training_and_the_same_at_every_level_in_evaluation() -> None:
    data = DenoisingPairs(digits(val_size=0))
    passes = [residue(batch, 99) for batch in itertools.islice(data.train_stream(30), 30)]
    assert len(torch.cat(passes)[:, 0, 0, 0].unique()) > 2990  # float32 has coincidences
    near, far = (data.at(name).tensors("test") for name in ("in range", "out of range"))
    assert torch.equal(near["x"], data.tensors("test")["x"])
    assert torch.equal(near["target"], far["target"])
    torch.testing.assert_close(residue(near, 99), residue(far, 199), rtol=0, atol=2e-6)
    assert torch.equal(
        DenoisingPairs(digits(val_size=0, split_seed=0)).at("out of range").tensors("test")["x"], far["x"]
    )
    assert data.step == 99


def test_DenoisingPairs_levels_share_the_data_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = [], Digits.load
    monkeypatch.setattr(Digits, "load", lambda images: reads.append(1) or read(images))
    data = DenoisingPairs(digits(), levels={"weak": 9, "strong": 499})
    assert [len(data.at(name).tensors("test")["x"]) for name in data.levels] == [297, 297]
    assert len(reads) == 1


def test_DenoisingPairs_resumed_repeat_the_uninterrupted_ones() -> None:
    whole, begun, resumed = (DenoisingPairs(digits(val_size=1000)).train_stream(12) for _ in range(3))
    expected = list(whole)
    list(itertools.islice(begun, 7))
    resumed.load_state_dict(begun.state_dict())
    for batch, again in zip(itertools.islice(resumed, 5), expected[7:], strict=True):
        assert torch.equal(batch["x"], again["x"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DenoisingPairs(Digits()), r"bounds=\(0\.0, 1\.0\).*: expected bounds=\(-1, 1\) and no noise"),
        (lambda: DenoisingPairs(digits(noise=0.1)), r"noise=0\.1.*: expected"),
        (lambda: DenoisingPairs(digits(test_noise=0.1)), r"test_noise=0\.1.*: expected"),
        (lambda: DenoisingPairs(digits(), 1000), r"no step 1000: expected 0\.\.999"),
        (lambda: DenoisingPairs(digits(), levels={"wrong": -1}), r"no step -1: expected 0\.\.999"),
        (lambda: DenoisingPairs(digits()).at("loud"), "no level 'loud': expected one of in range, out of range"),
    ],
)
def test_DenoisingPairs_refuse_what_cannot_work(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_DenoisingPairs_are_configured_by_their_signature() -> None:
    data = configured_data(
        """
        data:
          class_path: ebm_lightning.data.DenoisingPairs
          init_args:
            images:
              class_path: ebm_lightning.data.Digits
              init_args: {batch_size: 32, bounds: [-1, 1]}
            step: 49
            levels: {far: 299}
        """
    )
    assert isinstance(data, DenoisingPairs)
    assert (data.step, data.levels, data.batch_size) == (49, {"far": 299}, 32)
    assert data.images.bounds == (-1.0, 1.0)
