"""Frechet distances against closed form and SciPy, and scores against their definition."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import linalg, stats
from support.configurations import component
from support.measured import sampled_module
from support.oracles import FALSE_ALARM, Examples, LinearClassifier, assert_means
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule
from ebm_lightning.energies import JEM, Gaussian, JointJEM
from ebm_lightning.energies.networks import MLP
from ebm_lightning.evaluation import FeatureExtractor, FreshChains, Generation, SampleSource
from ebm_lightning.evaluation.components.feature_extractors import ExtractFeatures
from ebm_lightning.evaluation.protocols.sample_quality import frechet, score
from ebm_lightning.reproduction.reproduce import dependencies
from ebm_lightning.utils import plots


@dataclass(frozen=True)
class Coordinates(FeatureExtractor):
    """The numbers of an x as its features and as its logits."""

    distance = "distance"
    score = "score"

    def load(self, module: EBM, data: DataModule) -> ExtractFeatures:
        return lambda x: (x.flatten(1).double(), x.flatten(1).double())


def _frechet(means: tuple[np.ndarray, np.ndarray], covariances: tuple[np.ndarray, np.ndarray]) -> float:
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    return float(np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1] - 2 * root))


FIRST = ([0.0, 0.0, 0.0], [[1.0, 0.5, 0.0], [0.5, 2.0, 0.3], [0.0, 0.3, 0.7]])


SECOND = ([0.5, -1.0, 0.2], [[0.6, 0.0, -0.2], [0.0, 1.0, 0.4], [-0.2, 0.4, 3.0]])


TRUTH = _frechet(*[tuple(map(np.array, pair)) for pair in zip(FIRST, SECOND, strict=True)])


def test_Generation_distance_of_two_gaussians_is_the_closed_form_and_that_of_the_data_to_themselves_is_zero() -> None:
    """Of 20,000 samples of each, the bias of order 1 / n is a small part of the standard error."""
    n, real = 20_000, Gaussian(*FIRST).sample(20_000)
    result = Generation(FreshChains(n, 1), Coordinates()).measure(sampled_module(Gaussian(*SECOND)), Examples(real))
    found = result.measurements["distance"]
    t = float(stats.t.isf(FALSE_ALARM / 2, 9))
    both = math.sqrt(2) * found.standard_error  # as much again for the data, which it takes as given
    assert abs(found.value - TRUTH) < t * both < TRUTH
    assert result.measurements["distance_held_out_images"].value == pytest.approx(0, abs=1e-8)
    assert not any(found.warning for found in result.measurements.values())


def test_the_distance_is_that_of_scipy_to_the_accuracy_of_float64() -> None:
    real, made = (1000 + Gaussian(*law).double().sample(400) for law in (FIRST, SECOND))
    moments = [(x.numpy().mean(0), np.cov(x.numpy().T)) for x in (real, made)]
    expected = _frechet(*zip(*moments, strict=True))
    assert frechet(real, made, 10).value == pytest.approx(expected, rel=1e-7)


def test_the_standard_error_of_the_distance_is_its_spread_over_repeated_samples() -> None:
    real = Gaussian(*FIRST).double().sample(100_000)
    repeated = [frechet(real, Gaussian(*SECOND).double().sample(1000), 10) for _ in range(60)]
    values = torch.tensor([found.value for found in repeated], dtype=torch.float64)
    errors = torch.tensor([found.standard_error for found in repeated], dtype=torch.float64)
    assert_means(((values - values.mean()).square() - errors.square())[:, None], torch.zeros(1, dtype=torch.float64))


@dataclass(frozen=True)
class Sorted(SampleSource):
    """Given samples in the order of their first coordinate."""

    x: Tensor

    @property
    def num_samples(self) -> int:
        return len(self.x)

    def draw(self, module: EBM, data: DataModule) -> State:
        return {"x": self.x[self.x[:, 0].argsort()]}


def test_Generation_parts_are_random_whatever_order_the_source_has() -> None:
    """In the order of a coordinate they would differ about four times as much."""
    real, made = Gaussian(*FIRST).sample(2000), Gaussian(*SECOND).sample(2000)
    protocol = Generation(Sorted(made), Coordinates())
    found = protocol.measure(sampled_module(Gaussian(*FIRST)), Examples(real)).measurements["distance"]
    in_order = frechet(real.double(), made[made[:, 0].argsort()].double(), 10)
    assert found.value == pytest.approx(in_order.value, rel=1e-9)
    assert found.standard_error < in_order.standard_error / 2


@pytest.mark.parametrize(("n", "known", "trusted"), [(39, False, True), (40, True, True), (3, False, False)])
def test_Generation_warns_of_too_few_samples_and_has_no_standard_error(n: int, known: bool, trusted: bool) -> None:
    x = Gaussian(*FIRST).sample(n)
    protocol = Generation(FreshChains(max(n, 4), 1), Coordinates(), splits=2 if n < 20 else 10)
    found = protocol.measure(sampled_module(Gaussian(*SECOND)), Examples(x)).measurements["distance"]
    assert (found.standard_error is not None) == known
    assert ("3 images give a covariance of rank 2 at most in 3 features" in found.warning) != trusted


def test_Generation_says_that_fewer_held_out_images_than_samples_do_not_compare() -> None:
    protocol = Generation(FreshChains(50, 1), Coordinates())
    found = protocol.measure(sampled_module(Gaussian(*SECOND)), Examples(Gaussian(*FIRST).sample(40))).measurements
    for name in ("distance", "score"):
        assert not found[name].warning
        assert "there are 40 held-out images beside 50 samples" in found[f"{name}_held_out_images"].warning


def test_the_score_is_its_definition_written_out() -> None:
    logits = 3 * torch.randn(120, 4, dtype=torch.float64)
    torch.manual_seed(5)
    found = score(logits, 6)
    torch.manual_seed(5)
    parts = logits[torch.randperm(120)].numpy().reshape(6, 20, 4)
    each = []
    for part in parts:
        p = np.exp(part) / np.exp(part).sum(1, keepdims=True)
        each.append(math.exp(np.mean([stats.entropy(row, p.mean(0)) for row in p])))
    assert found.value == pytest.approx(np.mean(each), rel=1e-12)
    assert found.standard_error == pytest.approx(np.std(each, ddof=1) / math.sqrt(6), rel=1e-10)


def test_the_score_is_one_without_classes_and_their_number_where_each_is_certain() -> None:
    assert score(torch.zeros(60, 5, dtype=torch.float64), 3).value == pytest.approx(1, abs=1e-12)
    certain = 50 * torch.eye(2, dtype=torch.float64).repeat(2000, 1)
    # a part of 2000 has the entropy log 2 - (share - 1/2)^2 2, whose expectation is 2 / (4 n) below log 2
    assert score(certain, 2).value == pytest.approx(2, abs=2 * stats.chi2.isf(FALSE_ALARM, 1) * 2 / (4 * 2000))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What is given to the picture."""
    seen: list[tuple] = []
    monkeypatch.setattr(plots, "plot_samples", lambda *arguments: seen.append(arguments))
    return seen


