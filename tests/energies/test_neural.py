"""Networks as energies: one number for each example."""

import pytest
import torch
from torch import nn

from ebm_lightning.energies import ConditionalDeepEnergy, DeepEnergy
from ebm_lightning.energies.networks import IGEBMMnistNet, IGEBMNet


class TestDeepEnergy:
    @pytest.mark.parametrize("net", [nn.Flatten(0), nn.Identity(), nn.Linear(4, 2)])
    def test_refuses_more_than_one_number_per_example(self, net: nn.Module) -> None:
        with pytest.raises(ValueError, match=r"expects its net to give one number per example, shape \(3,\)"):
            DeepEnergy(net)(torch.zeros(3, 4))

    def test_ConditionalDeepEnergy_refuses_more_than_one_number_per_example(self) -> None:
        with pytest.raises(ValueError, match="ConditionalDeepEnergy expects its net"):
            ConditionalDeepEnergy(nn.Bilinear(4, 2, 2))(torch.zeros(3, 4), torch.zeros(3, 2))

    def test_accepts_one_column_and_no_column(self) -> None:
        net, x = nn.Linear(4, 1), torch.randn(3, 4)
        assert torch.equal(DeepEnergy(net)(x), DeepEnergy(nn.Sequential(net, nn.Flatten(0)))(x))

    @pytest.mark.parametrize("net", [IGEBMNet(1, 2, ((2, 1),), classes=3), IGEBMMnistNet(2, classes=3, size=8)])
    def test_ConditionalDeepEnergy_takes_labels_and_classes_together(self, net: nn.Module) -> None:
        with pytest.raises(ValueError, match=r"classes=3\) was given no labels y"):
            DeepEnergy(net)(torch.zeros(2, 1, 8, 8))
        with pytest.raises(ValueError, match=r"classes=None\) was given labels y"):
            ConditionalDeepEnergy(IGEBMNet(1, 2, ((2, 1),)))(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))
