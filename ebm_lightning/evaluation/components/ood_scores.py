"""What tells data from outliers: numbers of an image that are low for the data, high for what is strange."""

import abc
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ebm_lightning.core import energy_grad, evaluating
from ebm_lightning.evaluation.components.class_posterior import log_posteriors
from ebm_lightning.evaluation.protocols.classification import scores
from ebm_lightning.generation.samples import energies
from ebm_lightning.training.module import EBM


class Score(abc.ABC):
    """How strange an image is under a model; the score that papers report is minus this number.

    ``name`` is what papers call it, as it stands behind "by" in results; ``axis`` is the number in a histogram.
    """

    name: ClassVar[str]
    axis: ClassVar[str]

    @abc.abstractmethod
    def __call__(self, module: EBM, x: Tensor, classes: int | None) -> Tensor:
        """The strangeness of every image of x (N, C, H, W): (N,), on the CPU, with the model in eval mode.

        ``classes`` is how many labels the data have; None where they have none.
        """


@dataclass(frozen=True)
class MinusEnergy(Score):
    """E(x): log p(x) up to a constant, with its sign turned (Du & Mordatch 2019).

    Of an energy over x and a label y, which a class-conditional model is, it is min_y E(x, y) over the labels of the
    data, as they score such models: an image is as strange as under the label that suits it best. Energies of different
    labels must then share one log Z. A model that sums out a label it is not given, such as JointJEM, has E(x).

    Raises ValueError where the model needs a label and the data have none, or each label has a log Z of its own, as in
    PerClass.
    """

    name = "-E"
    axis = "energy"

    def __call__(self, module: EBM, x: Tensor, classes: int | None) -> Tensor:
        state = module.model.positive_phase({"x": x})
        if classes is None or "y" in state or "y" not in module.model.variables:
            return energies(module, state)
        labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return -scores(module, {**state, "y": labels}, "y", classes).amax(1)


@dataclass(frozen=True)
class MaxSoftmax(Score):
    """-log max_y p(y | x), which has the order of max_y p(y | x) (Hendrycks & Gimpel 2017), of a model that has it.

    Args:
        block: the label.
    """

    name = "max p(y|x)"
    axis = "-log max p(y|x), nats"

    block: str = "y"

    def __call__(self, module: EBM, x: Tensor, classes: int | None) -> Tensor:
        return -log_posteriors(module, {"x": x}, self.block).amax(1)


@dataclass(frozen=True)
class MinusGradientNorm(Score):
    """|dE/dx|, Euclidean: near a mode with much mass around it the density is flat (Grathwohl et al. 2020, eq. 10).

    They call minus this number the approximate mass.
    """

    name = "-|dE/dx|"
    axis = "norm of dE/dx"

    def __call__(self, module: EBM, x: Tensor, classes: int | None) -> Tensor:
        parts = []
        with evaluating(module), torch.no_grad():
            for batch in torch.split(x, 500):
                state = module.model.positive_phase({"x": batch.to(module.device)})
                grad, _ = energy_grad(module.model, state, "x")
                parts.append(torch.linalg.vector_norm(grad.flatten(1), dim=1).cpu())
        return torch.cat(parts)
