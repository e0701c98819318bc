"""Energies given by a network."""

from typing import cast

from torch import Tensor, nn

from ebm_lightning.core import EnergyModel


def _per_example(model: EnergyModel, out: Tensor, examples: int) -> Tensor:
    """Reshape (B, 1) or (B,) to (B,). Raises ValueError if the output of a net has any other shape."""
    if out.shape not in ((examples,), (examples, 1)):
        raise ValueError(
            f"{type(model).__name__} expects its net to give one number per example, shape ({examples},) or "
            f"({examples}, 1), got {tuple(out.shape)}: give the net a single output"
        )
    return out.reshape(examples)


class DeepEnergy(EnergyModel):
    """E(x) = net(x): an energy over x of any shape (B, ...).

    Args:
        net: a network with one output per example, (B,) or (B, 1).

    >>> import torch
    >>> energy = DeepEnergy(torch.nn.Linear(2, 1))
    >>> energy.energy({"x": torch.zeros(3, 2)}).shape
    torch.Size([3])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """E(x), shape (B,). Raises ValueError if the net does not give one number per example."""
        return _per_example(self, cast(Tensor, self.net(x)), len(x))


class ConditionalDeepEnergy(EnergyModel):
    """E(x, y) = net(x, y): an energy over x (B, ...) and the labels, or another input of the net, y (B, ...).

    Args:
        net: a network of two arguments with one output per example, (B,) or (B, 1).

    >>> import torch
    >>> energy = ConditionalDeepEnergy(torch.nn.Bilinear(2, 3, 1))
    >>> energy.energy({"x": torch.zeros(4, 2), "y": torch.zeros(4, 3)}).shape
    torch.Size([4])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """E(x, y), shape (B,). Raises ValueError if the net does not give one number per example."""
        return _per_example(self, cast(Tensor, self.net(x, y)), len(x))
