"""What the networks share: their published sizes, activations of their own, values that are refused."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ebm_lightning.energies.networks import MLP, ConvNet, IGEBMMnistNet, IGEBMNet


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


def test_MLP_and_ConvNet_copy_activations_for_every_layer() -> None:
    shared = nn.PReLU()
    for net in (MLP(3, [4, 4], activation=shared), ConvNet(widths=(2, 2), size=8, activation=shared)):
        copies = {id(layer) for layer in net.modules() if isinstance(layer, nn.PReLU)}
        assert len(copies) > 1
        assert id(shared) not in copies


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MLP(3, [0]), "at least 1"),
        (lambda: ConvNet(widths=()), "at least one width"),
        (lambda: ConvNet(size=2, stem_padding=1), "does not fit"),
    ],
)
def test_MLP_and_ConvNet_refuse_bad_values_with_a_message(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
