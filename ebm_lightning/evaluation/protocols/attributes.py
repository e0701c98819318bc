"""Attributes of samples that a rule of the data decides: their shares."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.sample_sources import SampleSource
from ebm_lightning.evaluation.protocol import Findings, Measurement, Protocol, percent_true
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots


@dataclass(eq=False)
class Attributes(Protocol):
    """Shares of valid samples and, among them, of each attribute, of all attributes, and of any of them, in percent.

    The data define by a rule which images are valid and which attributes they have (hook ``DataModule.attributes``). So
    one can measure whether samples of a product of energies have the attributes of all of its parts (Du, Li & Mordatch
    2020). Test images, with the noise that the data have there, are measured beside the samples: they show the errors
    of the rule and the level of chance. Standard errors are binomial; if no sample is valid, the other shares are NaN
    and carry a warning. The picture has 64 samples.

    Args:
        source: of the samples.

    Raises:
        ValueError: when measuring, if the data have no attributes or the source has no samples.
    """

    source: SampleSource

    def measure(self, module: EBM, data: DataModule) -> Findings:
        samples = self.source.draw(module, data)["x"]
        found: dict[str, Measurement] = {}
        for behind, x in {"": samples, ", test images": data.tensors("test")["x"]}.items():
            found |= {f"{name}{behind}": share for name, share in shares(data.attributes(x)).items()}
        drawn = {"samples": plots.plot_samples(samples[:64], data.bounds)} if plots.can_plot(samples) else {}
        return Findings(found, drawn)


def shares(attributes: dict[str, Tensor]) -> dict[str, Measurement]:
    """The share of images that are "valid", and among these of each other attribute (N,), of all and of any."""
    valid = attributes["valid"]
    having = {name: which[valid] for name, which in attributes.items() if name != "valid"}
    together = torch.stack(list(having.values()), 1)
    having |= {" and ".join(having): together.all(1), " or ".join(having): together.any(1)}
    found = {f"{name}, percent of valid": _percent(which) for name, which in having.items()}
    return {"valid, percent": _percent(valid), **found}


def _percent(which: Tensor) -> Measurement:
    return percent_true(which) if len(which) else Measurement(math.nan, warning="no sample is valid")
