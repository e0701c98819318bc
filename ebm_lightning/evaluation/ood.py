"""Out-of-distribution detection: does the energy tell the data from what is not?"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from ebm_lightning import pictures
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.outliers import Outliers
from ebm_lightning.evaluation.protocol import Findings, Measurement, Protocol
from ebm_lightning.module import EBM
from ebm_lightning.sampling import energies


@dataclass(eq=False)
class OutOfDistribution(Protocol):
    """AUROC of the score -E(x): the probability that a test image has a lower energy than an outlier.

    0.5 is chance, 1 is perfect; below 0.5 the outliers are taken for better data than the data. The standard error
    is that of Hanley & McNeil (1982).

    Args:
        outliers: the sets to tell from the test images.
    """

    outliers: list[Outliers]

    def measure(self, module: EBM, data: DataModule) -> Findings:
        assert data.bounds is not None
        x = data.tensors("test")["x"]
        found: dict[str, Measurement] = {}
        shown = {"test": energies(module, module.model.complete({"x": x}))}
        for outliers in self.outliers:
            others = outliers.make(x, data.bounds)
            if others is None:
                print(f"{outliers} is not at hand: not measured")
                continue
            shown[str(outliers)] = energies(module, module.model.complete({"x": others}))
            found[f"AUROC {outliers}"] = auroc(-shown["test"], -shown[str(outliers)])
        return Findings(found, {"energies": pictures.histogram(shown, "energy")})


def auroc(inside: Tensor, outside: Tensor) -> Measurement:
    """P(score of an inlier > score of an outlier) with its standard error (Hanley & McNeil 1982, eq. 1)."""
    scores = torch.cat([inside, outside]).double()
    labels = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    ranks = torch.unique(scores, return_inverse=True)[
        1
    ]  # torchmetrics squashes scores beyond [0, 1] by a sigmoid: send ranks
    area = float(binary_auroc(ranks / max(int(ranks.max()), 1), labels))
    q1, q2, n, m = area / (2 - area), 2 * area**2 / (1 + area), len(inside), len(outside)
    variance = (area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m)
    return Measurement(area, max(variance, 0.0) ** 0.5)
