"""Noise against torch's distributions, and fitted to the data against maximum likelihood and the mixture's law."""

from pathlib import Path

import pytest
import torch
from support.oracles import assert_means, identical
from torch import distributions as D

from ebm_lightning.chains import NoiseChains, SampleBuffer
from ebm_lightning.core import Noise, State
from ebm_lightning.distributions import BernoulliNoise, GaussianNoise, InformativeInit, UniformNoise
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder

F64 = torch.float64


JOINT = """
model:
  init_args:
    model:
      class_path: JointJEM
      init_args:
        jem:
          class_path: JEM
          init_args:
            classes: 10
            net:
              class_path: ebm_lightning.energies.networks.MLP
              init_args: {inputs: 64, hidden: [16], outputs: 10}
    objective:
      class_path: Sum
      init_args:
        parts:
          joint: {class_path: ContrastiveDivergence}
          marginal: {class_path: Marginal, init_args: {objective: {class_path: ContrastiveDivergence}}}
          discriminative: {class_path: Classification}
        weights: {joint: 0.5}
    chains:
      init_args:
        keep: [y]
        init: {class_path: InformativeInit, init_args: {shape: [1, 8, 8], classes: 10}}
evaluation:
  - class_path: ClassificationError
  - class_path: OutOfDistribution
    init_args:
      outliers: [{class_path: UniformPixels}]
"""
"""An overlay of the tiny configuration: all three terms, chains with clamped labels, started from class Gaussians."""


@pytest.mark.parametrize(
    ("noise", "reference"),
    [
        (UniformNoise(-1.0, 3.0), D.Uniform(*torch.tensor([-1.0, 3.0], dtype=F64))),
        (GaussianNoise(1.0, 0.5), D.Normal(*torch.tensor([1.0, 0.5], dtype=F64))),
        (BernoulliNoise(0.2), D.Bernoulli(torch.tensor(0.2, dtype=F64))),
    ],
    ids=["UniformNoise", "GaussianNoise", "BernoulliNoise"],
)
def test_UniformNoise_GaussianNoise_and_BernoulliNoise_are_those_of_torch(
    noise: Noise, reference: D.Distribution
) -> None:
    value = reference.sample((5, 2, 3))
    torch.testing.assert_close(noise.log_prob(value), reference.log_prob(value).flatten(1).sum(1))
    draws = noise.sample(torch.zeros(20_000, 3, dtype=F64))
    assert draws.dtype == F64
    assert_means(draws, reference.mean.expand(3))
    assert_means((draws - reference.mean).square(), reference.variance.expand(3))


