"""Every energy keeps the contract and gives the numbers it promises."""

import copy
import math
from collections.abc import Callable

import jsonargparse
import pytest
import torch
import yaml
from scipy import integrate
from support.oracles import (
    ENERGIES,
    Case,
    assert_counts,
    assert_means,
    bits,
    index_of,
    log_partition,
    perturbed,
    probabilities,
    spins,
    unit_probabilities,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from ebm_lightning import EBM
from ebm_lightning.core import State, energy_grad, run
from ebm_lightning.energies import RBM, ConditionalDeepEnergy, DeepEnergy, DoubleWell, Gaussian, GaussianMixture, Ising
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.energies.networks import MLP, ConvNet, IGEBMMnistNet, IGEBMNet, SpectralBound, SpectralNorm
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import SGLD

every_energy = pytest.mark.parametrize("case", ENERGIES, ids=lambda case: case.name)


@every_energy
@pytest.mark.parametrize("examples", [1, 4])
def test_energy_is_one_number_per_example(case: Case, examples: int) -> None:
    energy = case.model().energy(case.state(examples))
    assert energy.shape == (examples,)
    assert energy.dtype == torch.float64
    assert energy.isfinite().all()


@every_energy
def test_examples_do_not_see_each_other(case: Case) -> None:
    model, state = case.model(), case.state(4)
    alone = [model.energy({name: value[i : i + 1] for name, value in state.items()}) for i in range(4)]
    together = model.energy(state)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-11, atol=1e-11)
    assert together.unique().numel() > 1


@every_energy
def test_gradient_equals_finite_differences(case: Case) -> None:
    model, state, eps = case.model(), case.state(2), 1e-6
    for block in (name for name in model.variables if state[name].is_floating_point()):
        grad, energy = energy_grad(model, state, block)
        torch.testing.assert_close(energy, model.energy(state))
        for unit in range(grad[0].numel()):
            ends = []
            for sign in (1, -1):
                moved = state[block].clone()
                moved.flatten(1)[:, unit] += sign * eps
                ends.append(model.energy({**state, block: moved}))
            difference = (ends[0] - ends[1]) / (2 * eps)
            torch.testing.assert_close(grad.flatten(1)[:, unit], difference, rtol=1e-6, atol=1e-7)


@every_energy
def test_what_rides_along_is_ignored_and_what_is_missing_is_named(case: Case) -> None:
    model, state = case.model(), case.state(3)
    assert torch.equal(model.energy({**state, "rider": torch.zeros(3)}), model.energy(state))
    for name in model.variables:
        rest = {other: value for other, value in state.items() if other != name}
        with pytest.raises(ValueError, match=rf"\['{name}'\] is not in the state .*supply it in the batch"):
            model.energy(rest)


@every_energy
def test_copies_and_state_dicts_keep_the_energy(case: Case) -> None:
    model, state = case.model(), case.state(3)
    fresh = case.model()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.energy(state), model.energy(state))
    assert torch.equal(copy.deepcopy(model).energy(state), model.energy(state))


def ising() -> tuple[Ising, Callable[[State], Tensor], State]:
    model = Ising(side=6, coupling=0.7, field=-0.2)
    return model, model.energy, spins(6)(3)


def ising_of_side_two() -> tuple[Ising, Callable[[State], Tensor], State]:
    model = Ising(side=2, coupling=-0.4, field=0.3)
    return model, model.energy, spins(2)(3)


def rbm() -> tuple[RBM, Callable[[State], Tensor], State]:
    model = RBM({"v": Bernoulli([5])}, 3, weight_std=1.0)
    perturbed(model)
    state = {"v": torch.randint(0, 2, (4, 5)).double(), "h": torch.randint(0, 2, (4, 3)).double()}
    return model, model.joint, state


@pytest.mark.parametrize(("make", "low"), [(ising, -1.0), (ising_of_side_two, -1.0), (rbm, 0.0)])
def test_conditionals_equal_the_energy_differences_unit_by_unit(
    make: Callable[[], tuple[RBM | Ising, Callable[[State], Tensor], State]], low: float
) -> None:
    model, energy, state = make()
    for block in state:
        on = unit_probabilities(energy, state, block, low)
        mean = on if low == 0 else 2 * on - 1
        torch.testing.assert_close(model.conditional(block, state).mean, mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("make", "low"), [(ising, -1.0), (rbm, 0.0)])
