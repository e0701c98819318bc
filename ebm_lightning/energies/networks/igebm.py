"""The networks of Du & Mordatch 2019, "Implicit generation and modeling with energy-based models" (IGEBM)."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebm_lightning.energies.networks.spectral import spectral_bounded, spectral_normal

SECOND_CONV_STD = 1e-10
"""The initial standard deviation of the second convolution of a block: initially every block is its skip connection."""


def _convolution(fan_in: int, fan_out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, kernel, stride, padding=kernel // 2 if stride == 1 else 0, bias=False)


def _one_hot(net: nn.Module, classes: int | None, x: Tensor, y: Tensor | None) -> Tensor:
    """One-hot labels (B, classes) in the dtype of x, or ones (1, 1), which broadcast, for a net without classes.

    Raises ValueError if a conditional net gets no labels, or an unconditional one gets some.
    """
    if classes is None and y is None:
        return x.new_ones(1, 1)
    if classes is None or y is None:
        labels = "no labels y" if y is None else "labels y"
        raise ValueError(
            f"{type(net).__name__}(classes={classes}) was given {labels}: use ConditionalDeepEnergy with a number "
            "of classes, or DeepEnergy with classes=None"
        )
    return F.one_hot(y, classes).to(x.dtype)


class _ResidualBlock(nn.Module):
    """h = conv1(x + b1[y]); h = conv2(a(dropout(h)) + b2[y]) * (g2[y] + g0); out = a(pool(h + skip(x))).

    The biases are added to the input of a convolution, before its zero padding. The skip connection is the identity if
    the number of channels does not change, else a convolution. A net without classes has a single class and no g0.
    """

    def __init__(
        self, fan_in: int, fan_out: int, down: bool, classes: int | None, dropout: float, activation: nn.Module
    ) -> None:
        super().__init__()
        rows = 1 if classes is None else classes
        self.conv1 = spectral_normal(_convolution(fan_in, fan_out))
        self.conv2 = spectral_bounded(_convolution(fan_out, fan_out), std=SECOND_CONV_STD)
        self.skip = nn.Identity() if fan_in == fan_out else spectral_normal(_convolution(fan_in, fan_out))
        self.bias1 = nn.Parameter(torch.zeros(rows, fan_in))
        self.bias2 = nn.Parameter(torch.zeros(rows, fan_out))
        self.gain2 = nn.Parameter(torch.ones(rows, fan_out))
        self.shared_gain2 = None if classes is None else nn.Parameter(torch.zeros(fan_out))
        self.dropout = nn.Dropout(dropout)
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()
        self.activation1, self.activation2 = copy.deepcopy(activation), copy.deepcopy(activation)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        bias1, bias2, gain = label @ self.bias1, label @ self.bias2, label @ self.gain2
        if self.shared_gain2 is not None:
            gain = gain + self.shared_gain2
        h = self.activation1(self.dropout(self.conv1(x + bias1[..., None, None])))
        h = self.conv2(h + bias2[..., None, None]) * gain[..., None, None]
        out: Tensor = self.activation2(self.pool(h + self.skip(x)))
        return out


class IGEBMNet(nn.Module):
    """The residual network of IGEBM, without batch statistics: (B, channels, H, W) -> (B, 1).

    A 3x3 convolution and an activation; stages of residual blocks, the first of which halves the image by average
    pooling; the head's activation, the sum over all pixels, and a linear layer. Convolutions have no bias and are
    spectrally normalized (one power iteration per forward pass in train mode); the second one of a block is only
    bounded and initialized near zero; the last linear layer is not normalized (Xavier). Classes enter by a gain and two
    biases per class in every block. The named networks of the paper's code release:

    ============================ ==================================== =================== ============= ===============
    network                      stages                               dropout             head          conv + fc
    ============================ ==================================== =================== ============= ===============
    ResNet32 (the defaults)      ((128, 2), (256, 2), (256, 2))       0                   ReLU          5.31 M
    ResNet32Large                ((128, 3), (256, 3), (512, 3))       0.5                 ReLU          18.58 M
    ResNet32Large, conditional   ((128, 3), (256, 3), (512, 3))       0.5                 LeakyReLU     18.58 M
    ============================ ==================================== =================== ============= ===============

    Args:
        channels: the channels of an image.
        width: the output channels of the first convolution.
        stages: the width and the number of blocks of each stage.
        classes: the number of classes y that condition the energy; None for an energy of x alone.
        dropout: the share of features dropped after a block's first convolution, in train mode only.
        activation: the activation of the stem and of the blocks; None means LeakyReLU(0.2).
        head_activation: the activation before the sum over pixels; None means ReLU.

    Raises:
        ValueError: if there is no stage, or a number is below 1.

    >>> import torch
    >>> net = IGEBMNet(width=4, stages=((4, 1), (8, 1)), classes=10)
    >>> net(torch.zeros(2, 3, 8, 8), torch.tensor([0, 9])).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 128,
        stages: tuple[tuple[int, int], ...] = ((128, 2), (256, 2), (256, 2)),
        classes: int | None = None,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
        head_activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not stages or min([channels, width, *(number for stage in stages for number in stage)]) < 1:
            raise ValueError(
                f"IGEBMNet(channels={channels}, width={width}, stages={stages}): expected at least one stage "
                "(width, blocks), and numbers of at least 1"
            )
        if classes is not None and classes < 1:
            raise ValueError(f"IGEBMNet(classes={classes}): expected None or at least 1")
        activation = nn.LeakyReLU(0.2) if activation is None else activation
        self.classes = classes
        self.stem = nn.Sequential(spectral_normal(_convolution(channels, width)), copy.deepcopy(activation))
        blocks = []
        for fan_out, depth in stages:
            for index in range(depth):
                blocks.append(_ResidualBlock(width, fan_out, index == 0, classes, dropout, activation))
                width = fan_out
        self.blocks = nn.ModuleList(blocks)
        self.head_activation = nn.ReLU() if head_activation is None else copy.deepcopy(head_activation)
        self.head = nn.Linear(width, 1)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, channels, H, W) and, for a conditional net, integer labels (B,) -> (B, 1).

        Raises ValueError if a conditional net gets no labels, or an unconditional one gets some.
        """
        label = _one_hot(self, self.classes, x, y)
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, label)
        out: Tensor = self.head(self.head_activation(h).sum((2, 3)))
        return out


class IGEBMMnistNet(nn.Module):
    """The MNIST network of IGEBM: (B, channels, size, size) -> (B, 1).

    A 3x3 convolution of ``width`` channels, three 4x4 convolutions with stride 2 of width, 2 width and 4 width
    channels (28 -> 14 -> 7 -> 4, padded as TensorFlow's SAME, the odd pixel on the right and below), a linear layer of
    2 width features and the last one; LeakyReLU(0.2) after each but the last. The convolutions have no bias; all
    but the last layer are spectrally normalized. Classes enter as constant input channels, one-hot / 10.

    Args:
        width: the output channels of the first two convolutions.
        classes: the number of classes y that condition the energy; None for an energy of x alone.
        channels: the channels of an image.
        size: the side of the image in pixels.

    Raises:
        ValueError: if a number is below 1.

    >>> import torch
    >>> IGEBMMnistNet(width=2, size=8)(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 1])
    """

    def __init__(self, width: int = 64, classes: int | None = None, channels: int = 1, size: int = 28) -> None:
        super().__init__()
        if min(width, channels, size, 1 if classes is None else classes) < 1:
            raise ValueError(
                f"IGEBMMnistNet(width={width}, classes={classes}, channels={channels}, size={size}): "
                "expected numbers of at least 1"
            )
        self.classes = classes
        self.stem = spectral_normal(_convolution(channels + (classes or 0), width))
        widths = [(width, width), (width, 2 * width), (2 * width, 4 * width)]
        self.convolutions = nn.ModuleList(spectral_normal(_convolution(*pair, kernel=4, stride=2)) for pair in widths)
        side = -(-size // 8)
        hidden, self.head = nn.Linear(4 * width * side * side, 2 * width), nn.Linear(2 * width, 1)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.zeros_(hidden.bias)
        self.hidden = spectral_normal(hidden)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, channels, size, size) and, for a conditional net, integer labels (B,) -> (B, 1).

        Raises ValueError if a conditional net gets no labels, or an unconditional one gets some.
        """
        label = _one_hot(self, self.classes, x, y)
        if self.classes is not None:
            planes = (label / 10)[..., None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, planes], 1)
        h = self.activation(self.stem(x))
        for convolution in self.convolutions:
            right, below = 1 + h.shape[3] % 2, 1 + h.shape[2] % 2
            h = self.activation(convolution(F.pad(h, (1, right, 1, below))))
        out: Tensor = self.head(self.activation(self.hidden(h.flatten(1))))
        return out
