"""Feed-forward baselines as energies."""

import torch
from support.oracles import perturbed

from ebm_lightning.energies import Denoiser, ImageEBT, NextToken
from ebm_lightning.energies.networks import CausalTransformer, DiTDenoiser

F64 = torch.float64


def test_NextToken_is_an_energy_with_log_z_zero() -> None:
    """p(target | x) sums to 1 over all sequences of two tokens, and is a product of the conditionals."""
    model = perturbed(NextToken(CausalTransformer(3, layers=1, heads=1, dim=4)))
    x = torch.tensor([[2, 0]]).expand(9, 2)
    target = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    energies = model.energy({"x": x, "target": target})
    torch.testing.assert_close((-energies).exp().sum(), torch.tensor(1.0, dtype=F64))
    p = model.positive_phase({"x": x})["y"].softmax(-1)
    torch.testing.assert_close((-energies).exp(), p[0, 0, target[:, 0]] * p[0, 1, target[:, 1]])


def test_Denoiser_starts_as_the_identity_and_DiTDenoiser_has_the_size_of_ImageEBT() -> None:
    settings = {"patch": 2, "channels": 3, "layers": 2, "heads": 2, "dim": 8}
    net, energy = DiTDenoiser(4, **settings), ImageEBT(4, **settings)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(Denoiser(net).positive_phase({"x": x})["y"], x)
    numbers = [sum(p.numel() for p in part.parameters()) for part in (net, energy)]
    assert numbers[0] - numbers[1] == 8 * (3 * 2 * 2 - 1)