def test_conditionals_sample_their_means(
    make: Callable[[], tuple[RBM | Ising, Callable[[State], Tensor], State]], low: float
) -> None:
    model, _, state = make()
    for block in state:
        conditional = model.conditional(
            block, {name: value[:1].expand(20000, *value.shape[1:]) for name, value in state.items()}
        )
        draws = conditional.sample()
        assert set(draws.unique().tolist()) == {low, 1.0}
        assert_means(draws, conditional.mean[0])


@pytest.mark.parametrize("model", [Ising(2, 1.0), RBM({"v": Bernoulli([2])}, 2)])
def test_an_unknown_block_has_no_conditional(model: Ising | RBM) -> None:
    with pytest.raises(ValueError, match=r"got 'x'"):
        model.conditional("x", {})


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
def test_double_well_partition_equals_the_integral(dim: int, barrier: float, tilt: float) -> None:
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


class TestDeepEnergy:
    @pytest.mark.parametrize("net", [nn.Flatten(0), nn.Identity(), nn.Linear(4, 2)])
    def test_refuses_more_than_one_number_per_example(self, net: nn.Module) -> None:
        with pytest.raises(ValueError, match=r"expects its net to give one number per example, shape \(3,\)"):
            DeepEnergy(net)(torch.zeros(3, 4))

    def test_conditional_refuses_more_than_one_number_per_example(self) -> None:
        with pytest.raises(ValueError, match="ConditionalDeepEnergy expects its net"):
            ConditionalDeepEnergy(nn.Bilinear(4, 2, 2))(torch.zeros(3, 4), torch.zeros(3, 2))

    def test_accepts_one_column_and_no_column(self) -> None:
        net, x = nn.Linear(4, 1), torch.randn(3, 4)
        assert torch.equal(DeepEnergy(net)(x), DeepEnergy(nn.Sequential(net, nn.Flatten(0)))(x))

    @pytest.mark.parametrize("net", [IGEBMNet(1, 2, ((2, 1),), classes=3), IGEBMMnistNet(2, classes=3, size=8)])
    def test_labels_and_classes_go_together(self, net: nn.Module) -> None:
        with pytest.raises(ValueError, match=r"classes=3\) was given no labels y"):
            DeepEnergy(net)(torch.zeros(2, 1, 8, 8))
        with pytest.raises(ValueError, match=r"classes=None\) was given labels y"):
            ConditionalDeepEnergy(IGEBMNet(1, 2, ((2, 1),)))(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))


def weights(net: nn.Module) -> int:
    """The parameters of the convolutions and linear layers."""
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return sum(p.numel() for layer in layers for p in layer.parameters())


LARGE = ((128, 3), (256, 3), (512, 3))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: IGEBMNet(), 5_312_129),
        (lambda: IGEBMNet(classes=10), 5_312_129),
        (lambda: IGEBMNet(stages=LARGE, dropout=0.5), 18_583_425),
        (lambda: IGEBMMnistNet(), 9 * 64 + 16 * 64 * (64 + 128 + 512) + 4096 * 128 + 128 + 128 + 1),
        (lambda: ConvNet(), 416 + 4640 + 18496 + 36928 + 16448 + 65),
        (lambda: MLP(784, [100, 50]), 784 * 100 + 100 + 5000 + 50 + 51),
    ],
    ids=["ResNet32", "ResNet32-conditional", "ResNet32Large", "MnistNet", "uva", "mlp"],
)
def test_parameter_counts(make: Callable[[], nn.Module], expected: int) -> None:
    """IGEBM's are 5.31 M and 18.58 M; the course's network is counted from its layers."""
    with torch.device("meta"):
        net = make()
    assert weights(net) == expected


def by_hand(net: IGEBMNet, x: Tensor, y: Tensor) -> Tensor:
    """The conditional network written out, with its effective weights."""
    conv = lambda layer, x: F.conv2d(x, layer.weight, padding=1)  # noqa: E731
    plane = lambda table: table[..., None, None]  # noqa: E731
    h = F.leaky_relu(conv(net.stem[0], x), 0.2)
    for block, down in zip(net.blocks, [True, False, True], strict=True):
        inner = F.leaky_relu(conv(block.conv1, h + plane(block.bias1[y])), 0.2)
        inner = conv(block.conv2, inner + plane(block.bias2[y])) * plane(block.gain2[y] + block.shared_gain2)
        h = inner + (h if isinstance(block.skip, nn.Identity) else conv(block.skip, h))
        h = F.leaky_relu(F.avg_pool2d(h, 2) if down else h, 0.2)
    return F.linear(F.leaky_relu(h, 0.1).sum((2, 3)), net.head.weight, net.head.bias)[:, 0]


