"""None"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebm_lightning.energies.networks import SIZES, CausalTransformer, Trunk
from ebm_lightning.energies.networks.transformer import attend_with_self, rotated

F64 = torch.float64


PUBLISHED = {"xxs": 6.18e6, "xs": 12.4e6, "small": 48.8e6, "medium": 176e6, "large": 396e6, "xl": 708e6}


@pytest.mark.parametrize("name", SIZES)
def test_Trunk_the_sizes_have_their_parameters(name: str) -> None:
    """7 L d^2 in matrices and (2 L + 1) d in norms; the published counts lie within 2 percent of that."""
    layers, heads, dim = SIZES[name]
    with torch.device("meta"):
        number = sum(p.numel() for p in Trunk(layers, heads, dim).parameters())
    assert number == 7 * layers * dim**2 + (2 * layers + 1) * dim
    assert number == pytest.approx(PUBLISHED.get(name, number), rel=0.02)


def _trunk(conditioned: bool = False) -> Trunk:
    trunk = Trunk(2, 2, 8, conditioned).double()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return trunk


def test_CausalTransformer_is_the_formula_written_out() -> None:
    """One layer, position by position and head by head, with complex numbers for the rotations."""
    model = CausalTransformer(5, layers=1, heads=2, dim=8).double()
    x = torch.randint(0, 5, (3, 6))
    block = model.trunk.blocks[0]

    def normed(h: Tensor, norm: nn.RMSNorm) -> Tensor:
        return h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight

    def turned(h: Tensor, position: int) -> Tensor:
        pairs = torch.view_as_complex(h.reshape(*h.shape[:-1], -1, 2))
        angle = torch.tensor([position * 10_000.0 ** (-2 * i / 4) for i in range(2)], dtype=F64)
        return torch.view_as_real(pairs * torch.polar(torch.ones(2, dtype=F64), angle)).flatten(-2)

    embedded, outs = model.embedding(x), []
    for t in range(6):
        h, n = embedded[:, t], normed(embedded, block.attention_norm)
        found = []
        for head in (slice(0, 4), slice(4, 8)):
            q = turned((n[:, t] @ block.query.weight.T)[:, head], t)
            keys = torch.stack([turned((n[:, s] @ block.key.weight.T)[:, head], s) for s in range(t + 1)], 1)
            weights = ((keys * q[:, None]).sum(-1) / 2).softmax(-1)
            found.append((weights[..., None] * (n[:, : t + 1] @ block.value.weight.T)[..., head]).sum(1))
        h = h + torch.cat(found, -1) @ block.out.weight.T
        m = normed(h, block.mlp_norm)
        gate = m @ block.gate.weight.T
        h = h + (gate * torch.sigmoid(gate) * (m @ block.up.weight.T)) @ block.down.weight.T
        outs.append(normed(h, model.trunk.norm) @ model.head.weight.T)
    torch.testing.assert_close(model(x), torch.stack(outs, 1), rtol=1e-12, atol=1e-12)


def test_Trunk_what_comes_later_changes_nothing_earlier() -> None:
    trunk, x = _trunk(), torch.randn(2, 6, 8, dtype=F64)
    changed = x.clone()
    changed[:, 3:] = torch.randn(2, 3, 8, dtype=F64)
    before, after = trunk(x), trunk(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 3:], after[:, 3:])


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("conditioned", [False, True])
def test_Trunk_two_streams_are_one_stream_for_every_prefix(before: int, conditioned: bool) -> None:
    trunk, s = _trunk(conditioned), 5
    observed, predicted = torch.randn(3, s + before, 8, dtype=F64), torch.randn(3, s, 8, dtype=F64)
    condition = torch.randn(3, 8, dtype=F64) if conditioned else None
    together = trunk.parallel(observed, predicted, condition)
    for t in range(s):
        alone = trunk(torch.cat([observed[:, : t + before + 1], predicted[:, t : t + 1]], 1), condition)[:, -1]
        torch.testing.assert_close(together[:, t], alone, rtol=1e-12, atol=1e-12)


def test_attention_to_self_is_attention_over_one_more_key_for_each_query() -> None:
    q, k, v = torch.randn(3, 2, 2, 4, 6, dtype=F64)
    keys, values = torch.randn(2, 2, 2, 5, 6, dtype=F64)
    unseen = torch.rand(4, 5) < 0.5
    found = attend_with_self(q, k, v, keys, values, unseen)
    for i in range(4):
        seen = ~unseen[i]
        all_keys = torch.cat([keys[:, :, seen], k[:, :, i : i + 1]], 2)
        all_values = torch.cat([values[:, :, seen], v[:, :, i : i + 1]], 2)
        alone = F.scaled_dot_product_attention(q[:, :, i : i + 1], all_keys, all_values)
        torch.testing.assert_close(found[:, :, i : i + 1], alone)


def test_rotations_leave_differences_of_positions_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 6, dtype=F64)
    steps = torch.tensor([1.0, 0.3, 0.01], dtype=F64)

    def product(m: float, n: float) -> Tensor:
        turns = [torch.stack([angles.cos(), angles.sin()], -1)[None] for angles in (m * steps, n * steps)]
        return (rotated(q, turns[0]) * rotated(k, turns[1])).sum()

    torch.testing.assert_close(product(5, 2), product(13, 10))
    torch.testing.assert_close(product(0, 0), (q * k).sum())
    assert not math.isclose(float(product(5, 2)), float(product(5, 3)))


def test_Trunk_the_predicted_stream_can_be_differentiated_twice() -> None:
    trunk, observed = _trunk(), torch.randn(1, 3, 8, dtype=F64)
    predicted = torch.randn(1, 3, 8, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda p: trunk.parallel(observed, p).square().sum(), predicted)


def test_Trunk_a_block_with_a_condition_starts_as_the_identity() -> None:
    trunk, x = Trunk(2, 2, 8, conditioned=True).double(), torch.randn(2, 4, 8, dtype=F64)
    assert torch.equal(trunk(x, torch.randn(2, 8, dtype=F64)), trunk.norm(x))


@pytest.mark.parametrize("settings", [{"layers": 0}, {"heads": 3}, {"dim": 6}, {"vocabulary": 0}])
def test_CausalTransformer_impossible_sizes_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="a dim divisible by 2 heads"):
        CausalTransformer(**{"vocabulary": 5, "layers": 1, "heads": 2, "dim": 8, **settings})
