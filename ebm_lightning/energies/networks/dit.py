"""The diffusion transformer without a time input, the network of energy-based transformers for images."""

import math

import torch
from torch import Tensor, nn

from ebm_lightning.energies.networks.adaln import AdaLN, Modulation


class DiT(nn.Module):
    """Diffusion transformer: images (B, C, size, size) -> outputs of each patch, row by row, (B, patches, outputs).

    Patches are embedded linearly, and fixed sine and cosine positions are added. Each block has attention and a GELU
    MLP as wide as the block, each x + gate f((1 + scale) norm(x) + shift) with a layer norm without gains. A last
    modulated norm and a linear layer without bias follow. Shifts, scales and gates are functions of one learned vector,
    the same for all images; they and the last layer are initialized to zero, so that initially the blocks are
    identities and the output is 0. Attention is computed by matrix products and a softmax, so that it is
    differentiable any number of times.
    Peebles & Xie (2023), as used by Gladstone et al. (2025), whose released code has the same initialization: linear
    layers from Xavier's uniform distribution, the learned vector from N(0, 1).

    Args:
        size: height and width of an image.
        outputs: the number of outputs for each patch.
        patch: height and width of a patch.
        channels: channels of an image.
        layers: the number of blocks.
        heads: attention heads.
        dim: the width, divisible by 4 and by ``heads``.

    Raises:
        ValueError: if a number is below 1, patches do not tile the image, or ``dim`` is not divisible as above.

    >>> import torch
    >>> net = DiT(8, outputs=2, patch=4, channels=1, layers=1, heads=1, dim=4)
    >>> net(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 4, 2])
    """

    def __init__(
        self,
        size: int,
        *,
        outputs: int,
        patch: int = 16,
        channels: int = 3,
        layers: int = 6,
        heads: int = 6,
        dim: int = 384,
    ) -> None:
        super().__init__()
        if min(size, outputs, patch, channels, layers, heads, dim) < 1 or size % patch or dim % 4 or dim % heads:
            raise ValueError(
                f"DiT(size={size}, outputs={outputs}, patch={patch}, channels={channels}, layers={layers}, "
                f"heads={heads}, dim={dim}): expected numbers of at least 1, a size divisible by patch and a dim "
                "divisible by 4 and by heads"
            )
        self.patch = patch
        self.embedding = nn.Linear(channels * patch**2, dim)
        self.register_buffer("positions", positions(size // patch, dim), persistent=False)
        self.condition = nn.Parameter(torch.randn(dim))
        self.blocks = nn.ModuleList(_Block(heads, dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.modulation, self.head = nn.Linear(dim, 2 * dim), nn.Linear(dim, outputs, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for layer in self.modules():
            if isinstance(layer, AdaLN):
                nn.init.zeros_(layer.linear.weight)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, size, size) -> (B, patches, outputs)."""
        h = self.embedding(patches(x, self.patch)) + self.positions
        condition = self.condition[None]
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.modulation(nn.functional.silu(condition))[:, None].chunk(2, -1)
        out: Tensor = self.head(Modulation(shift, scale).enter(self.norm(h)))
        return out


class DiTDenoiser(nn.Module):
    """Noised images -> images, (B, C, size, size): x plus the output of a :class:`DiT` for each pixel and channel.

    One pass, initially the identity: the feed-forward baseline of descent on an energy from the same x.

    Args:
        size: height and width of an image.
        patch: height and width of a patch.
        channels: channels of an image.
        layers: the number of blocks.
        heads: attention heads.
        dim: the width, divisible by 4 and by ``heads``.

    Raises:
        ValueError: if a number is below 1, patches do not tile the image, or ``dim`` is not divisible as above.

    >>> import torch
    >>> x = torch.ones(1, 1, 8, 8)
    >>> torch.equal(DiTDenoiser(8, patch=4, channels=1, layers=1, heads=1, dim=4)(x), x)
    True
    """

    def __init__(
        self, size: int, *, patch: int = 16, channels: int = 3, layers: int = 6, heads: int = 6, dim: int = 384
    ) -> None:
        super().__init__()
        outputs = channels * patch**2
        self.net = DiT(size, outputs=outputs, patch=patch, channels=channels, layers=layers, heads=heads, dim=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, size, size) -> the same shape."""
        return x + assembled(self.net(x), self.net.patch, x.shape[1])


class _Block(nn.Module):
    """x + gate attention((1 + scale) norm(x) + shift), then the same with an MLP."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.adaln = AdaLN(dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        attention, mlp = self.adaln(condition)
        qkv = self.qkv(attention.enter(self.norm(x)))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + attention.leave(self.out((weights @ v).transpose(1, 2).flatten(2)))
        out: Tensor = x + mlp.leave(self.mlp(mlp.enter(self.norm(x))))
        return out


def patches(x: Tensor, patch: int) -> Tensor:
    """Split images (B, C, H, W) into patches (B, patches, C patch^2), row by row, each with its channels first."""
    b, c, h, w = x.shape
    squares = x.reshape(b, c, h // patch, patch, w // patch, patch).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(b, (h // patch) * (w // patch), c * patch**2)


def assembled(squares: Tensor, patch: int, channels: int) -> Tensor:
    """The inverse of :func:`patches` for square images: (B, patches, C patch^2) -> (B, C, H, H)."""
    b, side = len(squares), math.isqrt(squares.shape[1])
    x = squares.reshape(b, side, side, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, channels, side * patch, side * patch)


def positions(side: int, dim: int) -> Tensor:
    """Sines and cosines of row and column, (side^2, dim): a quarter each, at the frequencies 10000^(-4 i / dim)."""
    frequencies = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    of_one = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = of_one.repeat_interleave(side, 0), of_one.repeat(side, 1)
    return torch.cat([columns, rows], 1).to(torch.get_default_dtype())
