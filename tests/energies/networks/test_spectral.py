"""Spectral norms against singular values and finite differences."""

from collections.abc import Callable

import pytest
import torch
from support.oracles import perturbed
from torch import Tensor, nn
from torch.nn import functional as F

from ebm_lightning.core import energy_grad
from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import IGEBMNet, SpectralBound, SpectralNorm


def estimated(kind: type[SpectralNorm] | type[SpectralBound], weight: Tensor, calls: int = 400) -> nn.Module:
    """The parametrization after it has seen the weight ``calls`` times in train mode."""
    module = kind(len(weight)).double()
    for _ in range(calls):
        module(weight)
    return module.eval()


class TestSpectralNorm:
    @pytest.mark.parametrize("shape", [(5, 7), (6, 2, 3, 3), (1, 4), (4, 1)])
    def test_norm_is_the_largest_singular_value(self, shape: tuple[int, ...]) -> None:
        weight = torch.randn(shape, dtype=torch.float64)
        module = estimated(SpectralNorm, weight)
        sigma = torch.linalg.matrix_norm(weight.flatten(1), ord=2)
        torch.testing.assert_close(module.sigma(weight), sigma, rtol=1e-9, atol=0)
        torch.testing.assert_close(module(weight), weight / sigma, rtol=1e-9, atol=0)

    def test_one_call_is_one_power_iteration(self) -> None:
        weight, module = torch.randn(5, 7, dtype=torch.float64), SpectralNorm(5).double()
        u = module.u.clone()
        v = F.normalize(weight.T @ u, dim=0)
        torch.testing.assert_close(module(weight), weight / (weight @ v).norm())
        torch.testing.assert_close(module.u, F.normalize(weight @ v, dim=0))

    def test_rests_in_eval_mode(self) -> None:
        weight, module = torch.randn(5, 7), SpectralNorm(5).eval()
        u = module.u.clone()
        assert torch.equal(module(weight), module(weight))
        assert torch.equal(module.u, u)

    @pytest.mark.parametrize("scale", [0.25, 40.0])
    def test_length_of_the_estimate_does_not_matter(self, scale: float) -> None:
        weight = torch.randn(5, 7, dtype=torch.float64)
        module = estimated(SpectralNorm, weight, calls=3)
        before = module(weight)
        module.u.mul_(scale)
        torch.testing.assert_close(module(weight), before, rtol=1e-12, atol=1e-12)

    def test_SpectralBound_divides_only_what_is_too_large(self) -> None:
        weight = torch.randn(5, 7, dtype=torch.float64)
        weight /= torch.linalg.matrix_norm(weight, ord=2)
        assert torch.equal(estimated(SpectralBound, 0.9 * weight)(0.9 * weight), 0.9 * weight)
        torch.testing.assert_close(estimated(SpectralBound, 3 * weight)(3 * weight), weight, rtol=1e-9, atol=0)

    @pytest.mark.parametrize("kind", [SpectralNorm, SpectralBound])
    def test_zero_weights_stay_zero(self, kind: type[SpectralNorm] | type[SpectralBound]) -> None:
        weight = torch.zeros(3, 4, requires_grad=True)
        out = kind(3)(weight)
        assert torch.equal(out, torch.zeros(3, 4))
        out.sum().backward()
        assert weight.grad is not None
        assert weight.grad.isfinite().all()

    def test_gradient_is_that_of_the_exact_norm(self) -> None:
        weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
        probe = torch.randn(4, 6, dtype=torch.float64)
        module = estimated(SpectralNorm, weight)
        (grad,) = torch.autograd.grad((module(weight) * probe).sum(), weight)
        exact = weight / torch.linalg.matrix_norm(weight, ord=2)
        (expected,) = torch.autograd.grad((exact * probe).sum(), weight)
        torch.testing.assert_close(grad, expected, rtol=1e-7, atol=1e-9)

    def test_is_estimated_in_full_precision_under_autocast(self) -> None:
        weight, module = torch.randn(5, 7), SpectralNorm(5).eval()
        with torch.autocast("cpu", torch.bfloat16):
            inside = module(weight)
        assert torch.equal(inside, module(weight))

    def test_slope_in_x_is_differentiable_in_the_weights(self) -> None:
        net = IGEBMNet(1, 2, ((3, 1),), activation=nn.SiLU(), head_activation=nn.SiLU())
        model = perturbed(DeepEnergy(net)).train()
        x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
        for _ in range(1000):
            model(x)
        model.eval()

        def slope() -> Tensor:
            return energy_grad(model, {"x": x}, "x")[0].square().sum()

        for layer in (net.stem[0], net.blocks[0].conv1, net.blocks[0].conv2, net.blocks[0].skip):
            weight = layer.parametrizations.weight.original
            (grad,) = torch.autograd.grad(slope(), weight)
            start, direction, eps = weight.detach().clone(), torch.randn_like(weight), 1e-6
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight.copy_(start + sign * eps * direction)
                ends.append(slope().detach())
                with torch.no_grad():
                    weight.copy_(start)
            difference = (ends[0] - ends[1]) / (2 * eps)
            torch.testing.assert_close((grad * direction).sum(), difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SpectralNorm(0), "first dimension"),
    ],
)
def test_SpectralNorm_bad_values_are_refused_with_a_message(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
