"""The causal transformer of language models, with the passes of an energy-based transformer over the same blocks."""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebm_lightning.energies.networks.adaln import AdaLN, Modulation


class Size(NamedTuple):
    """The size of a transformer: layers, heads, and the width of every layer.

    >>> SIZES["xxs"]
    Size(layers=6, heads=6, dim=384)
    """

    layers: int
    heads: int
    dim: int


SIZES = {
    "4xs": Size(2, 2, 128),
    "3xs": Size(4, 4, 256),
    "xxs": Size(6, 6, 384),
    "xs": Size(12, 6, 384),
    "small": Size(12, 12, 768),
    "medium": Size(24, 16, 1024),
    "large": Size(24, 16, 1536),
    "xl": Size(24, 32, 2048),
}
"""The sizes of Gladstone et al. (2025). Their peak learning rates, in this order: 0.0024, 0.0018, 0.0012, 0.0009,
0.0006, 0.0003, 0.00025, 0.0002."""


class Cache(NamedTuple):
    """The key-value cache of a trunk: for each block the rotated keys and the values, each (B, heads, T, head_dim).

    >>> import torch
    >>> x = torch.randn(1, 3, 4)
    >>> out, cache = Trunk(layers=1, heads=1, dim=4).read(x, Cache())
    >>> cache.length
    3
    """

    blocks: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def length(self) -> int:
        """The number of cached elements, T."""
        return self.blocks[0][0].shape[2] if self.blocks else 0

    def grown(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of a block, followed by those of further elements (B, heads, n, head_dim)."""
        if not self.blocks:
            return keys, values
        cached_keys, cached_values = self.blocks[layer]
        return torch.cat([cached_keys, keys], 2), torch.cat([cached_values, values], 2)


class CausalTransformer(nn.Module):
    """Tokens (B, S), int64 -> logits of the next token at every position (B, S, vocabulary): Transformer++.

    Pre-normalized blocks of causal attention with rotary positions and SwiGLU, RMSNorm, no biases, as in Llama 2
    (Touvron et al. 2023). The hidden layer of SwiGLU is as wide as the block, as in Gladstone et al. (2025), so that
    the blocks have 7 dim^2 + 2 dim parameters each. Linear layers are drawn from Xavier's normal distribution and
    embeddings from N(0, 1). This is the baseline of energy-based transformers and has the same blocks.

    Args:
        vocabulary: the number of tokens.
        layers: the number of blocks.
        heads: attention heads; dim / heads must be even.
        dim: the width.

    Raises:
        ValueError: if a number is below 1, or ``dim`` is not a multiple of 2 ``heads``.

    >>> import torch
    >>> CausalTransformer(5, layers=1, heads=1, dim=4)(torch.tensor([[3, 1, 2]])).shape
    torch.Size([1, 3, 5])
    """

    def __init__(self, vocabulary: int, *, layers: int = 6, heads: int = 6, dim: int = 384) -> None:
        super().__init__()
        check_size(type(self).__name__, vocabulary=vocabulary, layers=layers, heads=heads, dim=dim)
        self.embedding = nn.Embedding(vocabulary, dim)
        self.trunk = Trunk(layers, heads, dim)
        self.head = linear(dim, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S) -> (B, S, vocabulary)."""
        out: Tensor = self.head(self.trunk(self.embedding(x)))
        return out

    def read(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """The logits after each of the tokens x (B, n) that follow the cached ones, and the extended cache."""
        out, cache = self.trunk.read(self.embedding(x), cache)
        return self.head(out), cache


class Trunk(nn.Module):
    """Blocks and a final RMSNorm: (B, S, dim) -> (B, S, dim), causal; :meth:`parallel` processes two streams at once.

    Args:
        layers: the number of blocks.
        heads: attention heads.
        dim: the width.
        conditioned: whether every block has an :class:`AdaLN`.

    >>> import torch
    >>> trunk, x = Trunk(layers=2, heads=1, dim=4), torch.randn(1, 3, 4)
    >>> torch.allclose(trunk(x)[:, :2], trunk(x[:, :2]), atol=1e-5)  # causal
    True
    """

    def __init__(self, layers: int, heads: int, dim: int, conditioned: bool = False) -> None:
        super().__init__()
        blocks = nn.ModuleList(_Block(heads, dim, conditioned) for _ in range(layers))
        self.blocks = cast("list[_Block]", blocks)  # what a ModuleList holds is not in its type
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.head_dim = dim // heads

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, S, dim) -> (B, S, dim); the output at a position depends on the inputs up to that position only.

        ``condition`` (B, dim) is required if the trunk is conditioned.
        """
        positions = self._angles(x, 0, x.shape[1])
        for block in self.blocks:
            modulations = block.modulations(condition)
            q, k, v = block.project(x, positions, modulations)
            x = block.join(x, causal_attention(q, k, v), modulations)
        out: Tensor = self.norm(x)
        return out

    def parallel(self, observed: Tensor, predicted: Tensor, condition: Tensor | None = None) -> Tensor:
        """The last output of :meth:`forward` on (observed_1..t+d, predicted_t), for every t at once: (B, S, dim).

        ``observed`` is (B, S + d, dim), with d >= 0 elements before the first one to predict from; ``predicted`` is
        (B, S, dim). Element t of it has the position after observed_t+d and attends to the observed elements up to
        t + d and to itself. The observed stream does not attend to the predicted one. Derivatives in ``predicted`` are
        differentiable again: only the attention of the observed stream, which is not part of their graph, is a fused
        kernel.
        """
        s, t = predicted.shape[1], observed.shape[1]
        here, there = self._angles(observed, 0, t), self._angles(predicted, t - s + 1, s)
        masked = torch.ones(s, t, dtype=torch.bool, device=observed.device).triu(t - s + 1)
        for layer, block in enumerate(self.blocks):
            modulations = block.modulations(condition)
            q, k, v = block.project(observed, here, modulations)
            own = block.project(predicted, there, modulations)
            predicted = block.join(predicted, attend_with_self(*own, k, v, masked), modulations)
            if layer < len(self.blocks) - 1:  # the output of the last block on the observed stream is not used
                observed = block.join(observed, causal_attention(q, k, v), modulations)
        out: Tensor = self.norm(predicted)
        return out

    def _angles(self, x: Tensor, first: int, number: int) -> Tensor:
        """Cosines and sines of the angles of ``number`` positions, starting at ``first``, (number, head_dim / 2, 2)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        positions = torch.arange(first, first + number, dtype=dtype, device=x.device)
        steps = torch.arange(0, self.head_dim, 2, dtype=dtype, device=x.device)
        angles = positions[:, None] * 10_000.0 ** (-steps / self.head_dim)
        # As complex numbers: a compiler would fuse real cosines into the rotation and recompute them for every example.
        return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))

    def read(self, x: Tensor, cache: Cache, condition: Tensor | None = None) -> tuple[Tensor, Cache]:
        """The output of :meth:`forward` for x (B, n, dim) after the cached elements, and the extended cache."""
        length, n = cache.length, x.shape[1]
        positions, blocks = self._angles(x, length, n), []
        visible = torch.ones(n, length + n, dtype=torch.bool, device=x.device).tril(length)
        for layer, block in enumerate(self.blocks):
            modulations = block.modulations(condition)
            q, k, v = block.project(x, positions, modulations)
            blocks.append(cache.grown(layer, k, v))
            attended = F.scaled_dot_product_attention(q, *blocks[-1], attn_mask=visible)
            x = block.join(x, attended, modulations)
        return self.norm(x), Cache(tuple(blocks))

    def attend_cached(self, predicted: Tensor, cache: Cache, condition: Tensor | None = None) -> Tensor:
        """The output of :meth:`parallel` for each of N alternatives (B, N, dim) for the element after the cached ones.

        Each alternative attends to the cached elements and to itself only. Derivatives in ``predicted`` are
        differentiable again.
        """
        there = self._angles(predicted, cache.length, 1)
        masked = torch.zeros(predicted.shape[1], cache.length, dtype=torch.bool, device=predicted.device)
        for block, (keys, values) in zip(self.blocks, cache.blocks, strict=True):
            modulations = block.modulations(condition)
            own = block.project(predicted, there, modulations)
            predicted = block.join(predicted, attend_with_self(*own, keys, values, masked), modulations)
        out: Tensor = self.norm(predicted)
        return out


