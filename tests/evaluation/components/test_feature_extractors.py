"""Features of images: Inception's levels, the classifier of another run, and what is refused."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from support.configurations import component
from support.measured import sampled_module
from support.oracles import Examples
from torch import Tensor, nn

from ebm_lightning.energies import Gaussian
from ebm_lightning.evaluation import Inception, OwnClassifier, TrainedClassifier
from ebm_lightning.evaluation.components.feature_extractors import levels


class Sums(nn.Module):
    """Stands for InceptionV3: the three channel sums, and twice these."""

    def __init__(self, name: str, features: list[str], weights: str) -> None:
        super().__init__()
        if torch.load(weights, weights_only=True) != {"kind": "sums"}:
            raise RuntimeError("size mismatch\nfor many weights")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert x.dtype == torch.uint8
        sums = x.float().sum((2, 3))
        return sums, 2 * sums


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package torch-fidelity whose InceptionV3 is :class:`Sums`."""
    inner = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    inner.FeatureExtractorInceptionV3 = Sums
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, inner.__name__, inner)


GRAY = Examples(torch.linspace(-1, 1, 160).view(40, 1, 2, 2), bounds=(-1.0, 1.0))


def test_Inception_sees_levels_of_three_channels_and_its_numbers_alone_are_called_fid(fidelity, tmp_path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"kind": "sums"}, file)
    extractor = Inception(str(file))
    features, logits = extractor.load(sampled_module(Gaussian([0.0], [1.0])), GRAY)(torch.full((1, 1, 2, 2), -0.6))
    assert features.tolist() == [[4 * 51.0] * 3]
    assert torch.equal(logits, 2 * features)
    assert (extractor.distance, extractor.score) == ("FID", "inception score")
    for other in (TrainedClassifier("runs/few/net-01234567"), OwnClassifier()):
        assert "FID" not in other.distance
        assert "inception" not in other.score
    assert TrainedClassifier("runs/few/net-01234567").score == "classifier score of net-01234567"


def test_Inception_levels_are_clamped_and_rounded() -> None:
    x = torch.tensor([-9.0, 0.0, 1 / 255 * 0.51, 0.2, 1.0, 9.0]).view(6, 1, 1, 1)
    assert levels(x, (0.0, 1.0))[:, 2].flatten().tolist() == [0, 0, 1, 51, 255, 255]


def test_Inception_refuses_with_a_message_a_missing_package_or_file_of_weights(fidelity, tmp_path, monkeypatch) -> None:
    module, file = sampled_module(Gaussian([0.0], [1.0])), tmp_path / "weights.pth"
    extractor = Inception(str(file))
    with pytest.raises(ValueError, match=r"no file .*weights\.pth: put weights-inception-2015-12-05-6726825d\.pth"):
        extractor.load(module, GRAY)
    file.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="does not contain the weights of InceptionV3"):
        extractor.load(module, GRAY)
    torch.save({"kind": "others"}, file)
    with pytest.raises(ValueError, match=r"the weights of InceptionV3 of torch-fidelity \(size mismatch\)"):
        extractor.load(module, GRAY)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match=r"torch-fidelity, which is not installed .*pip install 'ebm_lightning\[inc"):
        extractor.load(module, GRAY)


def test_TrainedClassifier_of_other_bounds_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "classifier"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"data": component("Digits", bounds=[0.0, 1.0])}))
    with pytest.raises(ValueError, match=r"trained on images within \(0.0, 1.0\), but those of Examples are within"):
        TrainedClassifier(str(run)).load(sampled_module(Gaussian([0.0], [1.0])), GRAY)


UNBOUNDED = Examples(torch.zeros(3, 1, 2, 2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Inception("w").load(sampled_module(Gaussian([0.0], [1.0])), UNBOUNDED),
            r"is of shape \(1, 2, 2\) within None",
        ),
    ],
)
def test_Inception_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
