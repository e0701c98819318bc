"""ImageModule: the common part of all data sets of images, from stored gray levels to the model's input."""

import copy
from dataclasses import dataclass

import torch

from ebm_lightning.core import INDEX, Bounds, State
from ebm_lightning.data.base import DataModule, Loading
from ebm_lightning.data.images.augmentations import Augmentation
from ebm_lightning.data.images.preprocessing import FixedBinarization, Gray, Preprocessing


@dataclass(frozen=True)
class DataStream:
    """A further training stream: the same examples in another order, with other augmentations and noise.

    Args:
        batch_size: Examples per batch and rank; None takes that of the data.
        augmentations: Applied to its images in this order; None applies none.
        noise: Standard deviation of the Gaussian noise added to its images, in units of the scaled values.

    Raises:
        ValueError: If ``batch_size`` < 1 or ``noise`` < 0.
    """

    batch_size: int | None = None
    augmentations: list[Augmentation] | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if (self.batch_size is not None and self.batch_size < 1) or self.noise < 0:
            raise ValueError(
                f"DataStream(batch_size={self.batch_size}, noise={self.noise}): expected 1 or more examples per "
                "batch, or null, and noise >= 0"
            )


class ImageModule(DataModule):
    """Images (C, H, W), stored as integers 0..levels-1 and prepared in batches on the device.

    In this order: augment (training only), preprocess the pixels, scale [0, 1] affinely to ``bounds``, add Gaussian
    noise. Values that noise moves out of the bounds are not clipped. Subclasses define ``shape`` and ``load``, and set
    ``classes`` and ``levels``.

    Args:
        batch_size: Examples per batch and rank.
        pixels: Preprocessing of the pixels; None is Gray.
        augmentations: Applied to training images in this order; None applies none.
        bounds: The values of black and white.
        noise: Standard deviation of the Gaussian noise added to training data, in units of the scaled values.
        test_noise: The same for validation and test.
        streams: Further training streams by name, drawn independently of each other: every training batch also has
            their images and labels, such as ``x_labeled`` and ``y_labeled`` of the stream ``labeled``, for an
            objective in ``FromStream``. Validation and test have none.
        val_size: Examples of the training set to hold out for validation: a number, or a share below 1.
        loading: Seeds, limits and device cache.

    Raises:
        ValueError: If a number is out of range, or FixedBinarization is combined with augmentations.
    """

    levels: int = 256

    def __init__(
        self,
        batch_size: int = 128,
        *,
        pixels: Preprocessing | None = None,
        augmentations: list[Augmentation] | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
        noise: float = 0.0,
        test_noise: float = 0.0,
        streams: dict[str, DataStream] | None = None,
        val_size: int | float = 0.1,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, val_size=val_size, loading=loading)
        low, high = bounds
        if not low < high:
            raise ValueError(f"{type(self).__name__}(bounds={bounds}): expected the lower value first")
        if noise < 0 or test_noise < 0:
            raise ValueError(
                f"{type(self).__name__}(noise={noise}, test_noise={test_noise}): expected standard deviations of "
                "0 or more"
            )
        augmented = any(one.augmentations for one in (streams or {}).values())
        if (augmentations or augmented) and isinstance(pixels, FixedBinarization):
            raise ValueError(
                "FixedBinarization draws every image once, and an augmented image is another one in each pass: "
                "leave out the augmentations, or use DynamicBinarization"
            )
        self.pixels = Gray() if pixels is None else pixels
        self.preprocessing, self.binary = repr(self.pixels), self.pixels.binary
        self.augmentations = tuple(augmentations or ())
        self.bounds: Bounds = (float(low), float(high))
        self.noise, self.test_noise, self.streams = noise, test_noise, dict(streams or {})

    def prepare(self, batch: State, generator: torch.Generator, train: bool) -> State:
        images = batch["x"]
        for augment in self.augmentations if train else ():
            images = augment(images, generator)
        low, high = self.bounds
        x = self.pixels(images, self.levels, batch[INDEX], generator)
        x = x if self.bounds == (0.0, 1.0) else x * (high - low) + low
        std = self.noise if train else self.test_noise
        if std > 0:
            x = x + std * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return {"x": x, "y": batch["y"]}

    def extra_streams(self) -> dict[str, DataModule]:
        return {name: self._with(stream) for name, stream in self.streams.items()}

    def _with(self, stream: DataStream) -> "ImageModule":
        """This module with the training batches of another stream."""
        other = copy.copy(self)
        other.batch_size, other.noise = stream.batch_size or self.batch_size, stream.noise
        other.augmentations, other.streams = tuple(stream.augmentations or ()), {}
        return other

    def without_test_noise(self) -> "ImageModule":
        if self.test_noise == 0:
            return self
        quiet = copy.copy(self)
        quiet.test_noise = 0.0
        return quiet
