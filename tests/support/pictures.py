"""Pictures from a normal law whose conditionals are known."""

import torch
from torch import Tensor

from ebm_lightning.energies import Gaussian

F64 = torch.float64


FACTOR = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0], [-0.5, 0.4, 0.9, 0.0], [0.3, 0.7, -0.2, 0.5]])


MEAN, COVARIANCE = torch.tensor([1.0, -0.5, 0.0, 2.0], dtype=F64), (FACTOR @ FACTOR.T).double()


class Picture(Gaussian):
    """The normal law over images (1, 2, 2)."""

    def __init__(self) -> None:
        symmetric = (COVARIANCE + COVARIANCE.T) / 2
        super().__init__(MEAN.tolist(), symmetric.tolist())
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def conditional_law(known: list[int], hidden: list[int], values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the covariance of the hidden coordinates given values (B, known) of the others."""
    gain = COVARIANCE[hidden][:, known] @ torch.linalg.inv(COVARIANCE[known][:, known])
    mean = MEAN[hidden] + (values - MEAN[known]) @ gain.T
    return mean, COVARIANCE[hidden][:, hidden] - gain @ COVARIANCE[known][:, hidden]
