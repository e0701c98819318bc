"""What do the samples show? Shares of samples with attributes that a rule finds."""

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
    """How many samples are valid, in percent, and of these how many have each attribute, all of them, and any of them.

    The data say by rule which images are valid and what attributes these have (hook ``DataModule.attributes``). So one
    can see whether a product of energies is likely wherever all of its parts are (Du, Li & Mordatch 2020). Test images,
    with the noise that the data have there, are measured beside the samples: they show whether the rule errs, and what
    chance is. Standard errors are binomial; if no sample is valid, the shares among them are NaN and carry a
    warning. The picture has 64 samples.

    Args:
        source: where the samples come from, and how many.

    Raises:
        ValueError: when measuring, if the data know no attributes or the source cannot be had.
    """

    source: SampleSource

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        samples = self.source.draw(module, data)["x"]
        found = shares(data.attributes(samples))
        for key, share in shares(data.attributes(data.tensors("test")["x"])).items():
            found[f"{key}_test_images"] = share.labeled(f"{share.label}, test images")
        drawn = {"samples": plots.picture(samples[:64], data.bounds)} if plots.drawable(samples) else {}
        return ProtocolResult(found, drawn)


def shares(attributes: dict[str, Tensor]) -> dict[str, Measurement]:
    """The share of images that are "valid", and of these the shares with each other attribute (N,), all and any.

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
