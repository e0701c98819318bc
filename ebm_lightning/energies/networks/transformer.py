"""The causal transformer of language models, and the same blocks as an energy-based transformer runs them."""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebm_lightning.energies.networks.adaln import AdaLN, Modulation


class Size(NamedTuple):
    """How large a transformer is: layers, heads, and the width of every layer."""

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
    """What a trunk has read: of every block the keys and the values, each (B, heads, T, head_dim), keys rotated."""

    blocks: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def length(self) -> int:
        """How many elements have been read, T."""
        return self.blocks[0][0].shape[2] if self.blocks else 0

    def grown(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of a block with those of further elements (B, heads, n, head_dim) after them."""
        if not self.blocks:
            return keys, values
        known_keys, known_values = self.blocks[layer]
        return torch.cat([known_keys, keys], 2), torch.cat([known_values, values], 2)


class CausalTransformer(nn.Module):
    """Tokens (B, S), int64 -> logits of the next token at every position (B, S, vocabulary): Transformer++.

    Pre-normalized blocks of causal attention with rotary positions and SwiGLU, RMSNorm, no biases, as in Llama 2
    (Touvron et al. 2023). The hidden layer of SwiGLU is as wide as the block, as in Gladstone et al. (2025), so that
    the blocks have 7 dim^2 + 2 dim parameters each. Linear layers are drawn from Xavier's normal distribution and
    embeddings from N(0, 1). This is the baseline of an energy-based transformer, and made of the same blocks.

    Args:
        vocabulary: the number of tokens.
        layers: blocks.
        heads: of attention; dim / heads must be even.
        dim: the width.

    Raises:
        ValueError: where a number is below 1, or the heads do not share ``dim`` evenly.
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
        """The logits after each of the tokens x (B, n) that follow what the cache holds, and the cache with them."""
        out, cache = self.trunk.read(self.embedding(x), cache)
        return self.head(out), cache


class Trunk(nn.Module):
    """Blocks and a last RMSNorm: (B, S, dim) -> (B, S, dim), causal; or two streams in one pass, by :meth:`parallel`.

    Args:
        layers: blocks.
        heads: of attention.
        dim: the width.
        conditioned: whether every block has an :class:`AdaLN`.
    """

    def __init__(self, layers: int, heads: int, dim: int, conditioned: bool = False) -> None:
        super().__init__()
        blocks = nn.ModuleList(_Block(heads, dim, conditioned) for _ in range(layers))
        self.blocks = cast("list[_Block]", blocks)  # what a ModuleList holds is not in its type
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.head_dim = dim // heads

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, S, dim) -> (B, S, dim), where what comes out at a position depends on it and on earlier ones alone.

        ``condition`` (B, dim) is there where the trunk is conditioned.
        """
        positions = self._angles(x, 0, x.shape[1])
        for block in self.blocks:
            modulations = block.modulations(condition)
            q, k, v = block.project(x, positions, modulations)
            x = block.join(x, causal_attention(q, k, v), modulations)
        out: Tensor = self.norm(x)
        return out

    def parallel(self, observed: Tensor, predicted: Tensor, condition: Tensor | None = None) -> Tensor:
        """What :meth:`forward` gives at the end of observed_1..t+d, predicted_t, for every t at once: (B, S, dim).

        ``observed`` is (B, S + d, dim), with d >= 0 elements before the first that is predicted from, ``predicted``
        (B, S, dim), each at the position after what it sees: the observed up to t + d, and itself. The observed stream
        never sees the predicted one. Derivatives in ``predicted`` can be differentiated again: only the attention of
        the observed stream, through which they do not pass, is a fused kernel.
        """
        s, t = predicted.shape[1], observed.shape[1]
        here, there = self._angles(observed, 0, t), self._angles(predicted, t - s + 1, s)
        unseen = torch.ones(s, t, dtype=torch.bool, device=observed.device).triu(t - s + 1)
        for layer, block in enumerate(self.blocks):
            modulations = block.modulations(condition)
            q, k, v = block.project(observed, here, modulations)
            own = block.project(predicted, there, modulations)
            predicted = block.join(predicted, attend_with_self(*own, k, v, unseen), modulations)
            if layer < len(self.blocks) - 1:  # nothing reads what the observed stream becomes after the last block
                observed = block.join(observed, causal_attention(q, k, v), modulations)
        out: Tensor = self.norm(predicted)
        return out

    def _angles(self, x: Tensor, first: int, number: int) -> Tensor:
        """Cosines and sines of the angles of ``number`` positions from ``first`` on, (number, head_dim / 2, 2)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        positions = torch.arange(first, first + number, dtype=dtype, device=x.device)
        steps = torch.arange(0, self.head_dim, 2, dtype=dtype, device=x.device)
        angles = positions[:, None] * 10_000.0 ** (-steps / self.head_dim)
        # As complex numbers: a compiler would take real cosines again for every number of the batch that it turns.
        return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))

    def read(self, x: Tensor, cache: Cache, condition: Tensor | None = None) -> tuple[Tensor, Cache]:
        """What :meth:`forward` gives for x (B, n, dim) after the elements that the cache holds, and the grown cache."""
        known, n = cache.length, x.shape[1]
        positions, blocks = self._angles(x, known, n), []
        seen = torch.ones(n, known + n, dtype=torch.bool, device=x.device).tril(known)
        for layer, block in enumerate(self.blocks):
            modulations = block.modulations(condition)
            q, k, v = block.project(x, positions, modulations)
            blocks.append(cache.grown(layer, k, v))
            attended = F.scaled_dot_product_attention(q, *blocks[-1], attn_mask=seen)
            x = block.join(x, attended, modulations)
        return self.norm(x), Cache(tuple(blocks))

    def attend_cached(self, predicted: Tensor, cache: Cache, condition: Tensor | None = None) -> Tensor:
        """What :meth:`parallel` gives for each of N alternatives (B, N, dim) to one element after those of the cache.

        Each sees what has been read and itself, and none sees another. Derivatives in ``predicted`` can be
        differentiated again.
        """
        there = self._angles(predicted, cache.length, 1)
        unseen = torch.zeros(predicted.shape[1], cache.length, dtype=torch.bool, device=predicted.device)
        for block, (keys, values) in zip(self.blocks, cache.blocks, strict=True):
            modulations = block.modulations(condition)
            own = block.project(predicted, there, modulations)
            predicted = block.join(predicted, attend_with_self(*own, keys, values, unseen), modulations)
        out: Tensor = self.norm(predicted)
        return out


