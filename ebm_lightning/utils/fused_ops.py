"""Operations fused by torch.compile: element-wise parts of Boltzmann machines, and negative phases.

On a CPU these parts and their random numbers cost as much as the matrix products unless they are fused: a draw from
torch.rand takes 3 to 5 ns an element, the hashed draw of :func:`bernoulli` below 0.5.
"""

import functools
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch import config as functorch  # for the memory budget of activations saved for the gradient

from ebm_lightning.utils.random import INCREMENT, hashed

MIN_FUSED_NUMEL = 2**14
"""The number of elements from which a fused kernel is faster than its dispatch."""

ACTIVATION_MEMORY_BUDGET = 0.8
"""Activations kept for the gradient of a compiled negative phase, as a share of those kept for speed alone."""


def bernoulli(logits: Tensor) -> Tensor:
    """Independent draws from {0, 1} with p(1) = sigmoid(logits), in the shape and dtype of ``logits``.

    Large ones on a CPU compare sigmoid(logits) with hashed counters, 24 bits each: SplitMix64 from a start drawn by
    torch's generator, which remains the one source of randomness. Draws have 24 bits for ``logits`` of lower precision
    too: with 8 bits, probabilities below 1/256 would become multiples of it.
    """
    if fuses(logits):
        return fused(_bernoulli)(logits.reshape(-1), _start()).view_as(logits).to(logits.dtype)
    p = torch.sigmoid(widened(logits))
    return (torch.rand_like(p) < p).to(logits.dtype)


def softplus_sum(x: Tensor) -> Tensor:
    """sum_j log(1 + exp(x_j)), shape (B,), for x (B, J): the part of -energy of summed-out hidden units.

    At least in float32. One pass computes both the sum and sigmoid(x), its gradient.
    """
    total: Tensor = _SoftplusSum.apply(x)  # type: ignore[no-untyped-call]
    return total


def softplus_difference(x: Tensor, begin: tuple[float, Tensor], end: tuple[float, Tensor]) -> Tensor:
    """sum_j log(1 + exp(e x_j + b_j)) - log(1 + exp(f x_j + a_j)), float64 (B,), for x (B, J): part of an AIS weight.

    Args:
        x: the inputs.
        begin: (f, a), a factor and an offset (J,) in the dtype of ``x``.
        end: (e, b), likewise.
    """
    kernel = fused(_softplus_difference) if fuses(x) else _softplus_difference
    factors = torch.tensor([begin[0], end[0]], dtype=x.dtype, device=x.device)
    return kernel(x, factors, begin[1], end[1])


def log_product(a: Tensor, b: Tensor, slices: int) -> Tensor:
    """sum_i log(1 + a_i b_i), shape (M, N), for a (M, I) and b (N, I) in float64, I a multiple of ``slices``.

    The logarithm is taken of products of ``slices`` factors: few enough that a product stays finite.
    """
    is_large = a.device.type == "cpu" and len(a) * b.numel() >= 64 * MIN_FUSED_NUMEL
    kernel = fused(_log_product) if is_large else _log_product
    return kernel(a, b, slices)


def binarize(pixels: Tensor, white: int, generator: torch.Generator) -> Tensor:
    """Independent float32 draws from {0, 1} with p(1) = pixel / white, for integers 0..white, in their shape.

    Large ones on a CPU are drawn as in :func:`bernoulli`, from a start drawn by ``generator``.
    """
    if fuses(pixels):
        return fused(_binarize)(pixels.reshape(-1), torch.tensor(1 / white), _start(generator)).view_as(pixels)
    u = torch.rand(pixels.shape, generator=generator, device=pixels.device)
    return (u < pixels.to(torch.float32) / white).to(torch.float32)


def widened(x: Tensor) -> Tensor:
    """The same numbers, at least in float32, as under autocast."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def fuses(x: Tensor) -> bool:
    """Whether an operation on the elements of ``x`` is fused: if they are many, on a CPU, and need no gradient."""
    return x.device.type == "cpu" and x.numel() >= MIN_FUSED_NUMEL and not (torch.is_grad_enabled() and x.requires_grad)


def matmul_error() -> float:
    """The largest error of a float32 matrix product, relative to its largest entry, under the current precision.

    About 1e-6 if ``torch.set_float32_matmul_precision("medium")`` only selects another library, 3e-3 if it rounds the
    factors to bfloat16. It draws from a generator of its own.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    return float((a @ b - exact).abs().max() / exact.abs().max())


