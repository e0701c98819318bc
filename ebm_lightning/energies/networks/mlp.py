"""A multi-layer perceptron."""

import copy
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with activations between them: (B, ...) with ``inputs`` numbers per example -> (B, outputs).

    Args:
        inputs: the number of inputs per example; examples of any shape are flattened.
        hidden: the widths of the hidden layers, in order; empty for a single linear layer.
        outputs: the number of outputs per example.
        activation: the activation after each hidden layer, copied for each; None is SiLU.

    Raises:
        ValueError: if a width is below 1.

    >>> import torch
    >>> MLP(inputs=4, hidden=[8, 8])(torch.zeros(3, 2, 2)).shape
    torch.Size([3, 1])
    """

    def __init__(self, inputs: int, hidden: list[int], outputs: int = 1, activation: nn.Module | None = None) -> None:
        super().__init__()
        if min([inputs, outputs, *hidden]) < 1:
            raise ValueError(f"MLP(inputs={inputs}, hidden={hidden}, outputs={outputs}): expected widths of at least 1")
        activation = nn.SiLU() if activation is None else activation
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([inputs, *hidden]):
            layers += [nn.Linear(fan_in, fan_out), copy.deepcopy(activation)]
        self.net = nn.Sequential(nn.Flatten(), *layers, nn.Linear([inputs, *hidden][-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, outputs)."""
        out: Tensor = self.net(x)
        return out
