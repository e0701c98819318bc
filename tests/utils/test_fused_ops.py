"""Fused kernels and hashed random numbers: the law they promise, and the same numbers as the plain formula."""

import math

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, assert_counts, assert_means
from torch.nn.functional import softplus

from ebm_lightning.distributions import CategoricalConditional
from ebm_lightning.utils import fused_ops
from ebm_lightning.utils.random import hashed, keyed, uniform

LARGE = 2**18
"""Elements enough for the fused path."""


@pytest.mark.parametrize("n", [1000, LARGE])
def test_draws_have_their_probability(n: int) -> None:
    logits = torch.linspace(-3, 3, 8).repeat_interleave(n // 8).view(8, -1)
    draws = fused_ops.bernoulli(logits)
    assert draws.dtype == logits.dtype
    assert set(draws.unique().tolist()) <= {0.0, 1.0}
    counts = torch.stack([draws.sum(1), (1 - draws).sum(1)], 1)
    for row, p in zip(counts, torch.sigmoid(logits[:, 0]), strict=True):
        assert_counts(row, torch.stack([p, 1 - p]))


@pytest.mark.parametrize("n", [1000, LARGE])
def test_draws_of_half_precision_have_their_probability_where_it_is_small(n: int) -> None:
    """Of one in 404, which a uniform number of 8 bits would make one in 256."""
    logits = torch.full((n,), -6.0, dtype=torch.bfloat16)
    rounds = max(1, LARGE // n)
    draws = torch.stack([fused_ops.bernoulli(logits) for _ in range(rounds)])
    assert draws.dtype == torch.bfloat16
    p, on = torch.sigmoid(torch.tensor(-6.0)), draws.float().sum()
    assert_counts(torch.stack([on, draws.numel() - on]), torch.stack([p, 1 - p]))


def test_categories_of_half_precision_have_their_probability_where_it_is_small() -> None:
    logits = torch.tensor([0.0, -6.0, 0.0], dtype=torch.bfloat16).expand(LARGE, 3)
    drawn = CategoricalConditional(logits).sample()
    assert_counts(torch.bincount(drawn, minlength=3), torch.softmax(logits[0].double(), 0))


def test_hashed_numbers_are_uniform_and_independent_of_their_neighbors() -> None:
    """256 cells of one number, 64 x 64 of two neighbors, and correlations at several lags."""
    u = fused_ops._uniform(2**20, fused_ops._start())
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert_counts(torch.bincount((u * 256).long(), minlength=256), torch.full((256,), 1 / 256))
    pairs = (u[0::2] * 64).long() * 64 + (u[1::2] * 64).long()
    assert_counts(torch.bincount(pairs, minlength=4096), torch.full((4096,), 1 / 4096))
    z = (u.double() - 0.5) * math.sqrt(12)
    limit = float(stats.norm.isf(FALSE_ALARM / 2))
    for lag in (1, 2, 500, 784, 1284):
        assert abs(float((z[lag:] * z[:-lag]).sum())) / math.sqrt(len(z) - lag) < limit


def test_successive_draws_are_independent_and_come_from_torchs_generator() -> None:
    logits = torch.zeros(LARGE)
    torch.manual_seed(3)
    first, second = fused_ops.bernoulli(logits), fused_ops.bernoulli(logits)
    torch.manual_seed(3)
    assert torch.equal(fused_ops.bernoulli(logits), first)
    agree = (first == second).float().sum()
    assert_counts(torch.stack([agree, LARGE - agree]), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [LARGE, LARGE + 5])
def test_fused_draws_are_the_plain_ones(threads: int, n: int) -> None:
    """Every element: the fused logistic function may round its last bit otherwise, and so flip one draw in 2^24."""
    start, logits, pixels = torch.tensor([2**61 + 12345]), torch.randn(n), torch.randint(0, 256, (n,)).to(torch.uint8)
    torch.set_num_threads(threads)
    try:
        draws = fused_ops.fused(fused_ops._bernoulli)(logits, start)
        binary = fused_ops.fused(fused_ops._binarize)(pixels, torch.tensor(1 / 255), start)
        numbers = fused_ops.fused(hashed)(keyed(7, torch.arange(n)))
    finally:
        torch.set_num_threads(1)
    flipped = int((draws != fused_ops._bernoulli(logits, start)).sum())
    assert flipped <= stats.poisson.isf(FALSE_ALARM, n * 2**-24)
    assert torch.equal(binary, fused_ops._binarize(pixels, torch.tensor(1 / 255), start))
    assert torch.equal(numbers, uniform(7, torch.arange(n)))


def test_the_fused_sums_are_the_plain_ones() -> None:
    x, a, b = torch.randn(400, 500), torch.randn(500), torch.randn(500)
    expected = (softplus(0.41 * x.double() + b.double()) - softplus(0.4 * x.double() + a.double())).sum(1)
    torch.testing.assert_close(fused_ops.softplus_difference(x, (0.4, a), (0.41, b)), expected, rtol=0, atol=1e-4)
    a, b = torch.rand(64, 96, dtype=torch.float64), torch.rand(2048, 96, dtype=torch.float64)
    expected = torch.log1p(a[:, None] * b[None]).sum(-1)
    torch.testing.assert_close(fused_ops.log_product(a, b, 8), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [3, LARGE // 500])
def test_softplus_sum_has_the_gradient_of_the_plain_sum(rows: int) -> None:
    x = (10 * torch.randn(rows, 500)).requires_grad_()
    weight = torch.randn(rows)
    found, plain = fused_ops.softplus_sum(x), softplus(x).sum(1)
    torch.testing.assert_close(found, plain)
    (gradient,) = torch.autograd.grad((weight * found).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad((weight * plain).sum(), x)[0])


def test_softplus_sum_can_be_differentiated_twice() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fused_ops.softplus_sum, x)
    assert torch.autograd.gradgradcheck(fused_ops.softplus_sum, x)


def test_softplus_sum_of_bfloat16_is_made_in_float32() -> None:
    x = torch.randn(5, 500).bfloat16()
    found = fused_ops.softplus_sum(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, softplus(x.float()).sum(1))


@pytest.mark.parametrize("images", [300, 20_000])
def test_binarized_pixels_have_their_probability(images: int) -> None:
    pixels = torch.tensor([0, 51, 102, 204, 255], dtype=torch.uint8).repeat(images, 1)
    draws = fused_ops.binarize(pixels, 255, torch.Generator().manual_seed(1))
    assert_means(draws[:, 1:-1], torch.tensor([0.2, 0.4, 0.8]))
    assert not draws[:, 0].any()
    assert draws[:, -1].all()


def test_without_a_compiler_the_plain_functions_serve(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(fused_ops.shutil, "which", lambda name: None)
    assert fused_ops.fused.__wrapped__(fused_ops._bernoulli) is fused_ops._bernoulli
    assert "no C++ compiler" in capsys.readouterr().err


def test_matrix_products_are_measured() -> None:
    assert 1e-9 < fused_ops.matmul_error() < 1e-5