def test_Generation_the_picture_has_a_row_for_each_label_of_a_joint_model(drawn: list[tuple]) -> None:
    x, y = torch.randn(50, 1, 2, 2), torch.arange(50) % 3
    data = Examples(x, y, 3, bounds=(0.0, 1.0))
    protocol = Generation(FreshChains(20, 1), Coordinates())
    protocol._pictures(sampled_module(JointJEM(JEM(MLP(4, [3], outputs=3), 3))), {"x": x, "y": y}, data)
    ((grid, bounds, columns),) = drawn
    assert (bounds, columns) == ((0.0, 1.0), 10)
    assert torch.equal(grid, torch.cat([x[0:30:3], x[1:30:3], x[2:30:3]]))


def test_Generation_the_picture_is_sorted_by_the_class_that_the_model_gives(drawn: list[tuple]) -> None:
    model, x = LinearClassifier(torch.randn(3, 4), torch.randn(3)), torch.randn(40, 1, 2, 2)
    protocol = Generation(FreshChains(20, 1), Coordinates())
    protocol._pictures(sampled_module(model), {"x": x, "y": torch.arange(40) % 3}, Examples(x))
    given = model.logits(drawn[0][0]).argmax(1)
    assert torch.equal(given, given.sort().values)
    assert len(given.unique()) == 3
    assert torch.equal(drawn[0][0].flatten().sort().values, x.flatten().sort().values)


