"""Out-of-distribution detection: whether the scores of a model separate test images from outliers."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_specificity_at_sensitivity,
)

from ebm_lightning.core import Bounds
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.ood_scores import MinusEnergy, Score
from ebm_lightning.evaluation.components.outlier_sets import Outliers
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, snake_case
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots


@dataclass(eq=False)
class OutOfDistribution(Protocol):
    """AUROC, AUPR and FPR@95 of scores that should be higher for test images than for outliers, such as -E(x).

    AUROC is the probability that a test image has a higher score than an outlier: 0.5 is chance, 1 is perfect; below
    0.5 outliers have the higher scores. Its standard error is that of Hanley & McNeil (1982). AUPR is the average
    precision in detecting the test images, whose chance level is their share. FPR@95 is the share of outliers above the
    threshold that 95 percent of the test images reach. Numbers of other scores than -E have the name of the score after
    "by".

    A set of images is compared as it is stored, scaled to the bounds. If the test images carry noise, which alone
    separates the two, wrap the set in :class:`NoisyOutliers`.

    Args:
        outliers: the sets of outliers.
        scores: to separate them by; None is -E alone.

    Raises:
        ValueError: if ``scores`` is empty; when measuring, if the data have no bounds, a set has images of another
            shape, or the model cannot compute a score.
    """

    outliers: list[Outliers]
    scores: list[Score] | None = None

    def __post_init__(self) -> None:
        if self.scores is not None and not self.scores:
            raise ValueError(f"{self.id}: expected at least one score, or null for -E alone")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        if data.bounds is None:
            raise ValueError(
                f"{self.id} makes outliers between the bounds of the data, but {type(data).__name__} has none: "
                "use bounded data, such as images"
            )
        x = data.tensors("test")["x"]
        sets = self._sets(x, data.bounds)
        found, images_by_set = ProtocolResult({}), {"test": x, **sets}
        for score in self.scores or [MinusEnergy()]:
            outlier_scores = {name: score(module, images, data.classes) for name, images in images_by_set.items()}
            by = "" if isinstance(score, MinusEnergy) else f" by {score.name}"
            suffix = f"_by_{snake_case(type(score).__name__)}" if by else ""
            for name in sets:
                inside, outside, key = -outlier_scores["test"], -outlier_scores[name], f"{snake_case(name)}{suffix}"
                found.measurements[f"auroc_{key}"] = auroc(inside, outside).labeled(f"AUROC {name}{by}")
                found.measurements[f"aupr_{key}"] = aupr(inside, outside).labeled(f"AUPR {name}{by}")
                found.measurements[f"fpr95_{key}"] = fpr(inside, outside).labeled(f"FPR@95 {name}{by}")
            picture = "energies" if isinstance(score, MinusEnergy) else type(score).__name__
            found.pictures[picture] = plots.plot_histogram(outlier_scores, score.axis)
        return found

    def _sets(self, x: Tensor, bounds: Bounds) -> dict[str, Tensor]:
        """The outliers by name; sets that are not on this machine are left out, with a message."""
        sets = {}
        for outliers in self.outliers:
            made = outliers.make(x, bounds)
            if made is None:
                print(f"{outliers} is not on this machine: not measured")
                continue
            if made.shape[1:] != x.shape[1:]:
                raise ValueError(
                    f"{outliers} has images of shape {tuple(made.shape[1:])}, but the data are of shape "
                    f"{tuple(x.shape[1:])}: name another set, or wrap it in Resized"
                )
            sets[str(outliers)] = made
        return sets


def auroc(inside: Tensor, outside: Tensor) -> Measurement:
    """P(score of an inlier > score of an outlier) with its standard error (Hanley & McNeil 1982, eq. 1)."""
    area = float(binary_auroc(*_ranked(inside, outside)))
    q1, q2, n, m = area / (2 - area), 2 * area**2 / (1 + area), len(inside), len(outside)
    variance = (area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m)
    return Measurement(area, max(variance, 0.0) ** 0.5)


def aupr(inside: Tensor, outside: Tensor) -> Measurement:
    """The average precision in detecting the inliers, with a binomial standard error (Boyd, Eng & Page 2013)."""
    area = float(binary_average_precision(*_ranked(inside, outside)))
    return Measurement(area, (area * (1 - area) / len(inside)) ** 0.5)


def fpr(inside: Tensor, outside: Tensor, accepted: float = 0.95) -> Measurement:
    """The share of outliers above the highest threshold that at least ``accepted`` of the inliers reach.

    The standard error is binomial, for a fixed threshold.
    """
    specificity, _ = binary_specificity_at_sensitivity(*_ranked(inside, outside), min_sensitivity=accepted)
    share = 1 - float(specificity)
    return Measurement(share, (share * (1 - share) / len(outside)) ** 0.5)


def _ranked(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks in [0, 1], since torchmetrics applies a sigmoid to scores beyond, and labels: 1 inside, 0 outside."""
    scores = torch.cat([inside, outside]).double()
    labels = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    ranks = torch.unique(scores, return_inverse=True)[1]
    return ranks.double() / max(int(ranks.max()), 1), labels
