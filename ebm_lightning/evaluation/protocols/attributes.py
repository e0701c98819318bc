"""Attributes of samples, as a rule of the data finds them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.sample_sources import SampleSource
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, percent_true, snake_case
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

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        samples = self.source.draw(module, data)["x"]
        found = shares(data.attributes(samples))
        for key, share in shares(data.attributes(data.tensors("test")["x"])).items():
            found[f"{key}_test_images"] = share.labeled(f"{share.label}, test images")
        pictures = {"samples": plots.plot_samples(samples[:64], data.bounds)} if plots.can_plot(samples) else {}
        return ProtocolResult(found, pictures)


def shares(attributes: dict[str, Tensor]) -> dict[str, Measurement]:
    """The share of images that are "valid", and among these of each other attribute (N,), of all and of any.

    By key; in percent.
    """
    valid = attributes["valid"]
    having = {name: which[valid] for name, which in attributes.items() if name != "valid"}
    together = torch.stack(list(having.values()), 1)
    having |= {" and ".join(having): together.all(1), " or ".join(having): together.any(1)}
    found = {"valid_percent": _percent(valid, "valid, percent")}
    for name, which in having.items():
        found[f"{snake_case(name)}_percent_of_valid"] = _percent(which, f"{name}, percent of valid")
    return found


def _percent(which: Tensor, label: str) -> Measurement:
    share = percent_true(which) if len(which) else Measurement(math.nan, warning="no sample is valid")
    return share.labeled(label)