class _Block(nn.Module):
    """x + attention(norm(x)), then x + w2(silu(w1 n) w3 n) with n = norm(x); the attention itself is the trunk's."""

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
        found: tuple[Modulation, Modulation] = self.adaln(condition)
        return found

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
        """x (B, S, dim) with what its queries found, (B, heads, S, head_dim), and the MLP added."""
        attention, mlp = modulations
        x = x + attention.leave(self.out(attended.transpose(1, 2).flatten(2)))
        n = mlp.enter(self.mlp_norm(x))
        return x + mlp.leave(self.down(F.silu(self.gate(n)) * self.up(n)))


def rotated(x: Tensor, rotations: Tensor) -> Tensor:
    """x (B, heads, S, head_dim), neighbors (2i, 2i + 1) turned by angles of cosine and sine (S, head_dim / 2, 2).

    The product of a query and a key depends on their positions by the difference alone: rotary positions. Su et al.
    (2021).
    """
    cos, sin = rotations.unbind(-1)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of each position (B, heads, S, head_dim) to itself and to those before, by a fused kernel.

    Where torch.compile traces a gradient within a gradient, the memory-efficient kernel of a GPU is recorded without
    the sums that its own gradient needs (seen with torch 2.11: "LSE is not correctly aligned"): it is not taken there.
    """
    if torch.compiler.is_compiling():
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attend_with_self(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, unseen: Tensor) -> Tensor:
    """Attention of each query to ``keys`` that it may see and to its own key: (B, heads, S, head_dim).

    softmax over the scores of keys and self together, times ``values`` and v. Gladstone et al. (2025) write the score
    of self into the superdiagonal of the causal scores; here it is one more column, which gives the same numbers. Plain
    products and one softmax, so that it can be differentiated any number of times.

    Args:
        q, k, v: of the predicted stream, (B, heads, S, head_dim).
        keys, values: of the observed one, (B, heads, T, head_dim).
        unseen: which keys a query must not see, bool (S, T).
    """
    q = q / math.sqrt(q.shape[-1])
    scores = (q @ keys.transpose(-1, -2)).masked_fill(unseen, -torch.inf)
    weights = torch.cat([scores, (q * k).sum(-1, keepdim=True)], -1).softmax(-1)
    return weights[..., :-1] @ values + weights[..., -1:] * v


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer without biases, drawn from Xavier's normal distribution (Glorot & Bengio 2010)."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_normal_(layer.weight)
    return layer


def check_size(name: str, *, layers: int, heads: int, dim: int, **others: int) -> None:
    """Raises ValueError where a number is below 1, or heads do not share the width evenly in pairs of numbers."""
    numbers = {**others, "layers": layers, "heads": heads, "dim": dim}
    if min(numbers.values()) < 1 or dim % (2 * heads):
        said = ", ".join(f"{key}={value}" for key, value in numbers.items())
        raise ValueError(f"{name}({said}): expected numbers of at least 1, and a dim divisible by 2 heads")
