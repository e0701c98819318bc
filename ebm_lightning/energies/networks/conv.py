"""A small convolutional network for small images."""

import copy
from itertools import pairwise

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Strided convolutions, then two linear layers: (B, channels, size, size) -> (B, outputs).

    A 5x5 convolution of stride 2, 3x3 convolutions of stride 2 for the other widths, then
    flatten -> Linear(features) -> Linear(outputs), with an activation after every layer but the last. The defaults
    are the network of the UvA deep learning course, tutorial 8 (Lippe 2022): 28x28 is padded to give 16, 8, 4, 2.

    Args:
        channels: the channels of an image.
        widths: the output channels of the convolutions, in order; each convolution halves the image.
        features: the width of the hidden linear layer.
        outputs: the number of outputs for each image.
        size: the side of the image in pixels.
        stem_padding: the pixels of zeros on every side before the first convolution. 4 treats 28x28 as a 32x32 image;
            2 halves an even side exactly, which suits 32x32 and 8x8.
        activation: the activation after every layer but the last, copied for each; None is SiLU.

    Raises:
        ValueError: if a width is below 1, or the first convolution does not fit into the image.

    >>> import torch
    >>> ConvNet(widths=(2, 4), features=8, size=8, stem_padding=2)(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 1])
    """

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, ...] = (16, 32, 64, 64),
        features: int = 64,
        outputs: int = 1,
        size: int = 28,
        stem_padding: int = 4,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not widths or min([channels, features, outputs, *widths]) < 1:
            raise ValueError(
                f"ConvNet(channels={channels}, widths={widths}, features={features}, outputs={outputs}): "
                "expected at least one width, and widths of at least 1"
            )
        side = (size + 2 * stem_padding - 5) // 2 + 1
        if stem_padding < 0 or side < 1:
            raise ValueError(
                f"ConvNet(size={size}, stem_padding={stem_padding}): a 5x5 convolution does not fit; "
                "expected size + 2 stem_padding >= 5 and stem_padding >= 0"
            )
        activation = nn.SiLU() if activation is None else activation
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 5, stride=2, padding=stem_padding)]
        for fan_in, fan_out in pairwise(widths):
            layers += [copy.deepcopy(activation), nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1)]
            side = (side + 1) // 2
        layers += [copy.deepcopy(activation), nn.Flatten(), nn.Linear(widths[-1] * side * side, features)]
        self.net = nn.Sequential(*layers, copy.deepcopy(activation), nn.Linear(features, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, size, size) -> (B, outputs)."""
        out: Tensor = self.net(x)
        return out
