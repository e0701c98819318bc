"""Images of any size from the Hugging Face hub or a folder, cropped and resized to squares."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebm_lightning.core import State
from ebm_lightning.data.base import Subset
from ebm_lightning.data.images.augmentations import Augmentation
from ebm_lightning.data.images.base import ImageModule
from ebm_lightning.data.images.preprocessing import Preprocessing
from ebm_lightning.data.sources import InMemory, Source, Streaming


@dataclass(frozen=True)
class HubSplit:
    """One split of an image data set, as ``datasets.load_dataset`` finds it.

    Args:
        path: A name on the hub, or a folder of images with one folder for each split, below EBM_DATA or by itself.
        split: Which split, in the notation of ``datasets``: train, validation, train[:10%].
        config: Which configuration of the set; None where it has one.
        column: Where the images are.
    """

    path: str
    split: str
    config: str | None = None
    column: str = "image"

    def rows(self) -> Any:
        """The rows as a ``datasets.Dataset``. Raises ValueError where they cannot be read."""
        import datasets

        try:
            found = datasets.load_dataset(self._place(), self.config, split=self.split)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{self} cannot be read ({problem}): check its name, or connect to the network") from None
        if self.column not in found.column_names:
            raise ValueError(f"{self} has the columns {', '.join(found.column_names)}: name the one that holds images")
        return found

    def source(self, size: int, workers: int | None, first_index: int = 0) -> Source:
        """All images as squares of height and width ``size``, uint8 (3, size, size), with the label -1.

        Kept in memory, or where ``workers`` is a number read by so many processes as they are asked for. Raises
        ValueError where the split cannot be read or holds no image.
        """
        rows, decode = self.rows(), partial(_decode, column=self.column, size=size)
        if not len(rows):
            raise ValueError(f"{self} holds no images: name another split")
        if workers is not None:
            return Streaming(rows, decode, workers, first_index)
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        squares = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
        named = tqdm(rows, desc=f"reading {self.path}, {self.split}", unit=" images", disable=None, leave=False)
        for square, row in zip(squares, named, strict=True):
            square.copy_(decode(row)["x"])
        return InMemory({"x": squares, "y": torch.full((len(squares),), -1)}, first_index)

    def _place(self) -> str:
        root = os.environ.get("EBM_DATA")
        here = Path(root).expanduser() / self.path if root else None
        return str(here) if here is not None and here.is_dir() else self.path


class HubImages(ImageModule):
    """Color images of any data set of the hub, or of a folder, as squares, (B, 3, size, size), without their labels.

    Each image is cropped to its central square, resized bicubically once and kept as bytes: 1.0 GB for 20,000 of
    128 x 128 pixels; or this is done anew for every batch, by worker processes. Every label is -1, unknown.

    Args:
        train: The training split; validation is held out of it.
        test: The test split.
        size: Height and width.
        batch_size: Examples per batch and rank.
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
        workers: How many processes read images while the model trains, for what memory cannot hold; 0 is the training
            process. None reads all of them first.

    Raises:
        ValueError: Where a number is out of range, or a split cannot be read.
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
        valid: int | float = 0.1,
        split_seed: int = 0,
        seed: int | None = None,
        memory_gb: float = 4.0,
        max_train: int | None = None,
        workers: int | None = None,
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
        )
        if size < 1:
            raise ValueError(f"HubImages(size={size}): expected a height and width of at least 1")
        self.train, self.test, self.workers, self._size = train, test, workers, size

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, self._size, self._size)

    def prepare_data(self) -> None:
        """Fills the hub's cache from one process of each node; nothing to do for a local folder."""
        for split in (self.train, self.test):
            split.rows()

    def load(self) -> tuple[Subset, Subset]:
        train = self.train.source(self._size, self.workers)
        test = self.test.source(self._size, self.workers, first_index=len(train))
        return Subset(train, torch.arange(len(train))), Subset(test, torch.arange(len(test)))


def _decode(row: Any, column: str, size: int) -> State:
    from PIL import ImageOps

    image = row[column].convert("RGB")
    side = min(image.size)
    square = np.array(ImageOps.fit(image, (side, side)).resize((size, size)))
    return {"x": torch.from_numpy(square).permute(2, 0, 1), "y": torch.tensor(-1)}
