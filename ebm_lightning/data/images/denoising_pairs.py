"""Pairs of a noisy and a clean image, for models that denoise."""

from copy import copy

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule, Subset
from ebm_lightning.data.images.base import ImageModule

STEPS = 1000
"""Number of steps of the diffusion process."""


class DenoisingPairs(DataModule):
    """Noisy and clean images, {"x": float32 (B, C, H, W), "target": float32 (B, C, H, W)}, from any images.

    x = sqrt(a_t) target + sqrt(1 - a_t) e with e ~ N(0, I): t + 1 of the 1000 steps of a diffusion process, applied to
    an image within [-1, 1], with a_t = prod over s <= t of (1 - b_s), and b linear from 1e-4 to 0.02 (Ho, Jain & Abbeel
    2020, eq. 4). The released code of Gladstone et al. (2025) trains at t = 99, a_t = 0.897. It tests there and, out of
    the range of training, at t = 199, with noise of standard deviation 0.584. x is not clipped: the bounds are those of
    the target.

    Order, splits, augmentations and preprocessing are those of the images. Training images get fresh noise in each
    pass, others the same in every evaluation and at every level.

    Args:
        images: The clean images, with bounds (-1, 1) and no noise of their own.
        step: t of training, validation and test, 0..999.
        levels: Noise levels for test by name, each as its t; None is "in range" at 99 and "out of range" at 199.

    Raises:
        ValueError: If a step is out of range, or the images have other bounds or noise of their own.
    """

    def __init__(self, images: ImageModule, step: int = 99, levels: dict[str, int] | None = None) -> None:
        super().__init__(images.batch_size, val_size=images.val_size, loading=images.loading)
        if images.bounds != (-1.0, 1.0) or images.noise > 0 or images.test_noise > 0:
            raise ValueError(
                f"DenoisingPairs needs clean images between -1 and 1, got {type(images).__name__}"
                f"(bounds={images.bounds}, noise={images.noise}, test_noise={images.test_noise}): expected "
                "bounds=(-1, 1) and no noise"
            )
        self.images, self.step = images, step
        self.levels = {"in range": 99, "out of range": 199} if levels is None else levels
        for t in (step, *self.levels.values()):
            if not 0 <= t < STEPS:
                raise ValueError(f"DenoisingPairs: the diffusion process has no step {t}: expected 0..{STEPS - 1}")
        self.bounds, self.preprocessing = images.bounds, images.preprocessing

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape

    def at(self, level: str) -> "DenoisingPairs":
        """The same data at one of the ``levels``: the same images, and at every level the same noise e.

        Raises ValueError if there is no level of that name.
        """
        if level not in self.levels:
            raise ValueError(
                f"DenoisingPairs has no level {level!r}: expected one of {', '.join(self.levels) or 'none'}"
            )
        _ = self._splits  # read once for all levels
        other = copy(self)
        other.step = self.levels[level]
        return other

    def prepare_data(self) -> None:
        self.images.prepare_data()

    def load(self) -> tuple[Subset, Subset]:
        return self.images.load()

    def hold_out(self, train: Subset) -> tuple[Subset, Subset]:
        return self.images.hold_out(train)

    def hide_labels(self, train: Subset) -> Subset:
        return self.images.hide_labels(train)

    def prepare(self, batch: State, generator: torch.Generator, train: bool) -> State:
        clean = self.images.prepare(batch, generator, train)["x"]
        a = float(signal_variance()[self.step])
        e = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        return {"x": a**0.5 * clean + (1 - a) ** 0.5 * e, "target": clean}


def signal_variance() -> Tensor:
    """a_t, float64 (1000,): the share of an image's variance that is left after step t of the linear schedule."""
    return (1 - torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)).cumprod(0)
