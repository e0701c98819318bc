"""Receptive fields of hidden units and experts."""

from dataclasses import dataclass, field

from PIL.Image import Image
from torch import Tensor

from ebm_lightning.core import HasReceptiveFields, require
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots


@dataclass(eq=False)
class ReceptiveFields(Protocol):
    """A picture of the filters of a trained model with the largest norm, largest first, each on its own gray scale.

    Zero is mid-gray; equally white and black values have equal absolute value and opposite sign. The mean Euclidean
    norm of all filters is measured.

    Args:
        num_filters: filters of each group in the picture, at most.
        blocks: the variables whose units the filters are connected to, each drawn as images (C, H, W): ["x"], or for
            the second layer of a deep Boltzmann machine as well ["x", "h1"].
        groups: the number of groups of equal size in which the filters come; each is one row. One model for each class
            has as many groups as classes. 1 makes a square.

    Raises:
        ValueError: if ``num_filters`` or ``groups`` < 1; when measuring, if the model has no filters on one of the
            blocks, or their number is no multiple of ``groups``.
    """

    num_filters: int = 100
    blocks: list[str] = field(default_factory=lambda: ["x"])
    groups: int = 1

    def __post_init__(self) -> None:
        if self.num_filters < 1 or self.groups < 1:
            raise ValueError(f"{self.id}: expected num_filters >= 1 and groups >= 1")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        found, pictures = {}, {}
        for block in self.blocks:
            measurement, pictures[block] = self._of(module, block)
            found[f"mean_filter_norm_{block}"] = measurement.labeled(f"filter norm on {block}, mean")
        return ProtocolResult(found, pictures)

    def _of(self, module: EBM, block: str) -> tuple[Measurement, Image]:
        """The mean norm of the filters of one variable, and the picture of the largest."""
        every = require(module.model, HasReceptiveFields).filters(block).detach()
        norms = every.flatten(1).norm(dim=1)
        if len(every) % self.groups:
            raise ValueError(f"{self.id}: the model has {len(every)} filters, expected a multiple of {self.groups}")
        pairs = zip(every.chunk(self.groups), norms.chunk(self.groups), strict=True)
        rows = [largest(own, norm, self.num_filters) for own, norm in pairs]
        return Measurement(float(norms.mean())), plots.plot_filters(rows)


def largest(filters: Tensor, norms: Tensor, n: int) -> Tensor:
    """Up to n filters, those with the largest norm first."""
    return filters[norms.argsort(descending=True, stable=True)[:n]]
