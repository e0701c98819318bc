"""Energies in closed form against integrals, sums over lattices and exact draws."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import integrate
from support.oracles import assert_counts, assert_means, bits, index_of, log_partition, probabilities, spins
from torch import nn

from ebm_lightning.core import energy_grad
from ebm_lightning.energies import DoubleWell, Gaussian, GaussianMixture, Ising


class TestGaussian:
    def test_partition_equals_the_integral(self) -> None:
        model = Gaussian([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]]).double()
        axis = torch.linspace(-16, 16, 641, dtype=torch.float64)
        grid = {"x": torch.cartesian_prod(axis, axis) + model.mean}
        torch.testing.assert_close(
            model.log_partition(), log_partition(model, grid) + 2 * math.log(32 / 640), rtol=1e-10, atol=1e-10
        )

    def test_variances_are_a_diagonal_matrix(self) -> None:
        x = torch.randn(5, 2)
        diagonal, matrix = Gaussian([0.0, 1.0], [2.0, 0.5]), Gaussian([0.0, 1.0], [[2.0, 0.0], [0.0, 0.5]])
        assert torch.equal(diagonal(x), matrix(x))
        torch.testing.assert_close(diagonal(x), x[:, 0] ** 2 / 4 + (x[:, 1] - 1) ** 2)

    def test_samples_have_its_moments(self) -> None:
        covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]])
        draws = Gaussian([1.0, -2.0], covariance.tolist()).sample(50000)
        centered = draws - torch.tensor([1.0, -2.0])
        assert_means(centered, torch.zeros(2))
        assert_means(centered[:, :, None] * centered[:, None], covariance)


class TestGaussianMixture:
    def test_is_normalized(self) -> None:
        model = GaussianMixture([[-1.0, 0.0], [2.0, 0.5]], 0.4, [0.7, 0.3]).double()
        axis = torch.linspace(-6, 6, 481, dtype=torch.float64)
        total = log_partition(model, {"x": torch.cartesian_prod(axis, axis)}) + 2 * math.log(12 / 480)
        torch.testing.assert_close(model.log_partition(), total, rtol=0, atol=1e-10)

    def test_score_is_the_negative_gradient(self) -> None:
        model = GaussianMixture([[-1.0, 0.0], [2.0, 0.5]], 0.4, [0.7, 0.3]).double()
        x = torch.randn(7, 2, dtype=torch.float64)
        torch.testing.assert_close(model.score(x), -energy_grad(model, {"x": x}, "x")[0], rtol=1e-10, atol=1e-10)

    def test_samples_fall_where_the_components_are(self) -> None:
        means, weights = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 6.0]]), torch.tensor([0.5, 0.3, 0.2])
        draws = GaussianMixture(means.tolist(), 0.3, weights.tolist()).sample(20000)
        component = torch.cdist(draws, means).argmin(1)
        assert_counts(torch.bincount(component, minlength=3), weights)
        offset = draws - means[component]
        assert_means(offset, torch.zeros(2))
        assert_means(offset.square(), torch.full((2,), 0.09))


@pytest.mark.parametrize(("dim", "barrier", "tilt"), [(1, 1.0, 0.0), (3, 4.0, 0.5), (2, 50.0, -30.0), (1, 1e-3, 2.0)])
def test_DoubleWell_partition_equals_the_integral(dim: int, barrier: float, tilt: float) -> None:
    model = DoubleWell(dim, barrier, tilt)
    axis = torch.linspace(-40, 40, 400001, dtype=torch.float64)
    lowest = float((barrier * (axis.square() - 1).square() + tilt * axis).min())
    density = lambda x: math.exp(lowest - barrier * (x * x - 1) ** 2 - tilt * x)  # noqa: E731
    integral = sum(integrate.quad(density, a, b, limit=500)[0] for a, b in [(-40, -1), (-1, 0), (0, 1), (1, 40)])
    expected = torch.tensor(dim * (math.log(integral) - lowest), dtype=torch.float64)
    torch.testing.assert_close(model.log_partition(), expected, rtol=1e-8, atol=1e-8)


class TestIsing:
    @pytest.mark.parametrize("side", [2, 4, 6])
    def test_energy_equals_the_sum_over_the_lattice(self, side: int) -> None:
        model = Ising(side, coupling=0.7, field=-0.2)
        x = torch.randint(0, 2, (5, side, side)).double() * 2 - 1
        bonds = (x * (x.roll(1, 1) + x.roll(1, 2))).sum((1, 2))
        energy = model.energy(model.positive_phase({"x": x}))
        torch.testing.assert_close(energy, -0.7 * bonds + 0.2 * x.sum((1, 2)), rtol=1e-12, atol=1e-12)

    def test_join_undoes_split(self) -> None:
        model, x = Ising(6, 0.5), torch.randn(3, 6, 6)
        even, odd = model.split(x)
        assert even.shape == odd.shape == (3, 6, 3)
        assert torch.equal(model.join(even, odd), x)
        assert even[0, 1, 0] == x[0, 1, 1]
        assert odd[0, 1, 0] == x[0, 1, 0]

    @pytest.mark.parametrize("side", [2, 4])
    @pytest.mark.parametrize("field", [0.0, -0.3])
    def test_partition_equals_the_enumeration(self, side: int, field: float) -> None:
        model = Ising(side, coupling=0.44, field=field)
        lattices = bits(side * side, low=-1.0).view(-1, side, side)
        torch.testing.assert_close(model.log_partition(), log_partition(model, model.positive_phase({"x": lattices})))

    def test_partition_of_a_large_lattice_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"side=6.*up to side 4; estimate it by annealed importance sampling"):
            Ising(6, 0.44).log_partition()

    def test_gibbs_sweeps_follow_the_enumeration(self) -> None:
        model = Ising(2, coupling=0.25, field=0.1)
        p = probabilities(model, model.positive_phase({"x": bits(4, low=-1.0).view(-1, 2, 2)}))
        state = spins(2)(20000)
        for _ in range(50):
            for block in ("even", "odd"):
                state = {**state, block: model.conditional(block, state).sample()}
        x = model.join(state["even"], state["odd"])
        assert_counts(torch.bincount(index_of(x.flatten(1)), minlength=16), p)

    def test_complete_leaves_colors_alone(self) -> None:
        model, state = Ising(2, 0.5), spins(2)(2)
        assert model.positive_phase(state) is state


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gaussian([0.0], [1.0, 1.0]), "expected 1 variances"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: GaussianMixture([[0.0], [1.0, 2.0]], 1.0), "all of the same length"),
        (lambda: GaussianMixture([[0.0]], 0.0), "std > 0"),
        (lambda: GaussianMixture([[0.0], [1.0]], 1.0, [0.9, 0.2]), "add up to 1"),
        (lambda: GaussianMixture([[0.0], [1.0]], 1.0, [1.0]), "expected 2 positive numbers"),
        (lambda: DoubleWell(barrier=0.0), "barrier > 0"),
        (lambda: Ising(3, 1.0), "even side"),
    ],
)
def test_bad_values_are_refused_with_a_message(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
