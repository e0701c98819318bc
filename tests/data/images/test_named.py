"""Images from files in the layout of the hub, which the tests write, and from a stand-in for the hub."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebm_lightning.data import FixedBinarization, Images, Loading, available, load_images


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def write_set(
    folder: Path, split: str, images: np.ndarray, labels: list[int], columns: tuple[str, str] = ("image", "label")
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": png(image), "path": f"{k}.png"} for k, image in enumerate(images)]
    halves = [(0, len(rows) // 2), (len(rows) // 2, len(rows))]
    for number, (start, end) in enumerate(halves):
        table = pa.table({columns[0]: rows[start:end], columns[1]: labels[start:end]})
        pq.write_table(table, folder / f"{split}-{number:05d}-of-00002.parquet", row_group_size=7)


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    images = {
        split: random.integers(256, size=(n, 28, 28), dtype=np.uint8) for split, n in (("train", 40), ("test", 12))
    }
    for split, pixels in images.items():
        write_set(tmp_path / "mnist", split, pixels, [k % 10 for k in range(len(pixels))])
    monkeypatch.setenv("EBM_DATA", str(tmp_path))
    return images


def test_Images_of_a_local_folder_are_those_written(mnist: dict[str, np.ndarray]) -> None:
    assert available("mnist")
    assert not available("cifar10")
    for split, images in mnist.items():
        tensors = load_images("mnist", split)
        assert torch.equal(tensors["x"], torch.from_numpy(images).unsqueeze(1))
        assert torch.equal(tensors["y"], torch.arange(len(images)) % 10)
    data = Images("mnist", batch_size=6, val_size=4)
    assert torch.equal((data.tensors("test")["x"] * 255).round().to(torch.uint8), load_images("mnist", "test")["x"])
    assert (len(data.tensors("train")["x"]), len(data.tensors("val")["x"])) == (36, 4)
    data.prepare_data()


@pytest.mark.usefixtures("mnist")
def test_Images_hide_labels_from_training_only() -> None:
    open_, data = (Images("mnist", batch_size=6, val_size=4, labels_per_class=n) for n in (None, 2))
    for split in ("val", "test"):
        assert torch.equal(data.tensors(split)["y"], open_.tensors(split)["y"])
    y, truth = data.tensors("train")["y"], open_.tensors("train")["y"]
    assert torch.equal(data.tensors("train")["x"], open_.tensors("train")["x"])
    assert torch.equal(torch.bincount(y + 1), torch.tensor([36 - 20] + [2] * 10))
    assert torch.equal(y[y >= 0], truth[y >= 0])
    streamed = torch.cat([batch["y"] for batch in data.train_stream(6)])  # one epoch
    assert torch.equal(streamed.sort().values, y.sort().values)
    again = Images("mnist", val_size=4, labels_per_class=2, loading=Loading(seed=9)).tensors("train")["y"]
    other = Images("mnist", val_size=4, labels_per_class=2, loading=Loading(split_seed=1)).tensors("train")["y"]
    assert torch.equal(again, y)
    assert not torch.equal(other, y)
    with pytest.raises(ValueError, match=r"labels_per_class=5\): a class of mnist has only \d training examples"):
        Images("mnist", val_size=0, labels_per_class=5).tensors("train")


def test_Images_under_FixedBinarization_differ_between_training_and_test(
    mnist: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_set(tmp_path / "twice" / "mnist", "train", mnist["test"], [0] * 12)
    write_set(tmp_path / "twice" / "mnist", "test", mnist["test"], [0] * 12)
    data = Images("mnist", root=str(tmp_path / "twice"), pixels=FixedBinarization(), val_size=0)
    assert not torch.equal(data.tensors("train")["x"].sum(0), data.tensors("test")["x"].sum(0))


def test_load_images_reads_color_images_and_other_columns_and_folders_of_the_hub(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(256, size=(6, 32, 32, 3), dtype=np.uint8)
    for split in ("train", "test"):
        write_set(tmp_path / "cifar100" / "cifar100", split, images, [99, 0, 1, 2, 3, 4], ("img", "fine_label"))
    assert available("cifar100", str(tmp_path))
    tensors = load_images("cifar100", "train", str(tmp_path))
    assert torch.equal(tensors["x"], torch.from_numpy(images).permute(0, 3, 1, 2))
    assert tensors["y"].tolist() == [99, 0, 1, 2, 3, 4]
    assert Images("cifar100", root=str(tmp_path)).classes == 100
    write_set(tmp_path / "svhn", "test", images, [0] * 6, ("picture", "label"))
    with pytest.raises(ValueError, match="expected image or img"):
        load_images("svhn", "test", str(tmp_path))
    write_set(tmp_path / "mnist", "test", images, [0] * 6)
    with pytest.raises(ValueError, match=r"has \(32, 32\) pixels: expected \(28, 28\)"):
        load_images("mnist", "test", str(tmp_path))


@pytest.mark.usefixtures("mnist")
@pytest.mark.parametrize("damage", [lambda data: data[:-200], lambda data: b"", lambda data: data[:200]])
def test_Images_name_a_truncated_file(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = tmp_path / "mnist" / "train-00001-of-00002.parquet"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet cannot be read as parquet") as caught:
        Images("mnist").tensors("train")
    assert caught.value.__suppress_context__
    assert "\n" not in str(caught.value)


def test_load_images_names_a_damaged_image(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "mnist").mkdir()
    table = pa.table({"image": [{"bytes": b"no image", "path": ""}], "label": [1]})
    pq.write_table(table, tmp_path / "mnist" / "train-0.parquet")
    with pytest.raises(ValueError, match=r"image 0 of row group 0 of .*train-0.parquet cannot be decoded"):
        load_images("mnist", "train", str(tmp_path))


def test_load_images_explains_absent_data_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(path: str, config: str, split: str, streaming: bool) -> None:
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setenv("EBM_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"neither in .*svhn nor on the hub .*set EBM_DATA") as caught:
        load_images("svhn", "test")
    assert str(tmp_path / "svhn") in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("EBM_DATA")
    with pytest.raises(ValueError, match="EBM_DATA is not set"):
        Images("svhn").prepare_data()


def test_load_images_reads_the_hub_through_datasets(
    mnist: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def load_dataset(path: str, config: str, split: str, streaming: bool) -> datasets.Dataset:
        assert (path, config, streaming) == ("ylecun/mnist", "mnist", False)
        rows = [{"bytes": png(image), "path": None} for image in mnist[split]]
        labels = [k % 10 for k in range(len(rows))]
        return datasets.Dataset.from_dict({"image": rows, "label": labels}).cast_column("image", datasets.Image())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.delenv("EBM_DATA")
    tensors = load_images("mnist", "test")
    assert torch.equal(tensors["x"], torch.from_numpy(mnist["test"]).unsqueeze(1))
    assert torch.equal(tensors["y"], torch.arange(12) % 10)
