"""Standard image data sets by name, from the Hugging Face hub or a local folder in the hub's parquet layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.data.base import Loading, Subset
from ebm_lightning.data.hub import data_root, load_hub
from ebm_lightning.data.images.augmentations import Augmentation
from ebm_lightning.data.images.base import DataStream, ImageModule
from ebm_lightning.data.images.decoding import decode_image
from ebm_lightning.data.images.preprocessing import Preprocessing
from ebm_lightning.data.sources import InMemory

Name = Literal["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"]


@dataclass(frozen=True)
class _Entry:
    """A data set's place on the hub, shape (C, H, W) and number of classes."""

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

    They are read from ``<root>/<name>`` if that folder has parquet files in the hub's layout, else from the hub.
    All images are decoded once and kept as uint8.

    Args:
        name: Name of the data set.
        batch_size: Examples per batch and rank.
        root: Folder of data sets; None takes the environment variable EBM_DATA.
        pixels: Preprocessing of the pixels; None is Gray.
        augmentations: Applied to training images in this order; None applies none.
        bounds: The values of black and white.
        noise: Standard deviation of the Gaussian noise added to training data, in units of the scaled values.
        test_noise: The same for validation and test.
        streams: Further training streams by name, drawn independently of each other: every training batch also has
            their images and labels, such as ``x_labeled`` and ``y_labeled`` of the stream ``labeled``, for an
            objective in ``FromStream``. Validation and test have none.
        labels_per_class: Semi-supervised learning: this number of training examples of each class keep their label,
            drawn by ``loading.split_seed``; the others have y = -1. Validation and test keep all labels. None: all do.
        val_size: Examples of the training set to hold out for validation: a number, or a share below 1.
        loading: Seeds, limits and device cache.

    Raises:
        ValueError: If a number is out of range, a class has fewer examples than ``labels_per_class``, or the data are
            not found or cannot be read.
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
        streams: dict[str, DataStream] | None = None,
        labels_per_class: int | None = None,
        val_size: int | float = 0.1,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(
            batch_size,
            pixels=pixels,
            augmentations=augmentations,
            bounds=bounds,
            noise=noise,
            test_noise=test_noise,
            streams=streams,
            val_size=val_size,
            loading=loading,
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
        """Fill the hub's cache from one process of each node; nothing to do for a local folder."""
        if not available(self.name, self.root):
            for split in ("train", "test"):
                _hub_tables(self.name, split, self.root)

    def load(self) -> tuple[Subset, Subset]:
        train = InMemory(load_images(self.name, "train", self.root))
        test = InMemory(load_images(self.name, "test", self.root), first_index=len(train))
        return Subset(train, torch.arange(len(train))), Subset(test, torch.arange(len(test)))

    def hide_labels(self, train: Subset) -> Subset:
        """The training examples with the labels of ``labels_per_class`` of each class only; the others are -1."""
        if self.labels_per_class is None:
            return train
        assert isinstance(train.source, InMemory)
        y = train.source.tensors["y"]
        kept = [train.rows[y[train.rows] == label][: self.labels_per_class] for label in range(self._entry.classes)]
        fewest = min(map(len, kept))
        if fewest < self.labels_per_class:
            raise ValueError(
                f"Images(labels_per_class={self.labels_per_class}): a class of {self.name} has only {fewest} training "
                "examples; use fewer labels, or more training examples"
            )
        labeled = torch.cat(kept)
        hidden = torch.full_like(y, -1).index_copy(0, labeled, y[labeled])
        return Subset(InMemory({**train.source.tensors, "y": hidden}, train.source.first_index), train.rows)


def available(name: Name, root: str | None = None) -> bool:
    """Whether a local folder has both splits of this data set, so that no network is needed.

    Args:
        name: Name of the data set.
        root: Folder of data sets; None takes the environment variable EBM_DATA.
    """
    return all(_files(name, split, root) for split in ("train", "test"))


def load_images(name: Name, split: Literal["train", "test"], root: str | None = None) -> State:
    """An official split: ``x`` uint8 (N, C, H, W) and ``y`` int64 (N,), on the CPU, in the order of the files.

    Args:
        name: Name of the data set.
        split: Official split.
        root: Folder of data sets; None takes the environment variable EBM_DATA.

    Raises:
        ValueError: If the data are neither in the folder nor on the hub, or a file is damaged.
    """
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    shape, files = _entry(name).shape, _files(name, split, root)
    tables = _file_tables(files) if files else _hub_tables(name, split, root)
    images, labels = [], []
    with tqdm(desc=f"reading {name}, {split}", unit=" images", disable=None, leave=False) as bar:
        for place, encoded, label in tables:
            block = torch.empty(len(encoded), *shape, dtype=torch.uint8)
            for row, data in enumerate(encoded):
                block[row] = _decoded(data, shape, f"image {row} of {place}")
            images.append(block)
            labels.append(torch.tensor(label, dtype=torch.int64))
            bar.update(len(encoded))
    if not images:
        raise ValueError(f"{name}, {split}: {', '.join(map(str, files))} have no rows; copy the data again")
    return {"x": torch.cat(images), "y": torch.cat(labels)}


Tables = Iterator[tuple[str, list[Any], list[int]]]
"""Blocks of rows: their place, their encoded images, their labels."""


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise ValueError(f"there is no image data set {name!r}: expected one of {', '.join(_ENTRIES)}")
    return _ENTRIES[name]


def _files(name: str, split: str, root: str | None) -> list[Path]:
    """The parquet files of a split, in order; on the hub they are in a folder of the configuration, or in data."""
    parent, entry = data_root(root), _entry(name)
    if parent is None:
        return []
    places = (parent / name, parent / name / entry.config, parent / name / "data")
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
    """The blocks of a split that ``datasets`` opens, at the call."""
    entry, parent = _entry(name), data_root(root)
    folder = "a local folder (EBM_DATA is not set)" if parent is None else parent / name
    data = load_hub(
        entry.path,
        entry.config,
        split,
        fault=f"{name}, {split} was found neither in {folder} nor on the hub",
        advice=f"set EBM_DATA to a folder with {name}/{split}-*.parquet, or connect to the network once",
    )
    table = data.with_format("arrow")
    step = 10_000
    return (
        (f"{entry.path} from row {start}", *_columns(table[start : start + step], entry.path))
        for start in range(0, len(data), step)
    )


def _columns(table: Any, place: str) -> tuple[list[Any], list[int]]:
    """The encoded images and the labels of an Arrow table, under any of the usual column names."""
    image = next((name for name in ("image", "img") if name in table.column_names), None)
    label = next((name for name in ("label", "fine_label") if name in table.column_names), None)
    if image is None or label is None:
        raise ValueError(
            f"{place} has the columns {table.column_names}: expected image or img, and label or fine_label"
        )
    return table[image].to_pylist(), table[label].to_pylist()


def _decoded(encoded: Any, shape: tuple[int, int, int], name: str) -> Tensor:
    """The pixels (C, H, W) of an image, which must have this shape."""
    image = decode_image(encoded, shape[0], name=name)
    if image.shape != shape:
        raise ValueError(f"{name} has {tuple(image.shape[1:])} pixels: expected {shape[1:]}")
    return image
