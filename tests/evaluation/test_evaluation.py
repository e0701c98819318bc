"""Protocols and what they measure with, against closed forms, an independent AUROC and simulated truth."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import stats
from sklearn.metrics import roc_auc_score
from support.oracles import FALSE_ALARM, assert_means
from torch import Tensor

from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import EnergyModel, Info, Sampler, State
from ebm_lightning.data.base import DataModule, Subset
from ebm_lightning.data.sources import InMemory
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.energies import Gaussian
from ebm_lightning.evaluation import (
    MMD,
    Findings,
    ImageSet,
    Measurement,
    OutOfDistribution,
    PermutedPixels,
    Protocol,
    UniformPixels,
    UpsideDown,
)
from ebm_lightning.evaluation.components import outlier_sets as outliers_module
from ebm_lightning.evaluation.metrics.mmd import median_bandwidth, mmd2
from ebm_lightning.evaluation.protocol import named
from ebm_lightning.evaluation.protocols.ood import auroc
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.training.module import EBM


@pytest.mark.parametrize(("n", "m", "levels"), [(40, 23, 5), (300, 100, 1000), (7, 90, 2)])
def test_auroc_is_that_of_scikit_learn_with_ties_and_scores_of_any_size(n: int, m: int, levels: int) -> None:
    inside = (torch.randn(n) * levels + levels / 4).round() * 50 - 1000
    outside = (torch.randn(m) * levels).round() * 50 - 1000
    assert len(torch.cat([inside, outside]).unique()) < n + m, "there must be ties"
    labels = [1] * n + [0] * m
    expected = roc_auc_score(labels, torch.cat([inside, outside]).numpy())
    assert auroc(inside, outside).value == pytest.approx(expected, abs=1e-6)


def test_auroc_at_its_ends_is_exact_and_without_error() -> None:
    low, high = torch.randn(20), 100 + torch.randn(30)
    assert auroc(high, low) == Measurement(1.0, 0.0)
    assert auroc(low, high) == Measurement(0.0, 0.0)
    assert auroc(torch.zeros(5), torch.zeros(8)).value == 0.5


def test_the_standard_error_of_auroc_is_that_of_the_published_example() -> None:
    """Hanley & McNeil (1982), table 1: 51 abnormal and 58 normal images in five classes; area 0.893, error 0.032."""
    classes = torch.arange(5.0)
    abnormal = classes.repeat_interleave(torch.tensor([3, 2, 2, 11, 33]))
    normal = classes.repeat_interleave(torch.tensor([33, 6, 6, 11, 2]))
    found = auroc(abnormal, normal)
    assert round(found.value, 3) == 0.893
    assert found.standard_error == pytest.approx(0.032, abs=1e-3)


def test_the_standard_error_of_auroc_is_the_spread_over_repeated_samples() -> None:
    """The formula is exact for exponential scores: inside with mean 4, outside with mean 1, an area of 4/5."""
    n, m, repetitions = 100, 10, 20_000
    exponential = torch.distributions.Exponential(1.0)
    inside, outside = 4 * exponential.sample((repetitions, n)), exponential.sample((repetitions, m))
    areas = torch.stack([(a[:, None] > b).double().mean() for a, b in zip(inside, outside, strict=True)])
    of_area_four_fifths = torch.cat([torch.full((80,), 2.0), torch.zeros(20)])
    error = auroc(of_area_four_fifths, torch.ones(m)).standard_error
    assert_means((areas - 0.8).square()[:, None], torch.tensor([error**2]))


BOUNDS = (-1.0, 1.0)


def test_permuted_pixels_are_in_one_other_order_for_all_images_and_channels() -> None:
    x = torch.rand(4, 3, 5, 6)
    order = PermutedPixels().make(torch.arange(30.0).view(1, 1, 5, 6), BOUNDS).flatten().long()
    assert torch.equal(order.sort().values, torch.arange(30))
    assert not torch.equal(order, torch.arange(30))
    assert torch.equal(PermutedPixels().make(x, BOUNDS).flatten(2), x.flatten(2)[:, :, order])
    assert not torch.equal(PermutedPixels(1).make(x, BOUNDS), PermutedPixels(0).make(x, BOUNDS))


def test_upside_down_is_a_turn_by_180_degrees() -> None:
    x = torch.rand(4, 3, 5, 6)
    assert torch.equal(UpsideDown().make(x, BOUNDS), torch.rot90(x, 2, (2, 3)))


def test_uniform_pixels_are_uniform_over_the_bounds() -> None:
    made = UniformPixels().make(torch.zeros(50, 1, 10, 20), BOUNDS)
    assert made.shape == (50, 1, 10, 20)
    assert stats.kstest(made.flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > FALSE_ALARM


def test_an_image_set_is_scaled_to_the_bounds_and_left_out_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EBM_DATA", raising=False)
    assert ImageSet("fashion_mnist").make(torch.zeros(1, 1, 28, 28), BOUNDS) is None
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    monkeypatch.setattr(outliers_module, "available", lambda name: name == "mnist")
    monkeypatch.setattr(outliers_module, "load_images", lambda name, split: {"x": levels} if split == "test" else None)
    made = ImageSet("mnist").make(torch.zeros(1, 1, 1, 1), BOUNDS)
    assert made.flatten().tolist() == pytest.approx([-1.0, -0.6, 1.0])


class Table(DataModule):
    """Given examples, and nothing held out for validation."""

    def __init__(self, train: Tensor, test: Tensor) -> None:
        super().__init__(100, valid=0, split_seed=0, seed=0, memory_gb=1.0)
        self.train, self.test = train, test
        self.bounds = (0.0, 1.0)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])

    def load(self) -> tuple[Subset, Subset]:
        parts = (Subset(InMemory({"x": x}), torch.arange(len(x))) for x in (self.train, self.test))
        return next(parts), next(parts)


class Brightness(EnergyModel):
    """An energy that is low where an image is bright at its top left."""

    def forward(self, x: Tensor) -> Tensor:
        return -x[:, 0, 0, 0]


def test_out_of_distribution_scores_each_set_by_minus_the_energy() -> None:
    """E is minus one pixel, brighter in the data than where their turn has it."""
    x = torch.rand(60, 1, 4, 4)
    x[:, 0, 0, 0] = 0.6 + 0.4 * torch.rand(60)
    module = EBM(Brightness(), ContrastiveDivergence())
    protocol = OutOfDistribution([UpsideDown(), PermutedPixels(), ImageSet("svhn")])
    findings = protocol.measure(module, Table(x, x))
    at_hand = ("UpsideDown()", "PermutedPixels(seed=0)")
    assert findings.measurements.keys() == {f"{it} {name}" for name in at_hand for it in ("AUROC", "AUPR", "FPR@95")}
    labels = [1] * 60 + [0] * 60
    for outliers in protocol.outliers[:2]:
        others = outliers.make(x, (0.0, 1.0))
        expected = roc_auc_score(labels, torch.cat([x, others])[:, 0, 0, 0].numpy())
        assert findings.measurements[f"AUROC {outliers}"].value == pytest.approx(expected, abs=1e-6)
        assert expected > 0.7
    assert findings.pictures.keys() == {"energies"}


@dataclass(frozen=True)
class Exact(Sampler):
    """Draws afresh from a Gaussian: a sampler that has converged."""

    free: tuple[str, ...] = ("x",)

    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        return {**state, "x": model.sample(len(state["x"]))}, {"energy": model.energy(state).mean()}


def _mmd2(means: tuple[Tensor, Tensor], covariances: tuple[Tensor, Tensor], bandwidth: float) -> float:
    """MMD^2 of two normal laws under a Gaussian kernel of bandwidth h.

    E k(x, y) = det(I + (S + T) / h^2)^(-1/2) exp(-d^T (h^2 I + S + T)^-1 d / 2), d the difference of the means.
    """

    def kernel(i: int, j: int) -> float:
        difference, eye = means[i] - means[j], torch.eye(len(means[0]))
        spread = covariances[i] + covariances[j]
        exponent = difference @ torch.linalg.solve(bandwidth**2 * eye + spread, difference) / 2
        return math.exp(-float(exponent)) / float(torch.linalg.det(eye + spread / bandwidth**2)) ** 0.5

    return kernel(0, 0) + kernel(1, 1) - 2 * kernel(0, 1)


def test_two_sample_tells_the_floor_from_independent_pixels_and_from_an_untrained_model() -> None:
    """Correlated normal data, a perfect model and a shifted one: every number agrees with its closed form.

    The standard error comes from ten parts, so a number lies within t_9 of them at the suite's false-alarm rate.
    """
    covariance = 0.05 * torch.eye(9) + 0.95
    law = Gaussian([0.0] * 9, covariance.tolist())
    data = Table(law.sample(1000), law.sample(1000))
    protocol = MMD(num_samples=1000, steps=2, scale=0.7)
    protocol.untrained = Gaussian([3.0] * 9, covariance.tolist())
    module = EBM(law, ContrastiveDivergence(), sampler=Exact(), chains=NoiseChains(GaussianNoise()))
    findings = protocol.measure(module, data)
    assert module.model is law, "the trained model must be put back"
    zero, bandwidth = torch.zeros(9), 0.7 * float(median_bandwidth(data.tensors("train")["x"]))
    expected = {
        "training data": 0.0,
        "trained model": 0.0,
        "independent pixels": _mmd2((zero, zero), (covariance, torch.eye(9)), bandwidth),
        "untrained model": _mmd2((zero, zero + 3), (covariance, covariance), bandwidth),
    }
    t = float(stats.t.isf(FALSE_ALARM / (2 * len(expected)), 9))
    found = {name: findings.measurements[f"MMD2 {name}"] for name in expected}
    for name, value in expected.items():
        assert abs(found[name].value - value) < t * found[name].standard_error, name
    low, middle, high = (found[name] for name in ("training data", "independent pixels", "untrained model"))
    for lower, higher in ((low, middle), (middle, high)):
        assert higher.value - lower.value > t * math.hypot(lower.standard_error, higher.standard_error)
    assert found["trained model"].value < middle.value / 4
    floor = mmd2(data.tensors("train")["x"], data.tensors("test")["x"], bandwidth)
    assert low.value == pytest.approx(float(floor), abs=1e-6), "the floor compares training data with held-out data"
    assert findings.pictures.keys() == {"training-data", "trained-model", "independent-pixels", "untrained-model"}


@dataclass(eq=False)
class Dice(Protocol):
    """Throws dice: to see what a protocol keeps."""

    throws: int = 3
    sides: list[Measurement] = field(default_factory=lambda: [Measurement(6.0)])

    def measure(self, module: EBM, data: DataModule) -> Findings:
        mean = float(torch.rand(self.throws).mean())
        return Findings({"mean": Measurement(mean, 0.1), "bare": Measurement(1.0)}, {"dice": Image.new("L", (3, 2))})


def test_a_protocol_keeps_its_findings_its_settings_and_where_they_come_from(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.config_file.write_text(yaml.safe_dump({"seed_everything": 17}))
    (tmp_path / "events.jsonl").write_text('{"time": 0, "event": "start"}\n{"time": 90, "event": "end"}\n')
    module = EBM(Brightness(), ContrastiveDivergence())
    data = Table(torch.zeros(1, 1), torch.zeros(1, 1))
    trainer = SimpleNamespace(is_global_zero=True, global_rank=0, default_root_dir=str(tmp_path), datamodule=data)
    stream = torch.get_rng_state()
    Dice().on_test_end(trainer, module)
    assert torch.equal(torch.get_rng_state(), stream)
    record = json.loads((tmp_path / "evaluation" / "Dice.json").read_text())
    torch.manual_seed(0)
    bare = {"value": 1.0, "standard_error": None, "interval": None, "warning": ""}
    expected = {**bare, "value": float(torch.rand(3).mean()), "standard_error": 0.1}
    assert record["measurements"] == {"mean": expected, "bare": bare}
    six = "Measurement(value=6.0, standard_error=None, interval=None, warning='')"
    assert record["settings"] == {"throws": 3, "sides": [six]}
    assert record["protocol"] == f"Dice(throws=3, sides={[six]})"
    assert record["convention"] is None
    assert (record["seed"], record["split"], record["training_minutes"]) == (17, "test", 1.5)
    assert record["environment"]["versions"].keys() >= {"torch", "lightning"}
    assert np.asarray(Image.open(tmp_path / "evaluation" / "Dice-dice.png")).shape == (2, 3)


def test_protocols_are_asked_for_by_class_or_file() -> None:
    every = [MMD(), OutOfDistribution([UniformPixels()]), Dice()]
    assert named(every, None) == every
    assert named(every, "ood, two_sample") == every[:2]
    assert named(every, "dice") == named(every, "Dice") == every[2:]
    with pytest.raises(ValueError, match="no protocol calibration, mixing: expected some of MMD, OutOfDistribu"):
        named(every, "ood,mixing,calibration")
    with pytest.raises(ValueError, match="no protocol ood: expected some of none, since it names none"):
        named([], "ood")


def test_another_rank_writes_nothing(tmp_path: Path) -> None:
    trainer = SimpleNamespace(is_global_zero=False, default_root_dir=str(tmp_path))
    Dice().on_test_end(trainer, EBM(Brightness(), ContrastiveDivergence()))
    assert list(tmp_path.iterdir()) == []


def test_the_untrained_model_is_a_copy_taken_before_the_weights_are_loaded() -> None:
    module = EBM(Gaussian([0.0], [1.0]), ContrastiveDivergence())
    protocol = MMD()
    protocol.setup(None, module, "test")
    module.model.mean.fill_(5.0)
    assert protocol.untrained.mean == 0