class TestIGEBMNet:
    def test_equals_the_network_written_out(self) -> None:
        net = IGEBMNet(2, 4, ((4, 2), (6, 1)), classes=3, head_activation=nn.LeakyReLU(0.1))
        model = perturbed(ConditionalDeepEnergy(net))
        x, y = torch.randn(5, 2, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 0])
        assert isinstance(net.blocks[1].skip, nn.Identity)
        assert not isinstance(net.blocks[2].skip, nn.Identity)
        torch.testing.assert_close(model(x, y), by_hand(net, x, y), rtol=1e-11, atol=1e-11)

    def test_begins_as_its_skip_connections(self) -> None:
        net = IGEBMNet(2, 4, ((4, 2),)).double()
        x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
        h = F.leaky_relu(F.avg_pool2d(net.stem.eval()(x), 2), 0.2)
        torch.testing.assert_close(
            net.eval()(x), net.head(F.relu(F.leaky_relu(h, 0.2)).sum((2, 3))), rtol=1e-6, atol=1e-6
        )

    def test_dropout_acts_in_train_mode_only(self) -> None:
        net = perturbed(DeepEnergy(IGEBMNet(1, 4, ((4, 1),), dropout=0.5)))
        x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
        assert torch.equal(net(x), net(x))
        net.train()
        for module in net.modules():
            if isinstance(module, SpectralNorm | SpectralBound):
                module.eval()
        assert not torch.equal(net(x), net(x))

    def test_convolutions_are_contractions_and_have_no_bias(self) -> None:
        model = perturbed(DeepEnergy(IGEBMNet(2, 4, ((4, 2), (6, 1))))).train()
        for _ in range(300):
            model(torch.zeros(1, 2, 4, 4, dtype=torch.float64))
        layers = [layer for layer in model.eval().modules() if isinstance(layer, nn.Conv2d)]
        assert len(layers) == 1 + 3 * 2 + 1
        assert all(layer.bias is None for layer in layers)
        for layer in layers:
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2) < 1 + 1e-6
        assert not parametrize.is_parametrized(model.net.head)

    def test_mnist_net_reaches_the_papers_four_by_four(self) -> None:
        net = IGEBMMnistNet(width=4)
        assert net.hidden.in_features == 4 * 4 * 16
        assert DeepEnergy(net)(torch.rand(2, 1, 28, 28)).shape == (2,)

    @pytest.mark.parametrize("size", [8, 11, 28])
    def test_mnist_net_equals_the_network_written_out(self, size: int) -> None:
        net = IGEBMMnistNet(width=2, classes=3, size=size)
        model = perturbed(ConditionalDeepEnergy(net))
        x, y = torch.randn(3, 1, size, size, dtype=torch.float64), torch.tensor([2, 0, 1])
        labels = torch.zeros(3, 3, size, size, dtype=torch.float64)
        labels[range(3), y] = 0.1
        h = F.leaky_relu(F.conv2d(torch.cat([x, labels], 1), net.stem.weight, padding=1), 0.2)
        for layer in net.convolutions:
            side = math.ceil(h.shape[3] / 2)
            pad = (side - 1) * 2 + 4 - h.shape[3]
            same = (pad // 2, pad - pad // 2)
            h = F.leaky_relu(F.conv2d(F.pad(h, (*same, *same)), layer.weight, stride=2), 0.2)
        h = F.leaky_relu(F.linear(h.flatten(1), net.hidden.weight, net.hidden.bias), 0.2)
        torch.testing.assert_close(model(x, y), net.head(h)[:, 0], rtol=1e-11, atol=1e-11)

    def test_a_training_step_may_call_it_many_times_before_going_backward(self) -> None:
        model = perturbed(DeepEnergy(IGEBMNet(1, 2, ((3, 1),)))).train()
        x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
        with torch.inference_mode():
            energy_grad(model, {"x": x}, "x")
        slope, _ = energy_grad(model, {"x": x.clone().requires_grad_()}, "x")
        loss = model(x).mean() - model(torch.randn_like(x)).mean() + slope.square().sum()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_channels_last_in_memory_are_the_same_numbers(self) -> None:
        nets = [perturbed(DeepEnergy(IGEBMNet(2, 4, ((4, 2), (6, 2))))) for _ in range(2)]
        nets[1].load_state_dict(nets[0].state_dict())
        last, first = (
            EBM(net, ContrastiveDivergence(), SGLD(0.5, noise=0.1), channels_last=said)
            for net, said in zip(nets, (None, False), strict=True)
        )
        convolutions = [[p for p in net.parameters() if p.ndim == 4] for net in nets]
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions[0])
        assert all(p.is_contiguous() for p in convolutions[1])
        x, ends = torch.rand(3, 2, 8, 8, dtype=torch.float64), []
        for module in (last, first):
            torch.manual_seed(1)
            assert module.sampler is not None
            end, _ = run(module.sampler, module.model, {"x": x}, 3)
            ends.append(end["x"])
            module.model.energy(end).sum().backward()
        assert ends[0].is_contiguous()
        torch.testing.assert_close(ends[0], ends[1])
        for ours, theirs in zip(*convolutions, strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)

    def test_named_networks_can_be_written_in_yaml(self) -> None:
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(nn.Module, "net")
        config = """
            class_path: ebm_lightning.energies.DeepEnergy
            init_args:
              net:
                class_path: ebm_lightning.energies.networks.IGEBMNet
                init_args:
                  width: 4
                  stages: [[4, 3], [6, 2]]
                  dropout: 0.5
                  head_activation: {class_path: torch.nn.LeakyReLU, init_args: {negative_slope: 0.2}}
        """
        model = parser.instantiate(parser.parse_object({"net": yaml.safe_load(config)})).net
        assert len(model.net.blocks) == 5
        assert model(torch.zeros(2, 3, 8, 8)).shape == (2,)


