"""Sample quality: Frechet distance and inception score in the features and classes of a feature extractor."""

from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.class_posterior import has_posterior, log_posteriors
from ebm_lightning.evaluation.components.feature_extractors import FeatureExtractor, extract_all
from ebm_lightning.evaluation.components.sample_sources import SampleSource
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, snake_case
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots

NUM_PICTURED = 10
"""Samples of a class in the picture, at most."""


@dataclass(eq=False)
class Generation(Protocol):
    """Frechet distance of samples to the training images, and the inception score of the samples.

    With means m and covariances C of the features of training images and samples, the distance is |m1 - m2|^2 + tr(C1 +
    C2 - 2 (C1 C2)^(1/2)), 0 if they are equal (Heusel et al. 2017, eq. 6), in float64. For n samples it has a bias of
    order 1 / n, so that numbers of different n are not comparable; if n is at most the number of features, the
    covariance is singular and the distance carries a warning. The score is exp E_x KL(p(y | x) || p(y)), from 1 to the
    number of classes, the mean over ``splits`` disjoint parts of the samples (Salimans et al. 2016). Both are also
    measured for as many held-out test images: no sample is expected to be better. All images are those that evaluation
    loads, with the noise that the data have there.

    The standard error is the standard deviation over the parts divided by the square root of their number; papers print
    the standard deviation itself. The Frechet distance has one if each part has more samples than there are features;
    it takes the training images as fixed, and is too large if the distance is near that of the held-out images.

    The picture has samples of one class in each row if the label is a variable of the model. If not, and the model has
    a p(y | x), samples are sorted by the model's own class.

    Args:
        source: of the samples.
        features: the feature extractor.
        splits: number of parts, at least 2.
        block: the label, for the picture.

    Raises:
        ValueError: if ``splits`` < 2 or the source draws fewer than 2 samples for each part; when measuring, if
            the source or the network cannot be loaded, or samples have diverged.
    """

    source: SampleSource
    features: FeatureExtractor
    splits: int = 10
    block: str = "y"

    def __post_init__(self) -> None:
        if self.splits < 2 or self.source.num_samples < 2 * self.splits:
            raise ValueError(f"{self.id}: expected splits >= 2 and at least {2 * self.splits} samples")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        extract = self.features.load(module, data)
        samples = self.source.draw(module, data)
        order = torch.randperm(self.source.num_samples)  # a source may sort them, by checkpoint or by label
        samples = {name: value[order.to(value.device)] for name, value in samples.items()}
        test = data.tensors("test")["x"]
        held_out = test[torch.randperm(len(test))[: self.source.num_samples].to(test.device)]
        real, _ = extract_all(extract, data.tensors("train")["x"], module.device)
        found = {}
        for name, x in {"": samples["x"], ", held-out images": held_out}.items():
            features, logits = extract_all(extract, x, module.device)
            if not bool(torch.isfinite(features).all() and torch.isfinite(logits).all()):
                raise ValueError(f"{self.id}: some samples or their features are not finite: shorten the chains")
            warning = self._fewer(len(x)) or too_few(min(len(x), len(real)), real.shape[1])
            distance, classes = self.features.distance + name, self.features.score + name
            found[snake_case(distance)] = frechet(real, features, self.splits, warning).labeled(distance)
            found[snake_case(classes)] = score(logits, self.splits, self._fewer(len(x))).labeled(classes)
        return ProtocolResult(found, self._pictures(module, samples, data))

    def _fewer(self, n: int) -> str:
        """The warning for another number of images than samples; empty if they are equal."""
        if n == self.source.num_samples:
            return ""
        return (
            f"there are {n} held-out images beside {self.source.num_samples} samples: their numbers are not comparable"
        )

    def _pictures(self, module: EBM, samples: State, data: DataModule) -> dict[str, Image]:
        x, model = samples["x"], module.model
        if not plots.can_plot(x):
            return {}
        if self.block in model.variables and self.block in samples:
            labels = samples[self.block]
            rows = [x[labels == label][:NUM_PICTURED] for label in sorted(set(labels.tolist()))]
            columns = min(map(len, rows))
            return {"samples": plots.plot_samples(torch.cat([row[:columns] for row in rows]), data.bounds, columns)}
        x = x[: NUM_PICTURED**2]
        if has_posterior(model, {"x": x}, self.block):
            x = x[log_posteriors(module, {"x": x}, self.block).argmax(1).argsort(stable=True).to(x.device)]
        return {"samples": plots.plot_samples(x, data.bounds)}


class _Given(nn.Module):
    """The identity, for metrics of features that have been computed already."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, x: Tensor) -> Tensor:
        return x


def frechet(real: Tensor, made: Tensor, splits: int, warning: str = "") -> Measurement:
    """The Frechet distance between normal distributions fitted to features (N, d) and (n, d), float64.

    The standard error is over ``splits`` parts of ``made``, whose order must be random; None if a part has at most d
    examples.
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


def too_few(n: int, features: int) -> str:
    """The warning for a covariance of ``features`` from n examples; empty if there are enough."""
    if n > features:
        return ""
    return (
        f"{n} images give a covariance of rank {max(n - 1, 0)} at most in {features} features: the Frechet "
        f"distance is far too large; take more than {features}, published numbers take 50000"
    )
