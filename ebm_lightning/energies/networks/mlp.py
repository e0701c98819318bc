"""A multi-layer perceptron."""

import copy
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with an activation between them: (B, ...) with ``inputs`` numbers each -> (B, outputs).

    Args:
        inputs: The numbers in one example; examples of any shape are flattened.
        hidden: The width of every hidden layer, first one first; empty for a single linear layer.
        outputs: The numbers that come out for each example.
        activation: What follows every hidden layer, copied for each of them; None means SiLU.
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
