"""Images of any size from the Hugging Face hub or a folder, cropped and resized to squares."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ebm_lightning.core import State
from ebm_lightning.data.base import Loading, Subset
from ebm_lightning.data.hub import data_root, load_hub, with_column
from ebm_lightning.data.images.augmentations import Augmentation
from ebm_lightning.data.images.base import ImageModule
from ebm_lightning.data.images.decoding import decode_image
from ebm_lightning.data.images.preprocessing import Preprocessing
from ebm_lightning.data.sources import InMemory, LazySource, Source


@dataclass(frozen=True)
class HubSplit:
    """One split of an image data set, as an argument of ``datasets.load_dataset``.

    Args:
        path: Name on the hub, or a folder of images with one folder for each split, absolute or below EBM_DATA.
        split: Name of the split, in the notation of ``datasets``: train, validation, train[:10%].
        config: Configuration of the data set; None if it has one only.
        column: Column of the images.
    """

    path: str
    split: str
    config: str | None = None
    column: str = "image"

    def rows(self) -> Any:
        """The rows as a ``datasets.Dataset``. Raises ValueError if they cannot be read."""
        advice = "check its name, or connect to the network"
        rows = load_hub(self._place(), self.config, self.split, fault=f"{self} cannot be read", advice=advice)
        return with_column(rows, self.column, str(self), "images")

    def source(self, size: int, workers: int | None, first_index: int = 0) -> Source:
        """All images as squares of height and width ``size``, uint8 (3, size, size), with the label -1.

        Kept in memory, or read by ``workers`` processes when they are needed. Raises ValueError if the split cannot be
        read or holds no image.
        """
        rows, decode = self.rows(), partial(_decode, column=self.column, size=size)
        if not len(rows):
            raise ValueError(f"{self} has no images: give another split")
        if workers is not None:
            return LazySource(rows, decode, workers, first_index)
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        squares = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
        named = tqdm(rows, desc=f"reading {self.path}, {self.split}", unit=" images", disable=None, leave=False)
        for square, row in zip(squares, named, strict=True):
            square.copy_(decode(row)["x"])
        return InMemory({"x": squares, "y": torch.full((len(squares),), -1)}, first_index)

    def _place(self) -> str:
        root = data_root()
        return str(root / self.path) if root is not None and (root / self.path).is_dir() else self.path


class HubImages(ImageModule):
    """Color images of any data set of the hub, or of a folder, as squares, (B, 3, size, size), without their labels.

    Each image is cropped to its central square and resized bicubically: once, and kept as uint8 (1.0 GB for 20,000 of
    128 x 128 pixels), or for every batch again, by worker processes. Every label is -1, unknown.

    Args:
        train: The training split; validation is held out of it.
        test: The test split.
        size: Height and width.
        batch_size: Examples per batch and rank.
        pixels: Preprocessing of the pixels; None is Gray.
        augmentations: Applied to training images in this order; None applies none.
        bounds: The values of black and white.
        noise: Standard deviation of the Gaussian noise added to training data, in units of the scaled values.
        test_noise: The same for validation and test.
        workers: Number of processes that read images during training, for data larger than the memory; 0 reads them in
            the training process. None reads all of them first.
        val_size: Examples of the training set to hold out for validation: a number, or a share below 1.
        loading: Seeds, limits and device cache.

    Raises:
        ValueError: If a number is out of range, or a split cannot be read.
    """

    def __init__(
        self,
        train: HubSplit,
        test: HubSplit,
        *,
        size: int = 128,
        batch_size: int = 128,
        pixels: Preprocessing | None = None,
        augmentations: list[Augmentation] | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
        noise: float = 0.0,
        test_noise: float = 0.0,
        workers: int | None = None,
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
            val_size=val_size,
            loading=loading,
        )
        if size < 1:
            raise ValueError(f"HubImages(size={size}): expected a height and width of at least 1")
        self.train, self.test, self.workers, self._size = train, test, workers, size

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, self._size, self._size)

    def prepare_data(self) -> None:
        """Fill the hub's cache from one process of each node; nothing to do for a local folder."""
        for split in (self.train, self.test):
            split.rows()

    def load(self) -> tuple[Subset, Subset]:
        train = self.train.source(self._size, self.workers)
        test = self.test.source(self._size, self.workers, first_index=len(train))
        return Subset(train, torch.arange(len(train))), Subset(test, torch.arange(len(test)))


def _decode(row: Any, column: str, size: int) -> State:
    return {"x": decode_image(row[column], 3, name="an image of the hub", side=size), "y": torch.tensor(-1)}
