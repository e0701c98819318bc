"""How good are the samples? Frechet distance and inception score, by a feature extractor and from a source by name."""

from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.class_posterior import has_posterior, log_posteriors
from ebm_lightning.evaluation.components.feature_extractors import FeatureExtractor, read_all
from ebm_lightning.evaluation.components.sample_sources import SampleSource
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, snake_case
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots

SHOWN = 10
"""Samples of a class in the picture, at most."""


@dataclass(eq=False)
class Generation(Protocol):
    """Frechet distance of samples to the training images, and the inception score of the samples.

    With means m and covariances C of the features of training images and samples, the distance is |m1 - m2|^2 +
    tr(C1 + C2 - 2 (C1 C2)^(1/2)), 0 if they agree (Heusel et al. 2017, eq. 6), in float64. It grows by about 1 / n
    if there are few samples, so that numbers of different n do not compare; if n is not above the number of
    features, the covariance is singular and the distance carries a warning. The score is exp E_x KL(p(y | x) || p(y)),
    from 1 to the number of classes, the mean over ``splits`` disjoint parts of the samples (Salimans et al. 2016). Both
    are measured for as many held-out test images too: no sample is expected to do better. All images are those that
    evaluation sees, with the noise that the data have there.

    The standard error is the standard deviation over the parts divided by the root of their number; papers print that
    deviation itself. Of the Frechet distance there is one if each part has more samples than there are features; it
    takes the training images as given, and is too large if the distance is near that of the held-out images.

    The picture has samples of one class in each row, if the model is over labels too; if it has p(y | x), they
    are sorted by the class that the model itself gives.

    Args:
        source: where the samples come from, and how many.
        features: the feature extractor.
        splits: parts, at least 2.
        block: the label, for the picture.

    Raises:
        ValueError: if ``splits`` < 2 or the source draws fewer than 2 samples for each part; when measuring, if
            the source or the network cannot be had, or samples have diverged.
    """

    source: SampleSource
    features: FeatureExtractor
    splits: int = 10
    block: str = "y"

    def __post_init__(self) -> None:
        if self.splits < 2 or self.source.number < 2 * self.splits:
            raise ValueError(f"{self.id}: expected splits >= 2 and at least {2 * self.splits} samples")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        reader = self.features.load(module, data)
        samples = self.source.draw(module, data)
        order = torch.randperm(self.source.number)  # sources have one of their own, of checkpoints or of labels
        samples = {name: value[order.to(value.device)] for name, value in samples.items()}
        test = data.tensors("test")["x"]
        held_out = test[torch.randperm(len(test))[: self.source.number].to(test.device)]
        real, _ = read_all(reader, data.tensors("train")["x"], module.device)
        found = {}
        for name, x in {"": samples["x"], ", held-out images": held_out}.items():
            features, logits = read_all(reader, x, module.device)
            if not bool(torch.isfinite(features).all() and torch.isfinite(logits).all()):
                raise ValueError(f"{self.id}: some samples or their features are not finite; let the chains be shorter")
            warning = self._fewer(len(x)) or too_few(min(len(x), len(real)), real.shape[1])
            distance, classes = self.features.distance + name, self.features.score + name
            found[snake_case(distance)] = frechet(real, features, self.splits, warning).labeled(distance)
            found[snake_case(classes)] = score(logits, self.splits, self._fewer(len(x))).labeled(classes)
        return ProtocolResult(found, self._drawn(module, samples, data))

    def _fewer(self, number: int) -> str:
        """What it says that there are not as many images as samples; empty if there are."""
        if number == self.source.number:
            return ""
        return f"there are {number} held-out images beside {self.source.number} samples: their numbers do not compare"

    def _drawn(self, module: EBM, samples: State, data: DataModule) -> dict[str, Image]:
        x, model = samples["x"], module.model
        if not plots.drawable(x):
            return {}
        if self.block in model.variables and self.block in samples:
            labels = samples[self.block]
            rows = [x[labels == label][:SHOWN] for label in sorted(set(labels.tolist()))]
            columns = min(map(len, rows))
            return {"samples": plots.picture(torch.cat([row[:columns] for row in rows]), data.bounds, columns)}
        x = x[: SHOWN**2]
        if has_posterior(model, {"x": x}, self.block):
            x = x[log_posteriors(module, {"x": x}, self.block).argmax(1).argsort(stable=True).to(x.device)]
        return {"samples": plots.picture(x, data.bounds)}


class _Given(nn.Module):
    """Hands on what it is given, for metrics of features that have been made already."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, x: Tensor) -> Tensor:
        return x


def frechet(real: Tensor, made: Tensor, splits: int, warning: str = "") -> Measurement:
    """The Frechet distance between the normal laws fitted to features (N, d) and (n, d), float64.

    The standard error is that over ``splits`` parts of ``made``, whose order must be random; None if a part has no
    more than d examples.
    """
    metric = FrechetInceptionDistance(_Given(real.shape[1]), reset_real_features=False)
    metric.update(real, real=True)

    def distance(features: Tensor) -> float:
        metric.reset()
        metric.update(features, real=False)
        return float(metric.compute())

    error = None
    if len(made) // splits > made.shape[1]:
        parts = torch.tensor([distance(part) for part in made.tensor_split(splits)], dtype=torch.float64)
        error = float(parts.std()) / splits**0.5
    return Measurement(distance(made), error, warning=warning)


def score(logits: Tensor, splits: int, warning: str = "") -> Measurement:
    """exp E KL(p(y | x) || p(y)) of logits (n, classes), the mean over ``splits`` random parts."""
    metric = InceptionScore(_Given(logits.shape[1]), splits=splits)
    metric.update(logits)
    mean, deviation = metric.compute()
    return Measurement(float(mean), float(deviation) / splits**0.5, warning=warning)


def too_few(number: int, features: int) -> str:
    """What it says about a covariance of so many features that it comes from so many examples; empty if enough."""
    if number > features:
        return ""
    return (
        f"{number} images give a covariance of rank {max(number - 1, 0)} at most in {features} features: the Frechet "
        f"distance is far too large; take more than {features}, published numbers take 50000"
    )