def test_Generation_of_a_run_takes_the_TrainedClassifier_beside_it(ebm, tmp_path: Path) -> None:
    """From the command line, from the buffer and from an ensemble; the distance of held-out images by hand."""
    folder = tmp_path / "few"
    folder.mkdir()
    net = component("ebm_lightning.energies.networks.MLP", inputs=64, hidden=[8], outputs=10)
    common = {
        "seed_everything": 0,
        "trainer": {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False, "val_check_interval": 3},
        "data": component("Digits", batch_size=16, val_size=0),
        "checkpoint": {"every_n_steps": 1, "keep": 2},
        "samples": {"every_n_steps": 0, "num_chains": 4, "steps": 1},
    }
    model = component("EBM", model=component("JEM", net=net, classes=10), objective=component("Classification"))
    features = component("TrainedClassifier", run="classifier")
    sampler = component("SGLD", step_size=0.1, noise=0.05)
    measured = component(
        "EBM",
        model=component("JEM", net=net, classes=10),
        objective=component("ContrastiveDivergence"),
        sampler=sampler,
        chains=component("SampleBuffer", size=40),
    )
    sources = [
        component("FromBuffer", num_samples=20),
        component("FromCheckpoints", last=2, num_samples=297, steps=2),
    ]
    protocols = [component("Generation", source=source, features=features, splits=2) for source in sources]
    runs = {
        "classifier": {**common, "model": model},
        "measured": {**common, "model": measured, "evaluation": protocols},
    }
    places = {}
    for name, config in runs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        status, said = ebm("fit", "-c", folder / f"{name}.yaml")
        assert status == 0, said
        (places[name],) = (tmp_path / "runs" / "few").glob(f"{name}-*")
    assert dependencies(folder, "measured.yaml") == ["classifier.yaml"]
    itself = {
        "evaluation": [
            component("Generation", source=sources[0], features=component("TrainedClassifier", run="itself"))
        ]
    }
    (folder / "itself.yaml").write_text(yaml.safe_dump(itself))
    assert dependencies(folder, "itself.yaml") == []
    status, said = ebm("test", places["measured"])
    assert status == 0, said
    features = "TrainedClassifier(run='classifier', block='y')"
    assert f"Generation(source=FromBuffer(num_samples=20), features={features}, splits=2" in said
    found = json.loads((places["measured"] / "evaluation" / "Generation.json").read_text())
    assert found["settings"]["source"] == "FromCheckpoints(last=2, num_samples=297, steps=2)"
    names = [f"{name}_of_classifier" for name in ("frechet_distance_in_logits", "classifier_score")]
    assert set(found["measurements"]) == {*names, *[f"{name}_held_out_images" for name in names]}
    assert (places["measured"] / "evaluation" / "Generation-samples.png").exists()

    from ebm_lightning.data import Digits
    from ebm_lightning.runs.load_model import load_model

    data, classifier = Digits(16, val_size=0), load_model(str(places["classifier"]))
    moments = []
    for split in ("train", "test"):
        logits = classifier.logits(data.tensors(split)["x"]).detach().double().numpy()
        moments.append((logits.mean(0), np.cov(logits.T)))
    held_out = found["measurements"][f"{names[0]}_held_out_images"]["value"]
    assert held_out == pytest.approx(_frechet(*zip(*moments, strict=True)), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Generation(FreshChains(100, 1), Coordinates(), splits=1), "expected splits >= 2"),
        (lambda: Generation(FreshChains(19, 1), Coordinates()), "at least 20 samples"),
        (
            lambda: Generation(FreshChains(20, 1), Coordinates()).measure(
                sampled_module(Gaussian([math.inf], [1.0])), Examples(torch.randn(30, 1))
            ),
            "are not finite",
        ),
    ],
)
def test_Generation_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