def test_activations_are_copied_for_every_layer() -> None:
    shared = nn.PReLU()
    for net in (MLP(3, [4, 4], activation=shared), ConvNet(widths=(2, 2), size=8, activation=shared)):
        copies = {id(layer) for layer in net.modules() if isinstance(layer, nn.PReLU)}
        assert len(copies) > 1
        assert id(shared) not in copies


def estimated(kind: type[SpectralNorm] | type[SpectralBound], weight: Tensor, calls: int = 400) -> nn.Module:
    """The parametrization after it has seen the weight ``calls`` times in train mode."""
    module = kind(len(weight)).double()
    for _ in range(calls):
        module(weight)
    return module.eval()


class TestSpectral:
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

    def test_bound_divides_only_what_is_too_large(self) -> None:
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
        (lambda: Gaussian([0.0], [1.0, 1.0]), "expected 1 variances"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: GaussianMixture([[0.0], [1.0, 2.0]], 1.0), "all of the same length"),
        (lambda: GaussianMixture([[0.0]], 0.0), "std > 0"),
        (lambda: GaussianMixture([[0.0], [1.0]], 1.0, [0.9, 0.2]), "add up to 1"),
        (lambda: GaussianMixture([[0.0], [1.0]], 1.0, [1.0]), "expected 2 positive numbers"),
        (lambda: DoubleWell(barrier=0.0), "barrier > 0"),
        (lambda: Ising(3, 1.0), "even side"),
        (lambda: RBM({"v": Bernoulli([0])}, 3), "at least one unit"),
        (lambda: RBM({"v": Bernoulli([2])}, 0), "at least one unit"),
        (lambda: MLP(3, [0]), "at least 1"),
        (lambda: ConvNet(widths=()), "at least one width"),
        (lambda: ConvNet(size=2, stem_padding=1), "does not fit"),
        (lambda: IGEBMNet(stages=()), "at least one stage"),
        (lambda: IGEBMNet(1, 2, ((2, 1),), classes=0), "None or at least 1"),
        (lambda: IGEBMMnistNet(width=0), "at least 1"),
        (lambda: SpectralNorm(0), "first dimension"),
    ],
)
def test_bad_values_are_refused_in_words(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
