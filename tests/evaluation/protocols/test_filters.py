"""ReceptiveFields as they are shown."""

import numpy as np
import pytest
import torch
from support.boltzmann import binary_rbm
from support.labels import NO_LABELS, Labels
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.core import EnergyModel
from ebm_lightning.evaluation import ReceptiveFields
from ebm_lightning.objectives import ContrastiveDivergence


class Looks(EnergyModel):
    """An energy with given filters on x."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1)

    def filters(self, block: str) -> Tensor:
        return self.weights


def test_ReceptiveFields_are_shown_from_the_largest_on_each_on_its_own_scale_about_mid_gray() -> None:
    weights = torch.tensor([[0.0, 0.0], [1.0, -0.5], [4.0, 8.0], [-3.0, 0.0]]).view(4, 1, 1, 2)
    data = Labels(torch.zeros(4, 1, 1, 2), None)
    module = EBM(Looks(weights), ContrastiveDivergence())

    def shown(protocol: ReceptiveFields, rows: int, columns: int) -> list[list[list[int]]]:
        """Both pixels of every tile, each enlarged 28 times."""
        pixels = np.asarray(protocol.measure(module, data).pictures["x"])
        assert pixels.shape == (rows * 30 + 2, columns * 58 + 2)
        corners = [(2 + 30 * i, 2 + 58 * j) for i in range(rows) for j in range(columns)]
        return [[int(pixels[top, left]), int(pixels[top, left + 28])] for top, left in corners]

    large, negative, small, nothing = [191, 255], [0, 128], [255, 64], [128, 128]
    assert shown(ReceptiveFields(), 2, 2) == [large, negative, small, nothing]
    assert shown(ReceptiveFields(groups=2), 2, 2) == [small, nothing, large, negative]
    assert shown(ReceptiveFields(num_filters=1, groups=2), 2, 1) == [small, large]
    norms = ReceptiveFields().measure(module, data).measurements["mean_filter_norm_x"]
    assert norms.value == pytest.approx(float(weights.flatten(1).norm(dim=1).mean()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ReceptiveFields(num_filters=0), "expected num_filters >= 1 and groups >= 1"),
        (
            lambda: ReceptiveFields(groups=2).measure(EBM(binary_rbm(), ContrastiveDivergence()), NO_LABELS),
            "3 filters, expected a multiple of 2",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
