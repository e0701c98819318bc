"""Pictures pixel by pixel: which image lies where, and what is black and what is white."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ebm_lightning.utils.plots import plot_histogram, plot_samples

GREY = 128


def _tile(image: Image.Image, row: int, column: int, height: int, width: int) -> np.ndarray:
    """The pixels of one tile of a grid with a frame of 2 pixels around every tile."""
    top, left = 2 + row * (height + 2), 2 + column * (width + 2)
    return np.asarray(image)[top : top + height, left : left + width]


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_lies_in_its_place_enlarged_and_the_rest_is_gray(channels: int) -> None:
    """Five images of 2 x 4 pixels in rows of three: every pixel becomes a square of 14."""
    levels = torch.randint(256, (5, channels, 2, 4))
    image = plot_samples(levels, bounds=(0, 255), columns=3)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    assert image.size == (3 * 58 + 2, 2 * 30 + 2)
    shown = np.asarray(image).copy()
    for i, expected in enumerate(levels.numpy().astype(np.uint8)):
        large = np.kron(expected.transpose(1, 2, 0), np.ones((14, 14, 1), dtype=np.uint8))
        tile = _tile(image, i // 3, i % 3, 28, 56)
        assert np.array_equal(tile.reshape(large.shape), large)
        _tile(shown, i // 3, i % 3, 28, 56)[:] = GREY
    assert (shown == GREY).all()


def test_a_grid_is_as_square_as_it_can_be_and_large_images_are_not_enlarged() -> None:
    assert plot_samples(torch.rand(10, 1, 60, 60)).size == (4 * 62 + 2, 3 * 62 + 2)
    assert plot_samples(torch.rand(9, 1, 60, 60)).size == (3 * 62 + 2, 3 * 62 + 2)
    assert plot_samples(torch.rand(1, 1, 60, 60)).size == (62 + 2, 62 + 2)


def test_the_bounds_are_black_and_white_and_values_beyond_are_cut() -> None:
    x = torch.tensor([-1.0, 1.0, 0.0, -0.5, -7.0, 7.0]).view(6, 1, 1, 1).expand(6, 1, 60, 60)
    image = plot_samples(x, bounds=(-1.0, 1.0), columns=6)
    assert [int(_tile(image, 0, i, 60, 60)[0, 0]) for i in range(6)] == [0, 255, 128, 64, 0, 255]


def test_without_bounds_the_extremes_are_black_and_white() -> None:
    x = torch.tensor([3.0, 5.0, 4.5]).view(3, 1, 1, 1).expand(3, 1, 60, 60)
    assert [int(_tile(plot_samples(x, columns=3), 0, i, 60, 60)[0, 0]) for i in range(3)] == [0, 255, 191]
    constant = np.asarray(plot_samples(torch.full((1, 1, 60, 60), 0.7)))
    assert np.isin(constant, [0, GREY]).all()


def test_vectors_and_matrices_are_shown_as_the_images_they_are() -> None:
    x = torch.rand(4, 1, 3, 3)
    expected = np.asarray(plot_samples(x))
    assert np.array_equal(np.asarray(plot_samples(x.flatten(1))), expected)
    assert np.array_equal(np.asarray(plot_samples(x.squeeze(1))), expected)
    assert np.array_equal(np.asarray(plot_samples(x.double().requires_grad_())), expected)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (4, 2, 6, 6), (4, 4, 6, 6), (2, 3, 4, 5, 6)])
def test_plot_samples_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"plot_samples takes images .* got \(" + ", ".join(map(str, shape))):
        plot_samples(torch.rand(shape))


def _colored(image: Image.Image, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels in which color channel ``first`` exceeds ``second`` by a good deal."""
    assert 200 <= image.width <= 1200
    assert 200 <= image.height <= 1200
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return np.nonzero(pixels[..., first] - pixels[..., second] > 60)


def _points(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return _colored(plot_samples(x), 2, 0)


def test_points_of_the_plane_are_scattered_with_y_upwards() -> None:
    """A thin cloud along a diagonal: rows are counted from the top."""
    t = torch.linspace(-1, 1, 50)
    for slope in (1, -1):
        rows, columns = _points(torch.stack([t, slope * t], 1))
        assert len(rows) > 200
        assert np.corrcoef(rows, columns)[0, 1] * slope < -0.9


def test_a_histogram_shows_each_set_in_a_color_of_its_own_on_one_axis() -> None:
    """The first set is blue and lies left of the second, which is orange; half as wide means twice as dense."""
    image = plot_histogram({"low": torch.linspace(-10, -6, 1000), "high": torch.linspace(8, 10, 200)}, "x")
    (blue_rows, blue), (orange_rows, orange) = _colored(image, 2, 0), _colored(image, 0, 2)
    assert min(len(blue), len(orange)) > 1000
    assert np.median(orange) - np.median(blue) > image.width / 3
    heights = [np.bincount(columns).max() for columns in (blue, orange)]
    assert heights[1] / heights[0] == pytest.approx(2, rel=0.2)
    assert abs(blue_rows.max() - orange_rows.max()) <= 2


@pytest.mark.parametrize("values", [torch.zeros(3), torch.tensor([1.0]), torch.randn(4, 5, dtype=torch.float64)])
def test_equal_numbers_and_any_shape_have_a_histogram(values: Tensor) -> None:
    """A single bar, a fiftieth of the axis wide, is larger than the key's patch of its color."""
    assert len(_colored(plot_histogram({"values": values}, "x"), 2, 0)[0]) > 2000


def test_a_narrow_set_far_from_a_wide_one_is_still_to_be_seen() -> None:
    """A spread of 0.01 beside numbers near 30 fills more than a fiftieth of the axis, a single linear bin."""
    blue = _colored(plot_histogram({"low": 0.01 * torch.randn(1000), "high": 30 + torch.randn(1000)}, "x"), 2, 0)[1]
    assert np.ptp(blue) > 100


def test_what_is_not_finite_is_left_out_of_a_histogram() -> None:
    spoiled = torch.tensor([1.0, 2.0, torch.nan, torch.inf, -torch.inf, 3e38])
    left = plot_histogram({"values": spoiled}, "x")
    assert left.tobytes() == plot_histogram({"values": spoiled[:2]}, "x").tobytes()


def test_a_set_of_which_nothing_is_finite_has_no_bar() -> None:
    """As the energies of chains that went away; the other set is drawn."""
    energies = {"data": torch.linspace(-1, 1, 100), "chains": torch.full((5,), torch.inf)}
    assert len(_colored(plot_histogram(energies, "E"), 2, 0)[0]) > 2000
