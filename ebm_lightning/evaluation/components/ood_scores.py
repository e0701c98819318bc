"""Outlier scores: numbers of an image that are low for the data and high for outliers."""

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
    """A measure of how unlikely an image is under a model; papers report minus this number.

    Final subclasses are frozen dataclasses. ``name`` is the name in papers and in the results, after "by"; ``axis`` is
    the label of its axis in a histogram.
    """

    name: ClassVar[str]
    axis: ClassVar[str]

    @abc.abstractmethod
    def __call__(self, module: EBM, x: Tensor, classes: int | None) -> Tensor:
        """The outlier score of every image, (N,), on the CPU, with the model in eval mode.

        Args:
            module: the run.
            x: images (N, C, H, W).
            classes: number of classes of the data; None for data without labels.
        """


@dataclass(frozen=True)
class MinusEnergy(Score):
    """E(x), which is -log p(x) up to a constant (Du & Mordatch 2019).

    For a class-conditional model E(x, y) it is min_y E(x, y) over the labels of the data, as in that paper. The labels
    must then share one log Z. A model that sums out a missing label, such as JointJEM, gives E(x) itself.

    Raises:
        ValueError: at a call, if the model needs a label and the data have none, or each label has its own log Z, as in
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
    """-log max_y p(y | x), of a model with a classifier p(y | x) (Hendrycks & Gimpel 2017).

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
    """|dE/dx|, the Euclidean norm of the gradient; minus this number is called the approximate mass.

    Near a mode with much mass around it the density is flat. Grathwohl et al. (2020), eq. 10.
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
