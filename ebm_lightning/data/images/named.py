"""Standard image data sets by name, from the Hugging Face hub or a local folder in the hub's parquet layout."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ebm_lightning.core import State
from ebm_lightning.data.base import Subset
from ebm_lightning.data.images.augmentations import Augmentation
from ebm_lightning.data.images.base import ImageModule, Stream
from ebm_lightning.data.images.preprocessing import Preprocessing
from ebm_lightning.data.sources import InMemory

Name = Literal["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"]


@dataclass(frozen=True)
class _Entry:
    """Where a set is on the hub, and what it holds: shape (C, H, W) and number of classes."""

    path: str
    config: str
    shape: tuple[int, int, int]
    classes: int


_ENTRIES: dict[str, _Entry] = {
    "mnist": _Entry("ylecun/mnist", "mnist", (1, 28, 28), 10),
    "fashion_mnist": _Entry("zalando-datasets/fashion_mnist", "fashion_mnist", (1, 28, 28), 10),
    "cifar10": _Entry("uoft-cs/cifar10", "plain_text", (3, 32, 32), 10),
    "cifar100": _Entry("uoft-cs/cifar100", "cifar100", (3, 32, 32), 100),
    "svhn": _Entry("ufldl-stanford/svhn", "cropped_digits", (3, 32, 32), 10),
}


class Images(ImageModule):
    """MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100 or SVHN (cropped digits, without its "extra" part), official splits.

    They are read from ``<root>/<name>``, where that folder holds them as parquet in the hub's layout, and else from
    the hub. Everything is decoded once and kept as bytes.

    Args:
        name: Which data set.
        batch_size: Examples per batch and rank.
        root: Folder of data sets; None takes the environment variable EBM_DATA.
        pixels: The preprocessing; None is Gray.
        augmentations: Applied to training images in this order; None applies none.
        bounds: The values of black and white.
        noise: Standard deviation of the Gaussian noise added to training data, in units of the scaled values.
        test_noise: The same for validation and test.
        valid: How much of the training set to hold out: a number of examples, or a share below 1.
        split_seed: Of the held-out choice, and of the randomness in evaluation.
        seed: Of training order and randomness; None takes the run's (``seed_everything``), or 0.
        memory_gb: In-memory data of up to this size, in 10^9 bytes, are kept on the training device.
        max_train: Train on this many examples only, for smoke runs.
        labels_per_class: Semi-supervised learning: only so many training examples of each class keep their label, drawn
            by ``split_seed``; the others have y = -1. Validation and test keep all labels. None keeps all.
        streams: Further training streams by name, each drawn independently of the others: every training batch has
            their images and labels too, such as ``x_labeled`` and ``y_labeled`` of the stream ``labeled``. They
            reach an objective by ``OnStream``. Validation and test have none.

    Raises:
        ValueError: Where a number is out of range, a class has fewer examples than ``labels_per_class``, or the data
            are found nowhere or cannot be read.
    """

    name: Name

    def __init__(
        self,
        name: Name,
        *,
        batch_size: int = 128,
        root: str | None = None,
        pixels: Preprocessing | None = None,
        augmentations: list[Augmentation] | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
        noise: float = 0.0,
        test_noise: float = 0.0,
        valid: int | float = 0.1,
        split_seed: int = 0,
        seed: int | None = None,
        memory_gb: float = 4.0,
        max_train: int | None = None,
        labels_per_class: int | None = None,
        streams: dict[str, Stream] | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            pixels=pixels,
            augmentations=augmentations,
            bounds=bounds,
            noise=noise,
            test_noise=test_noise,
            valid=valid,
            split_seed=split_seed,
            seed=seed,
            memory_gb=memory_gb,
            max_train=max_train,
            streams=streams,
        )
        if labels_per_class is not None and labels_per_class < 1:
            raise ValueError(f"Images(labels_per_class={labels_per_class}): expected 1 or more, or null for all labels")
        self.name, self.root, self.labels_per_class = name, root, labels_per_class
        self._entry = _entry(name)
        self.classes = self._entry.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._entry.shape

    def prepare_data(self) -> None:
        """Fills the hub's cache from one process of each node; nothing to do for a local folder."""
        if not available(self.name, self.root):
            for split in ("train", "test"):
                _hub_tables(self.name, split, self.root)

    def load(self) -> tuple[Subset, Subset]:
        train = InMemory(load_images(self.name, "train", self.root))
        test = InMemory(load_images(self.name, "test", self.root), first_index=len(train))
        return Subset(train, torch.arange(len(train))), Subset(test, torch.arange(len(test)))

    def shown(self, train: Subset) -> Subset:
        """The training examples with all labels hidden but ``labels_per_class`` of each class."""
        if self.labels_per_class is None:
            return train
        assert isinstance(train.source, InMemory)
        y = train.source.tensors["y"]
        kept = [train.rows[y[train.rows] == label][: self.labels_per_class] for label in range(self._entry.classes)]
        fewest = min(map(len, kept))
        if fewest < self.labels_per_class:
            raise ValueError(
                f"Images(labels_per_class={self.labels_per_class}): a class of {self.name} has only {fewest} training "
                "examples; ask for fewer, or for more training examples"
            )
        labeled = torch.cat(kept)
        hidden = torch.full_like(y, -1).index_copy(0, labeled, y[labeled])
        return Subset(InMemory({**train.source.tensors, "y": hidden}, train.source.first_index), train.rows)


