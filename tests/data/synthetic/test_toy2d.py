"""Toy2D: mean and scale, and the sets whose shape is known."""

from collections.abc import Callable

import pytest
import torch
from support.oracles import Z

from ebm_lightning.data import Loading, Toy2D


@pytest.mark.parametrize("name", ["moons", "circles", "swiss_roll", "eight_gaussians", "checkerboard", "pinwheel"])
def test_Toy2D_is_centered_and_of_unit_scale(name: str) -> None:
    data = Toy2D(name, samples=4000, test_size=1000, val_size=0)
    x = data.tensors("train")["x"].double()
    torch.testing.assert_close(x.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-5)
    assert float(x.square().mean()) == pytest.approx(1, abs=1e-5)
    test = data.tensors("test")["x"].double()
    error = test.square().mean(1).std() / 1000**0.5
    assert abs(float(test.square().mean()) - 1) < 1.5 * Z * float(error)  # 1.5: the scale is itself of a sample
    assert torch.equal(Toy2D(name, samples=4000, test_size=1000, val_size=0).tensors("train")["x"].double(), x)
    assert not torch.equal(
        Toy2D(name, samples=4000, test_size=1000, val_size=0, loading=Loading(split_seed=1)).tensors("train")["x"],
        x.float(),
    )


def test_Toy2D_checkerboard_fills_its_squares_and_the_gaussians_their_circle() -> None:
    # Both sets have mean 0, and per coordinate the mean squares 4/3 and 8 + 1/4, which undo the scale.
    board = Toy2D("checkerboard", samples=20_000, val_size=0).tensors("train")["x"] * (4 / 3) ** 0.5
    inside = (board - board.round()).abs().min(1).values > 0.05  # away from the edges, which the scale moves
    parity = board[inside].floor().sum(1).remainder(2)
    assert bool((parity == 0).all())
    tensors = Toy2D("eight_gaussians", samples=20_000, val_size=0).tensors("train")
    centers = torch.stack([tensors["x"][tensors["y"] == k].mean(0) for k in range(8)]) * 8.25**0.5
    torch.testing.assert_close(torch.linalg.vector_norm(centers, dim=1), torch.full((8,), 4.0), rtol=0, atol=0.2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Toy2D("moon"), "expected one of moons"),
        (lambda: Toy2D("moons", samples=1), "samples >= 2"),
    ],
)
def test_Toy2D_refuses_what_cannot_work(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
