"""Squares and their attributes beside SciPy's measurements of images, and the protocol that counts them."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import ndimage, stats
from support.oracles import FALSE_ALARM, Examples
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.core import State
from ebm_lightning.data import Squares
from ebm_lightning.data.base import DataModule
from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import MLP
from ebm_lightning.evaluation import Attributes, SampleSource
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs.dependencies import check_upstream_data
from ebm_lightning.runs.folder import RunFolder


def centers(x: Tensor) -> np.ndarray:
    """The center of mass (row, column) of what is on in each image, which must be one 5x5 square: (N, 2)."""
    found = []
    for image in x[:, 0].numpy() > 0:
        parts, number = ndimage.label(image)
        (box,) = ndimage.find_objects(parts)
        assert (number, image.sum(), image[box].shape) == (1, 25, (5, 5))
        found.append(ndimage.center_of_mass(image))
    return np.array(found)


def test_Squares_for_test_are_one_square_in_every_position_once() -> None:
    data = Squares()
    where = centers(data.tensors("test")["x"])
    assert (data.size("train"), data.size("test")) == (3000, 144)
    assert sorted(map(tuple, where)) == [(row, column) for row in range(2, 14) for column in range(2, 14)]


@pytest.mark.parametrize("only", [(), ("left",), ("top",), ("left", "top")])
def test_Squares_for_training_are_equally_often_in_each_position_that_has_the_attributes(only: tuple[str, ...]) -> None:
    where = centers(Squares(only=only, samples=1440).tensors("train")["x"])
    columns, rows = range(2, 8 if "left" in only else 14), range(2, 8 if "top" in only else 14)
    places, counts = np.unique(where, axis=0, return_counts=True)
    assert [tuple(place) for place in places] == [(row, column) for row in rows for column in columns]
    assert set(counts) == {1440 // len(places)}


def test_Squares_noise_is_added_to_all_images_and_fresh_in_training() -> None:
    data = Squares(noise=0.1, samples=200)
    first, second = (torch.cat([batch["x"] for batch in data.train_stream(4, seed=seed)]) for seed in (1, 2))
    for x in (data.tensors("test")["x"], first, second):
        residue = (x - x.sign()).flatten()
        assert stats.kstest(residue.numpy(), stats.norm(0, 0.1).cdf).pvalue > FALSE_ALARM
    assert not torch.equal(first, second)


def test_Squares_attributes_are_those_of_the_center_of_mass_with_and_without_noise() -> None:
    clean = Squares().tensors("test")["x"]
    where = centers(clean)
    for x in (clean, Squares(noise=0.1).tensors("test")["x"]):
        found = Squares().attributes(x)
        assert bool(found["valid"].all())
        assert found["left"].tolist() == (where[:, 1] < 7.5).tolist()
        assert found["top"].tolist() == (where[:, 0] < 7.5).tolist()


def drawn(*boxes: tuple[int, int, int, int], off: tuple[tuple[int, int], ...] = ()) -> Tensor:
    """An image with filled boxes (row, column, height, width), and single pixels switched off."""
    image = torch.full((1, 16, 16), -1.0)
    for row, column, height, width in boxes:
        image[0, row : row + height, column : column + width] = 1
    for row, column in off:
        image[0, row, column] = -1
    return image


@pytest.mark.parametrize(
    ("image", "valid"),
    [
        (drawn((3, 8, 5, 5)), True),
        (drawn((0, 0, 4, 6)), True),
        (drawn((3, 8, 5, 5), off=((3, 8), (7, 12), (5, 10))), True),
        (drawn((3, 8, 5, 5)) * 0.1, True),
        (drawn(), False),
        (drawn((0, 0, 16, 16)), False),
        (drawn((3, 8, 5, 5), (10, 1, 5, 5)), False),
        (drawn((3, 8, 5, 5), (14, 2, 1, 1)), False),
        (drawn((3, 8, 5, 5), off=tuple((row, column) for row in (4, 5) for column in (9, 10, 11))), False),
        (drawn((3, 8, 5, 7)), False),
        (drawn((3, 8, 3, 3)), False),
        (-drawn((3, 8, 5, 5)), False),
    ],
)
def test_Squares_valid_image_has_one_square_of_about_the_right_size_and_nothing_else(
    image: Tensor, valid: bool
) -> None:
    assert Squares().attributes(image[None])["valid"].tolist() == [valid]


@dataclass(frozen=True)
class Given(SampleSource):
    """Given samples."""

    x: Tensor

    @property
    def number(self) -> int:
        return len(self.x)

    def draw(self, module: EBM, data: DataModule) -> State:
        return {"x": self.x}


MODULE = EBM(DeepEnergy(MLP(256, [2])), ContrastiveDivergence())
TOP_LEFT, TOP_RIGHT, BOTTOM = drawn((1, 1, 5, 5)), drawn((0, 9, 5, 5)), drawn((9, 10, 5, 5))


def test_Attributes_counts_shares_of_valid_samples_with_binomial_errors() -> None:
    x = torch.stack([TOP_LEFT] * 3 + [TOP_RIGHT] * 2 + [BOTTOM] * 3 + [drawn()] * 2)
    result = Attributes(Given(x)).measure(MODULE, Squares())
    expected = {
        "valid_percent": (0.8, 10),
        "left_percent_of_valid": (3 / 8, 8),
        "top_percent_of_valid": (5 / 8, 8),
        "left_and_top_percent_of_valid": (3 / 8, 8),
        "left_or_top_percent_of_valid": (5 / 8, 8),
        "valid_percent_test_images": (1.0, 144),
        "left_percent_of_valid_test_images": (0.5, 144),
        "top_percent_of_valid_test_images": (0.5, 144),
        "left_and_top_percent_of_valid_test_images": (0.25, 144),
        "left_or_top_percent_of_valid_test_images": (0.75, 144),
    }
    assert result.measurements.keys() == expected.keys()
    for name, (share, n) in expected.items():
        found = result.measurements[name]
        assert (found.value, found.warning) == (pytest.approx(100 * share), "")
        assert found.standard_error == pytest.approx(100 * math.sqrt(share * (1 - share) / n))
    assert result.pictures.keys() == {"samples"}


def test_Attributes_without_valid_samples_are_unknown() -> None:
    found = Attributes(Given(drawn()[None])).measure(MODULE, Squares()).measurements
    assert found["valid_percent"].value == 0
    assert math.isnan(found["left_percent_of_valid"].value)
    assert found["left_percent_of_valid"].warning == "no sample is valid"


def test_check_data_below_accepts_other_parts_of_Squares_but_not_other_data(tmp_path: Path) -> None:
    def config(**arguments: object) -> dict:
        return {"data": {"class_path": "Squares", "init_args": arguments}}

    run = RunFolder(tmp_path)
    run.config_file.write_text(yaml.safe_dump(config(side=16, only=["left"])))
    check_upstream_data(config(side=16, only=["top"]), [run])
    loading = {"seed": 1, "max_train": 9}
    check_upstream_data(config(side=16, batch_size=7, val_size=0.2, loading=loading), [run])
    with pytest.raises(ValueError, match=r"was trained on other data \(data.init_args.side: 16, here 12\)"):
        check_upstream_data(config(side=12, only=["left"]), [run])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Squares(square=1), "expected 2 <= square < side"),
        (lambda: Squares(side=5), "expected 2 <= square < side"),
        (lambda: Squares(samples=143), "a square has 144 positions, expected at least as many samples"),
        (lambda: Squares(noise=-0.1), "and noise >= 0"),
        (
            lambda: Attributes(Given(torch.zeros(2, 1, 2, 2))).measure(MODULE, Examples(torch.zeros(2, 1, 2, 2))),
            "Examples has no attributes of images: use synthetic data that have some, such as Squares",
        ),
    ],
)
def test_Squares_and_Attributes_refuse_what_cannot_work(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