def available(name: Name, root: str | None = None) -> bool:
    """Whether a local folder holds this data set, both splits, so that no network is needed.

    Args:
        name: Which data set.
        root: Folder of data sets; None takes the environment variable EBM_DATA.
    """
    return all(_files(name, split, root) for split in ("train", "test"))


def load_images(name: Name, split: Literal["train", "test"], root: str | None = None) -> State:
    """A whole official split: ``x`` uint8 (N, C, H, W) and ``y`` int64 (N,), on the CPU, in the order of the files.

    Args:
        name: Which data set.
        split: Which official split.
        root: Folder of data sets; None takes the environment variable EBM_DATA.

    Raises:
        ValueError: Where the data are found neither in the folder nor on the hub, or a file is damaged.
    """
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    channels, height, width = _entry(name).shape
    files = _files(name, split, root)
    tables = _file_tables(files) if files else _hub_tables(name, split, root)
    images, labels = [], []
    with tqdm(desc=f"reading {name}, {split}", unit=" images", disable=None, leave=False) as bar:
        for where, encoded, label in tables:
            block = np.empty((len(encoded), height, width, channels), dtype=np.uint8)
            for row, data in enumerate(encoded):
                block[row] = _decoded(data, block.shape[1:], f"image {row} of {where}")
            images.append(torch.from_numpy(block).permute(0, 3, 1, 2).contiguous())
            labels.append(torch.tensor(label, dtype=torch.int64))
            bar.update(len(encoded))
    if not images:
        raise ValueError(f"{name}, {split}: {', '.join(map(str, files))} hold no rows; copy the data again")
    return {"x": torch.cat(images), "y": torch.cat(labels)}


Tables = Iterator[tuple[str, list[Any], list[int]]]
"""Blocks of rows: where they are from, their encoded images, their labels."""


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise ValueError(f"no image data set is called {name!r}: expected one of {', '.join(_ENTRIES)}")
    return _ENTRIES[name]


def _folder(name: str, root: str | None) -> Path | None:
    """Where the data set would be, if a folder of data sets is given at all."""
    root = root or os.environ.get("EBM_DATA")
    return Path(root).expanduser() / name if root else None


def _files(name: str, split: str, root: str | None) -> list[Path]:
    """The parquet files of a split, in order; the hub keeps them in a folder of the configuration, or in data."""
    folder = _folder(name, root)
    if folder is None:
        return []
    places = (folder, folder / _entry(name).config, folder / "data")
    return next((files for place in places if (files := sorted(place.glob(f"{split}-*.parquet")))), [])


def _file_tables(files: list[Path]) -> Tables:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    for file in files:
        try:
            with pq.ParquetFile(file) as parquet:
                for number in range(parquet.num_row_groups):
                    yield f"row group {number} of {file}", *_columns(parquet.read_row_group(number), str(file))
        except (pa.ArrowException, OSError) as error:
            problem = str(error).splitlines()[0]
            raise ValueError(f"{file} cannot be read as parquet ({problem}): copy it again") from None


def _hub_tables(name: str, split: str, root: str | None) -> Tables:
    """Reads through ``datasets``, at the call; the blocks are given out afterwards."""
    import datasets

    entry = _entry(name)
    try:
        data = datasets.load_dataset(entry.path, entry.config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        folder = _folder(name, root)
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{name}, {split} was found neither in {folder or 'a local folder (EBM_DATA is not set)'} nor on the hub "
            f"({problem}): set EBM_DATA to a folder that holds {name}/{split}-*.parquet, or connect to the network once"
        ) from None
    table = data.with_format("arrow")
    step = 10_000
    return (
        (f"{entry.path} from row {start}", *_columns(table[start : start + step], entry.path))
        for start in range(0, len(data), step)
    )


def _columns(table: Any, where: str) -> tuple[list[Any], list[int]]:
    """The encoded images and the labels of an Arrow table, whatever the set calls the columns."""
    image = next((name for name in ("image", "img") if name in table.column_names), None)
    label = next((name for name in ("label", "fine_label") if name in table.column_names), None)
    if image is None or label is None:
        raise ValueError(
            f"{where} has the columns {table.column_names}: expected image or img, and label or fine_label"
        )
    return table[image].to_pylist(), table[label].to_pylist()


def _decoded(encoded: Any, shape: tuple[int, ...], where: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels (H, W, C) of a PNG or JPEG, given as bytes or in the hub's struct {bytes, path}."""
    from PIL import Image

    data = encoded["bytes"] if isinstance(encoded, dict) else encoded
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("L" if shape[2] == 1 else "RGB"))
    except (OSError, TypeError) as error:
        raise ValueError(f"{where} cannot be decoded ({error}): copy the data again") from None
    if pixels.shape[:2] != shape[:2]:
        raise ValueError(f"{where} has {pixels.shape[:2]} pixels: expected {shape[:2]}")
    return pixels.reshape(shape)