def _start(generator: torch.Generator | None = None) -> Tensor:
    """The start of a hashed sequence, (1,): half of the 64-bit words, so that a counter can be added to it."""
    return torch.randint(-(2**62), 2**62, (1,), dtype=torch.int64, generator=generator)


def _uniform(n: int, start: Tensor) -> Tensor:
    """n numbers of [0, 1), 24 bits each: SplitMix64 from the state ``start`` times its increment."""
    # The start is added first: a compiler may assume that a product of the loop's own counter never overflows.
    return hashed((torch.arange(n, dtype=torch.int64) + start) * INCREMENT)


def _bernoulli(logits: Tensor, start: Tensor) -> Tensor:
    p = torch.sigmoid(widened(logits))
    return (_uniform(logits.numel(), start) < p).to(p.dtype)  # a kernel that writes bfloat16 is slower than two


def _binarize(pixels: Tensor, scale: Tensor, start: Tensor) -> Tensor:
    return (_uniform(pixels.numel(), start) < pixels.to(torch.float32) * scale).to(torch.float32)


class _SoftplusSum(torch.autograd.Function):
    """:func:`softplus_sum`, with its gradient computed in the same pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total, slope = (fused(_softplus_sum) if fuses(x) else _softplus_sum)(x)
        ctx.save_for_backward(x, slope)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient will be differentiated
            slope = torch.sigmoid(x)
        return gradients[0].to(slope.dtype)[:, None] * slope


def _softplus_sum(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.nn.functional.softplus(widened(x)).sum(1), torch.sigmoid(x)


def _softplus_difference(x: Tensor, factors: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    softplus = torch.nn.functional.softplus
    return (softplus(factors[1] * x + end) - softplus(factors[0] * x + begin)).sum(1).double()


def _log_product(a: Tensor, b: Tensor, slices: int) -> Tensor:
    # A logarithm costs as much as many products, so it is taken of a product of ``slices`` factors. Each factor may be
    # large, and float64 overflows near exp(709): the caller's bound on ``slices`` keeps the product below.
    product = None
    for x, y in zip(a.chunk(slices, 1), b.chunk(slices, 1), strict=True):
        factor = x[:, None] * y[None] + 1
        product = factor if product is None else product * factor
    assert product is not None
    return product.log().sum(-1)


@functools.cache
def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled form of a function, or the function itself without a compiler."""
    if has_compiler():
        compiled_function: Callable[..., Any] = torch.compile(function, dynamic=True)
        return compiled_function
    print("no C++ compiler was found: Boltzmann machines will run more slowly", file=sys.stderr)
    return function


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled form of a function of modules, states and settings, which may differentiate by ``energy_grad``.

    It is compiled at its first call, and again for other settings, other shapes, and modules in another mode. Two steps
    of a transformer of two layers take one or two minutes of processor time, and less in the next process, since torch
    caches its files. From the ninth variant on, torch runs the function without compilation. Random numbers are
    torch's, drawn in the same order as without compilation. Code that the compiler does not support runs as it is
    between compiled parts; descent and Langevin dynamics are one part each; Gibbs sampling is untested.

    Activations are kept up to :data:`ACTIVATION_MEMORY_BUDGET`; the others are recomputed.
    """
    compiled_function: Callable[..., Any] = torch.compile(function, dynamic=False, options={"fallback_random": True})

    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        # The budget is read when the function is compiled, which may be at any call.
        with functorch.patch(activation_memory_budget=ACTIVATION_MEMORY_BUDGET):
            return compiled_function(*arguments, **settings)

    return call


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which torch.compile needs on a CPU."""
    return any(map(shutil.which, ("g++", "clang++", "c++")))


def require_compiler() -> None:
    """Raise ValueError if there is no C++ compiler."""
    if not has_compiler():
        raise ValueError(
            "compiled=True needs a C++ compiler on a CPU, but none of g++, clang++ and c++ was found: install one, or "
            "leave compiled out"
        )
