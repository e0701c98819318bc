"""Images of a folder as `datasets` reads it: cropped, resized, split, and noised."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ebm_lightning.data import DenoisingPairs, HubImages, HubSplit, Loading


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> str:
    """6 images for training and 2 for validation: a red square in the middle of a wide blue image, side 8."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split, number in (("train", 6), ("validation", 2)):
        place = tmp_path / "images" / split
        place.mkdir(parents=True)
        for k in range(number):
            pixels = np.zeros((8, 16, 3), dtype=np.uint8)
            pixels[..., 2] = 200
            pixels[:, 4:12] = (10 * k, 0, 0)
            Image.fromarray(pixels).save(place / f"{k}.png")
    return str(tmp_path / "images")


def _images(folder: str, size: int, **settings: Any) -> HubImages:
    made = HubImages(HubSplit(folder, "train"), HubSplit(folder, "validation"), size=size, batch_size=2, **settings)
    made.setup("fit")
    return made


def test_HubImages_are_cropped_to_their_middle_and_resized(folder: str) -> None:
    for size in (8, 4):
        images = _images(folder, size, val_size=2)
        (batch,) = images.eval_loader("test")
        assert batch["x"].shape == (2, 3, size, size)
        reds = batch["x"][:, 0] * 255
        torch.testing.assert_close(reds, torch.tensor([0.0, 10.0])[:, None, None].expand_as(reds))
        assert (batch["x"][:, 1:] == 0).all()  # the blue of both sides is cut away
        assert (batch["y"] == -1).all()
        assert sum(len(one["x"]) for one in images.eval_loader("val")) == 2
        assert images.size("test") == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_HubImages_read_during_training_are_those_kept_in_memory(folder: str, workers: int) -> None:
    kept, read = (_images(folder, 4, val_size=2, loading=Loading(seed=1), workers=one) for one in (None, workers))
    for data in (kept, read):
        assert data.size("train") == 4
    for ours, theirs in zip(read.train_stream(5), kept.train_stream(5), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for ours, theirs in zip(read.eval_loader("test"), kept.eval_loader("test"), strict=True):
        assert torch.equal(ours["x"], theirs["x"])


def test_HubImages_make_DenoisingPairs(folder: str) -> None:
    data = DenoisingPairs(_images(folder, 4, val_size=2, bounds=(-1.0, 1.0)))
    data.setup("fit")
    (batch,) = data.eval_loader("test")
    assert batch["x"].shape == batch["target"].shape == (2, 3, 4, 4)
    assert (batch["target"][:, 1:] == -1).all()


def test_HubSplit_names_what_cannot_be_read(folder: str) -> None:
    with pytest.raises(ValueError, match=r"HubSplit\(path=.*nothing.*cannot be read"):
        HubSplit(folder + "/nothing", "train").rows()
    with pytest.raises(ValueError, match="give the column of images"):
        HubSplit(folder, "train", column="picture").rows()
    with pytest.raises(ValueError, match="size=0"):
        HubImages(HubSplit(folder, "train"), HubSplit(folder, "validation"), size=0)
