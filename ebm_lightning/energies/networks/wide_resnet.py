"""The wide residual network, the classifier of JEM."""

import copy
from collections.abc import Callable

from torch import Tensor, nn


class WideResNet(nn.Module):
    """WRN-depth-width (Zagoruyko & Komodakis 2016): (B, channels, H, W) -> (B, classes), H and W divisible by 4.

    A 3x3 convolution to 16 channels, three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times ``width``
    channels, of which all but the first halve the image, then activation, mean over the image and a linear layer. A
    block is x + conv(act(norm(conv(act(norm(x)))))); its second convolution has the stride, and x passes through
    a 1x1 convolution if the shape changes. Convolutions have biases. The default is JEM's network (Grathwohl et al.
    2020): WRN-28-10 without normalization, which has 36.47 million parameters.

    Args:
        depth: the layers along the longest path, 6n + 4 for n blocks in a stage.
        width: the factor of the number of channels.
        classes: the number of outputs for each image.
        channels: the channels of an image.
        normalization: makes the layer before each activation from its number of channels, such as torch.nn.BatchNorm2d
            in JEM++ (Yang & Ji 2021), which also runs the chains in train mode (``eval_sampling: false``); None is no
            normalization.
        activation: the activation before every convolution but the first, copied for each; None is a leaky ReLU of
            slope 0.2.

    Raises:
        ValueError: if ``depth`` is not 6n + 4, or a width is below 1.

    >>> import torch
    >>> WideResNet(depth=10, width=1, channels=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        classes: int = 10,
        channels: int = 3,
        normalization: Callable[[int], nn.Module] | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"WideResNet(depth={depth}): expected 6n + 4 layers, such as 10, 16, 22 or 28")
        if min(width, classes, channels) < 1:
            raise ValueError(
                f"WideResNet(width={width}, classes={classes}, channels={channels}): expected numbers of at least 1"
            )
        act = nn.LeakyReLU(0.2) if activation is None else activation
        norm = normalization or (lambda _: nn.Identity())
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1)]
        fan_in = 16
        for fan_out, stride in [(16 * width, 1), (32 * width, 2), (64 * width, 2)]:
            for first in [True] + [False] * (blocks - 1):
                layers.append(_Block(fan_in, fan_out, stride if first else 1, norm, act))
                fan_in = fan_out
        self.trunk = nn.Sequential(*layers, norm(fan_in), copy.deepcopy(act))
        self.head = nn.Linear(fan_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, classes)."""
        out: Tensor = self.head(self.trunk(x).mean((2, 3)))
        return out


class _Block(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), the stride in the second convolution."""

    def __init__(
        self, fan_in: int, fan_out: int, stride: int, norm: Callable[[int], nn.Module], act: nn.Module
    ) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            norm(fan_in),
            copy.deepcopy(act),
            nn.Conv2d(fan_in, fan_out, 3, padding=1),
            norm(fan_out),
            copy.deepcopy(act),
            nn.Conv2d(fan_out, fan_out, 3, stride, padding=1),
        )
        same = stride == 1 and fan_in == fan_out
        self.skip = nn.Identity() if same else nn.Conv2d(fan_in, fan_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.residual(x) + self.skip(x)
        return out
