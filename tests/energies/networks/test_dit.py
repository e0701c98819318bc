"""The image transformer against torch's own layers."""

import torch
from support.oracles import perturbed
from torch import Tensor
from torch.nn import functional as F

from ebm_lightning.energies.networks import DiT
from ebm_lightning.energies.networks.dit import assembled, patches, positions

F64 = torch.float64


def test_DiT_patches_are_put_together_again() -> None:
    x = torch.randn(2, 3, 6, 6)
    squares = patches(x, 2)
    assert squares.shape == (2, 9, 12)
    assert torch.equal(squares[:, 5], x[:, :, 2:4, 4:6].flatten(1))
    assert torch.equal(assembled(squares, 2, 3), x)


def test_DiT_positions_are_sines_and_cosines_of_column_and_row() -> None:
    found = positions(3, 8)
    for row in range(3):
        for column in range(3):
            angles = torch.tensor([[k, k / 100] for k in (column, row)], dtype=F64)
            expected = torch.cat([angles.sin(), angles.cos()], 1).flatten()
            torch.testing.assert_close(found[3 * row + column].double(), expected, rtol=0, atol=1e-6)


def test_DiT_is_torchs_own_layers_modulated() -> None:
    """One layer: multi-head attention, layer norms and GELU of torch, with the shifts, scales and gates written out."""
    net = perturbed(DiT(4, outputs=3, patch=2, channels=2, layers=1, heads=2, dim=8))
    block, x = net.blocks[0], torch.randn(3, 2, 4, 4, dtype=F64)

    def normed(h: Tensor) -> Tensor:
        return F.layer_norm(h, (8,), eps=1e-6)

    active = F.silu(net.condition)
    a, b, c, d, e, f = block.adaln.linear(active).chunk(6)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    attention.load_state_dict(
        {
            "in_proj_weight": block.qkv.weight,
            "in_proj_bias": block.qkv.bias,
            "out_proj.weight": block.out.weight,
            "out_proj.bias": block.out.bias,
        }
    )
    h = F.conv2d(x, net.embedding.weight.view(8, 2, 2, 2), net.embedding.bias, stride=2).flatten(2).transpose(1, 2)
    h = h + net.positions
    n = (1 + b) * normed(h) + a
    h = h + c * attention(n, n, n)[0]
    h = h + f * block.mlp[2](F.gelu(block.mlp[0]((1 + e) * normed(h) + d), approximate="tanh"))
    shift, scale = net.modulation(active).chunk(2)
    expected = ((1 + scale) * normed(h) + shift) @ net.head.weight.T
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