def _labeled_points(n: int = 300) -> State:
    """Points of the plane, correlated, in three classes of shares 1/6, 2/6 and 3/6; half of the labels are hidden."""
    y = torch.tensor([0, 1, 1, 2, 2, 2]).repeat(n // 6)
    turn = torch.tensor([[1.0, 0.5], [-0.3, 0.7]], dtype=F64)
    x = torch.randn(n, 2, dtype=F64) @ turn * (1 + y[:, None]) + y[:, None]
    return {"x": x, "y": torch.where(torch.arange(n) % 12 < 6, y, -1)}


def _fitted(data: State) -> InformativeInit:
    noise = InformativeInit([2], 3).double()
    noise.fit({name: value[i : i + 50] for name, value in data.items()} for i in range(0, len(data["x"]), 50))
    return noise


class TestInformativeInit:
    def test_the_fit_is_maximum_likelihood_of_the_labeled_examples(self) -> None:
        data = _labeled_points()
        noise = _fitted(data)
        torch.testing.assert_close(noise.share, torch.tensor([1 / 6, 2 / 6, 3 / 6], dtype=F64))
        for label in range(3):
            own = data["x"][data["y"] == label]
            torch.testing.assert_close(noise.mean[label], own.mean(0))
            covariance = noise.factor[label] @ noise.factor[label].T
            torch.testing.assert_close(covariance, torch.cov(own.T, correction=0) + 1e-4 * torch.eye(2, dtype=F64))

    def test_the_density_is_that_of_the_mixture(self) -> None:
        noise, x = _fitted(_labeled_points()), torch.randn(5, 2, dtype=F64)
        normals = torch.distributions.MultivariateNormal(noise.mean, scale_tril=noise.factor)
        mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(noise.share), normals)
        torch.testing.assert_close(noise.log_prob(x), mixture.log_prob(x))

    @pytest.mark.parametrize("label", [0, 2, -1])
    def test_draws_have_the_moments_of_their_class_or_of_the_mixture(self, label: int) -> None:
        noise, n = _fitted(_labeled_points()), 20_000
        x = noise.initial({"x": torch.zeros(n, 2, dtype=F64), "y": torch.full((n,), label)}, "x")
        weights = noise.share if label < 0 else torch.eye(3, dtype=F64)[label]
        second = noise.factor @ noise.factor.mT + noise.mean[:, :, None] * noise.mean[:, None]
        assert_means(x, weights @ noise.mean)
        assert_means(x[:, :, None] * x[:, None], (weights[:, None, None] * second).sum(0))

    def test_without_labels_the_draws_are_those_of_the_mixture(self) -> None:
        noise, like = _fitted(_labeled_points()), torch.zeros(7, 2)
        draws = []
        for draw in (lambda: noise.sample(like), lambda: noise.initial({"x": like}, "x")):
            torch.manual_seed(1)
            draws.append(draw())
        assert torch.equal(*draws)
        assert draws[0].dtype == torch.float32

    def test_chains_are_born_in_the_class_of_their_label(self) -> None:
        data = {"x": torch.randn(60, 2, dtype=F64) * 0.1, "y": torch.arange(60) % 3}
        data["x"] += 10 * data["y"][:, None]
        for chains in (NoiseChains(_fitted(data)), SampleBuffer(60, init=_fitted(data), keep=("y",))):
            begin = chains.start(data, ("x",))
            assert torch.equal((begin["x"][:, 0] / 10).round().long(), begin["y"])

    def test_a_continued_run_takes_the_fit_of_its_checkpoint(self, ebm, tiny: Path, tmp_path, monkeypatch) -> None:
        overlay = tmp_path / "jem.yaml"
        overlay.write_text(JOINT)
        options = ["fit", "-c", tiny, "-c", overlay]
        for place, end in (("straight", 12), ("cut", 8), ("cut", 12)):
            if end == 12 and place == "cut":
                monkeypatch.setattr(InformativeInit, "fit", lambda noise, batches: noise.mean.fill_(torch.nan))
            status, said = ebm(*options, "--run", tmp_path / place, "--trainer.max_steps", end)
            assert status == 0, said
        cut, straight = (
            checkpoints.RankCheckpointIO().load_checkpoint(RunFolder(tmp_path / place).checkpoints()[0])
            for place in ("cut", "straight")
        )
        assert identical(cut["state_dict"], straight["state_dict"])
        assert cut["state_dict"]["initial_distribution.share"].sum() == pytest.approx(1)
        for command in (["sample", tmp_path / "cut", "--num-samples", 3, "--steps", 2], ["test", tmp_path / "cut"]):
            status, said = ebm(*command)
            assert status == 0, said
        assert "ClassificationError" in said
        assert "AUROC UniformPixels()" in said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InformativeInit([2], 0), "sides and classes of at least 1"),
        (lambda: InformativeInit([2], 3, jitter=0.0), "jitter > 0"),
        (lambda: InformativeInit([2], 3).sample(torch.zeros(2, 2)), "not fitted yet"),
        (lambda: InformativeInit([2], 3).log_prob(torch.zeros(2, 2)), "not fitted yet"),
        (lambda: InformativeInit([2], 2).fit([_labeled_points()]), "labels 'y' below 2, but .* labels up to 2"),
        (lambda: InformativeInit([2], 4).fit([_labeled_points()]), r"nothing to fit the classes \[3\] to"),
        (lambda: InformativeInit([2], 3).fit([{"x": torch.zeros(3, 2)}]), r"the data have only \['x'\]"),
    ],
)
def test_InformativeInit_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