class _Block(nn.Module):
    """x + attention(norm(x)), then x + w2(silu(w1 n) w3 n) with n = norm(x); the trunk computes the attention."""

    def __init__(self, heads: int, dim: int, conditioned: bool) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)
        self.query, self.key, self.value, self.out = (linear(dim, dim) for _ in range(4))
        self.gate, self.up, self.down = (linear(dim, dim) for _ in range(3))
        self.adaln = AdaLN(dim) if conditioned else None

    def modulations(self, condition: Tensor | None) -> tuple[Modulation, Modulation]:
        if self.adaln is None or condition is None:
            return Modulation(), Modulation()
        modulations: tuple[Modulation, Modulation] = self.adaln(condition)
        return modulations

    def project(
        self, x: Tensor, angles: Tensor, modulations: tuple[Modulation, Modulation]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (B, S, dim), each (B, heads, S, head_dim), the first two rotated."""
        n = modulations[0].enter(self.attention_norm(x))
        q, k, v = (
            part(n).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        return rotated(q, angles), rotated(k, angles), v

    def join(self, x: Tensor, attended: Tensor, modulations: tuple[Modulation, Modulation]) -> Tensor:
        """x (B, S, dim) plus the result of attention (B, heads, S, head_dim), then plus the MLP."""
        attention, mlp = modulations
        x = x + attention.leave(self.out(attended.transpose(1, 2).flatten(2)))
        n = mlp.enter(self.mlp_norm(x))
        return x + mlp.leave(self.down(F.silu(self.gate(n)) * self.up(n)))


def rotated(x: Tensor, rotations: Tensor) -> Tensor:
    """x (B, heads, S, head_dim), each pair (2i, 2i + 1) rotated by the angles of ``rotations`` (S, head_dim / 2, 2).

    Rotary positions: the product of a query and a key depends on the difference of their positions only (Su et al.
    2021).
    """
    cos, sin = rotations.unbind(-1)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of each position (B, heads, S, head_dim) to itself and to earlier ones, by a fused kernel.

    If torch.compile traces a gradient within a gradient, it records the memory-efficient kernel of a GPU without the
    sums that the kernel's gradient needs (torch 2.11: "LSE is not correctly aligned"), so that kernel is excluded.
    """
    if torch.compiler.is_compiling():
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attend_with_self(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, masked: Tensor) -> Tensor:
    """Attention of each query to the ``keys`` that are not masked and to its own key: (B, heads, S, head_dim).

    softmax over the scores of keys and self together, times ``values`` and v. Gladstone et al. (2025) write the score
    of self into the superdiagonal of the causal scores; here it is one more column, which gives the same numbers. It
    consists of matrix products and one softmax, so that it is differentiable any number of times.

    Args:
        q, k, v: queries, keys and values of the predicted stream, (B, heads, S, head_dim).
        keys, values: those of the observed stream, (B, heads, T, head_dim).
        masked: the keys that a query does not attend to, bool (S, T).
    """
    q = q / math.sqrt(q.shape[-1])
    scores = (q @ keys.transpose(-1, -2)).masked_fill(masked, -torch.inf)
    weights = torch.cat([scores, (q * k).sum(-1, keepdim=True)], -1).softmax(-1)
    return weights[..., :-1] @ values + weights[..., -1:] * v


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer without bias, initialized from Xavier's normal distribution (Glorot & Bengio 2010)."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_normal_(layer.weight)
    return layer


def check_size(name: str, *, layers: int, heads: int, dim: int, **others: int) -> None:
    """Raise ValueError if a number is below 1, or ``dim`` is not a multiple of 2 ``heads``."""
    numbers = {**others, "layers": layers, "heads": heads, "dim": dim}
    if min(numbers.values()) < 1 or dim % (2 * heads):
        arguments = ", ".join(f"{key}={value}" for key, value in numbers.items())
        raise ValueError(f"{name}({arguments}): expected numbers of at least 1, and a dim divisible by 2 heads")
