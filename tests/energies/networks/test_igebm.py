"""The networks of IGEBM against themselves written out."""

import math
from collections.abc import Callable

import jsonargparse
import pytest
import torch
import yaml
from support.oracles import perturbed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from ebm_lightning import EBM
from ebm_lightning.core import energy_grad, run_chain
from ebm_lightning.energies import ConditionalDeepEnergy, DeepEnergy
from ebm_lightning.energies.networks import IGEBMMnistNet, IGEBMNet, SpectralBound, SpectralNorm
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import SGLD
from ebm_lightning.training.acceleration import Acceleration


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

    def test_IGEBMMnistNet_reaches_the_papers_four_by_four(self) -> None:
        net = IGEBMMnistNet(width=4)
        assert net.hidden.in_features == 4 * 4 * 16
        assert DeepEnergy(net)(torch.rand(2, 1, 28, 28)).shape == (2,)

    @pytest.mark.parametrize("size", [8, 11, 28])
    def test_IGEBMMnistNet_equals_the_network_written_out(self, size: int) -> None:
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
            EBM(net, ContrastiveDivergence(), SGLD(0.5, noise=0.1), acceleration=said)
            for net, said in zip(nets, (None, Acceleration(channels_last=False)), strict=True)
        )
        convolutions = [[p for p in net.parameters() if p.ndim == 4] for net in nets]
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions[0])
        assert all(p.is_contiguous() for p in convolutions[1])
        x, ends = torch.rand(3, 2, 8, 8, dtype=torch.float64), []
        for module in (last, first):
            torch.manual_seed(1)
            assert module.sampler is not None
            end, _ = run_chain(module.sampler, module.model, {"x": x}, 3)
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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IGEBMNet(stages=()), "at least one stage"),
        (lambda: IGEBMNet(1, 2, ((2, 1),), classes=0), "None or at least 1"),
        (lambda: IGEBMMnistNet(width=0), "at least 1"),
    ],
)
def test_IGEBMNet_and_IGEBMMnistNet_refuse_bad_values_with_a_message(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
