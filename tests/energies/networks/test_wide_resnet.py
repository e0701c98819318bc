"""The wide residual network: its published size, its blocks, and its parts by configuration."""

import jsonargparse
import pytest
import torch
from torch import nn

from ebm_lightning.energies.networks import WideResNet


class TestWideResNet:
    @pytest.mark.parametrize(
        ("arguments", "millions"), [((28, 10, 10), 36.47), ((28, 10, 100), 36.53), ((16, 4, 10), 2.75)]
    )
    def test_its_parameters_are_those_of_the_published_net(self, arguments: tuple, millions: float) -> None:
        with torch.device("meta"):
            number = sum(p.numel() for p in WideResNet(*arguments).parameters())
        assert number / 1e6 == pytest.approx(millions, abs=0.005)

    def test_every_depth_has_its_blocks_and_any_shape_divisible_by_four_goes_through(self) -> None:
        for depth in (10, 16):
            net = WideResNet(depth, 1, classes=5, channels=1)
            convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
            assert len([layer for layer in convolutions if layer.kernel_size == (3, 3)]) == depth - 3
            assert net(torch.zeros(2, 1, 28, 12)).shape == (2, 5)
            assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())

    def test_normalization_and_activation_are_named_in_the_configuration(self) -> None:
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(nn.Module, "net")
        settings = {
            "depth": 10,
            "width": 1,
            "normalization": "torch.nn.BatchNorm2d",
            "activation": {"class_path": "torch.nn.SiLU"},
        }
        path = "ebm_lightning.energies.networks.WideResNet"
        net = parser.instantiate(parser.parse_object({"net": {"class_path": path, "init_args": settings}})).net
        norms = [layer.num_features for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert norms == [16, 16, 16, 32, 32, 64, 64]
        assert not any(isinstance(layer, nn.LeakyReLU) for layer in net.modules())
        assert len([layer for layer in net.modules() if isinstance(layer, nn.SiLU)]) == 7


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WideResNet(12, 1), "expected 6n"),
        (lambda: WideResNet(4, 1), "expected 6n"),
        (lambda: WideResNet(10, 0), "numbers of at least 1"),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
