"""An energy defined outside the package: a ring in the plane, with two parameters to learn."""

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel


class RingEnergy(EnergyModel):
    """E(x) = precision / 2 (|x| - radius)^2 for points x (B, 2): low on a circle around the origin.

    Both parameters are learned; the precision is the exponential of one of them, and so positive.

    Args:
        radius: of the circle before training.
        precision: before training, > 0.

    Raises:
        ValueError: if ``precision`` <= 0.
    """

    def __init__(self, radius: float = 1.0, precision: float = 1.0) -> None:
        super().__init__()
        if not precision > 0:
            raise ValueError(f"RingEnergy(precision={precision}): expected a number > 0")
        self.radius = nn.Parameter(torch.tensor(radius))
        self.log_precision = nn.Parameter(torch.tensor(precision).log())

    def forward(self, x: Tensor) -> Tensor:
        """E(x), shape (B,)."""
        return self.log_precision.exp() / 2 * (torch.linalg.vector_norm(x, dim=1) - self.radius).square()
