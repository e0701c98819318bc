"""What every DataModule of images shares: from stored gray levels to the numbers a model sees."""

import copy
from dataclasses import dataclass

import torch

from ebm_lightning.core import Bounds, State
from ebm_lightning.data.base import DataModule
from ebm_lightning.data.images.augmentations import Augmentation
from ebm_lightning.data.images.preprocessing import FixedBinarization, Gray, Preprocessing


@dataclass(frozen=True)
class Stream:
    """A further training stream: the same examples in an order of its own, and what is done to them.

    Args:
        batch_size: Examples per batch and rank; None takes that of the data.
        augmentations: Applied to its images in this order; None applies none.
        noise: Standard deviation of the Gaussian noise added to its images, in units of the scaled values.

    Raises:
        ValueError: Where ``batch_size`` < 1 or ``noise`` < 0.
    """

    batch_size: int | None = None
    augmentations: list[Augmentation] | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if (self.batch_size is not None and self.batch_size < 1) or self.noise < 0:
            raise ValueError(
                f"Stream(batch_size={self.batch_size}, noise={self.noise}): expected 1 or more examples per batch, or "
                "null, and noise >= 0"
            )


class ImageModule(DataModule):
    """Images (C, H, W), stored as whole numbers 0..levels-1 and made into batches on the device.

    In this order: augment (training only), apply the preprocessing, scale [0, 1] affinely to ``bounds``, add
    Gaussian noise. Noise carries values beyond the bounds; they are not clipped. Subclasses define ``shape`` and
    ``load``, and set ``classes`` and ``levels``.

    Args:
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
        streams: Further training streams by name, each drawn independently of the others: every training batch has
            their images and labels too, such as ``x_labeled`` and ``y_labeled`` of the stream ``labeled``. They
            reach an objective by ``OnStream``. Validation and test have none.

    Raises:
        ValueError: Where a number is out of range, or FixedBinarization meets an augmentation.
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
        valid: int | float = 0.1,
        split_seed: int = 0,
        seed: int | None = None,
        memory_gb: float = 4.0,
        max_train: int | None = None,
        streams: dict[str, Stream] | None = None,
    ) -> None:
        super().__init__(
            batch_size, valid=valid, split_seed=split_seed, seed=seed, memory_gb=memory_gb, max_train=max_train
        )
        low, high = bounds
        if not low < high:
            raise ValueError(f"{type(self).__name__}(bounds={bounds}): expected the lower value first")
        if noise < 0 or test_noise < 0:
            raise ValueError(
                f"{type(self).__name__}(noise={noise}, test_noise={test_noise}): expected 0 or more, a standard "
                "deviation"
            )
        augmented = any(one.augmentations for one in (streams or {}).values())
        if (augmentations or augmented) and isinstance(pixels, FixedBinarization):
            raise ValueError(
                "FixedBinarization draws every image once for good, which an augmented image would undo: "
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
        x = self.pixels(images, self.levels, batch["index"], generator)
        x = x if self.bounds == (0.0, 1.0) else x * (high - low) + low
        std = self.noise if train else self.test_noise
        if std > 0:
            x = x + std * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return {"x": x, "y": batch["y"]}

    def beside(self) -> dict[str, DataModule]:
        return {name: self._drawing(stream) for name, stream in self.streams.items()}

    def _drawing(self, stream: Stream) -> "ImageModule":
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
