"""Groups of visible units: what they take and what they refuse."""

import math

import pytest
import torch
from torch import Tensor

from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli, Gaussian, Softmax, Units


@pytest.mark.parametrize(
    ("units", "value", "said"),
    [
        (Bernoulli([2]), torch.tensor([[0.0, 0.5]]), r"take values 0 and 1, got values from 0 to 0.5: binarize"),
        (
            Bernoulli([2], probabilities=True),
            torch.tensor([[0.0, 1.5]]),
            r"values in \[0, 1\], got values from 0 to",
        ),
        (Bernoulli([2]), torch.zeros(1, 3), r"holds values of shape \(2,\), got \(3,\)"),
        (Gaussian([1]), torch.tensor([[math.nan]]), "finite values"),
        (Softmax(3), torch.tensor([3]), r"whole numbers 0..2 of dtype int64, got torch.int64 from 3 to 3"),
        (Softmax(3), torch.tensor([0.5]), "give labels, not one-hot vectors"),
    ],
)
def test_Bernoulli_Gaussian_and_Softmax_refuse_data_of_another_kind(units: Units, value: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        units.check(value)
    RBM({"x": Bernoulli([2], probabilities=True)}, 2).check({"x": torch.tensor([[0.0, 0.5]])})
