"""Can a model repair an image? Hidden parts filled in by its chains, and corrupted pixels moved back."""

from copy import copy
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ebm_lightning.core import KNOWN, Bounds, Sampler, State, evaluating, trajectory
from ebm_lightning.data.base import DataModule, Split
from ebm_lightning.evaluation.components.corruptions import Corruption, Mask
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, mean, random_subset
from ebm_lightning.generation.samples import birth_noise
from ebm_lightning.samplers import Masked
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots

SHOWN = 10
"""Images in the picture, at most."""


@dataclass(eq=False)
class Inpainting(Protocol):
    """Mean squared error per hidden number of an image that the module's sampler fills in, against the truth.

    The hidden pixels begin as chains of this run do and move by its sampler, while the known ones are held
    (:class:`~ebm_lightning.samplers.Masked`); labels that the sampler leaves clamped are given. Measured on random test
    and training images; errors that are lower on the latter are memory (Du & Mordatch 2019). The baseline is the mean
    training image, which is the best guess without a look at the rest. A draw from the right law has twice the error of
    the best guess given the known pixels, the mean of that law, so that a good model may lose against a blurred one.
    Errors are in units of the data squared, with the standard error over images. The truth is the image that evaluation
    sees, with the noise that the data have there. Pictures: truth, start and result in three rows.

    Args:
        mask: what is hidden.
        number: images of each split, at most.
        steps: transitions of each chain.

    Raises:
        ValueError: if a number is < 1; when measuring, if the run has no sampler that moves x, or one that cannot
            be masked, or x are no images (C, H, W).
    """

    mask: Mask
    number: int = 100
    steps: int = 500

    def __post_init__(self) -> None:
        if min(self.number, self.steps) < 1:
            raise ValueError(f"{self.id}: expected number >= 1 and steps >= 1")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        sampler = Masked(_sampler_of_images(self, module, data))
        guess = data.tensors("train")["x"].double().mean(0).to(module.device)
        result, noise = ProtocolResult({}), birth_noise(module)
        for split, name in _SPLITS.items():
            truth = _some(data, split, self.number, module.device)
            x, known = truth["x"], self.mask.known(truth["x"])
            start = {**truth, "x": torch.where(known, x, noise.initial(truth, "x")), "x" + KNOWN: known}
            end = walked(module, sampler, start, self.steps)
            baseline = squared_error(guess.expand_as(x), x, ~known)
            result.measurements[f"mse_{name}"] = squared_error(end, x, ~known).labeled(f"MSE {name}")
            result.measurements[f"mean_image_mse_{name}"] = baseline.labeled(f"MSE of the mean image, {name}")
            result.pictures |= _drawn(name, [x, start["x"], end], data.bounds)
        return result


@dataclass(eq=False)
class Denoising(Protocol):
    """Mean squared error per number of corrupted images, before and after the module's sampler has moved them.

    The chains start at the corrupted image and move all of it, by a law that does not know what was done to it: longer
    chains forget the image. Measured on random test and training images, in units of the data squared, with the
    standard error over images. The truth is the image that evaluation sees, with the noise that the data have there.
    Pictures: truth, start and result in three rows. Du & Mordatch (2019).

    Args:
        corruption: what is done to the images.
        number: images of each split, at most.
        steps: transitions of each chain.

    Raises:
        ValueError: if a number is < 1; when measuring, if the data have no bounds, the run has no sampler that
            moves x, or x are no images (C, H, W).
    """

    corruption: Corruption
    number: int = 100
    steps: int = 100

    def __post_init__(self) -> None:
        if min(self.number, self.steps) < 1:
            raise ValueError(f"{self.id}: expected number >= 1 and steps >= 1")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        sampler, result = _sampler_of_images(self, module, data), ProtocolResult({})
        if data.bounds is None:
            raise ValueError(f"{self.id} corrupts images within bounds, but {type(data).__name__} has none")
        for split, name in _SPLITS.items():
            truth = _some(data, split, self.number, module.device)
            x, everywhere = truth["x"], torch.ones_like(truth["x"], dtype=torch.bool)
            start = {**truth, "x": self.corruption(x, data.bounds)}
            end = walked(module, sampler, start, self.steps)
            before, after = squared_error(start["x"], x, everywhere), squared_error(end, x, everywhere)
            result.measurements[f"mse_before_{name}"] = before.labeled(f"MSE before, {name}")
            result.measurements[f"mse_after_{name}"] = after.labeled(f"MSE after, {name}")
            result.pictures |= _drawn(name, [x, start["x"], end], data.bounds)
        return result


_SPLITS: dict[Split, str] = {"test": "test", "train": "training"}


@torch.no_grad()
def walked(module: EBM, sampler: Sampler, start: State, steps: int) -> Tensor:
    """x after so many transitions from a state, of which the model first completes what it lacks; in eval mode."""
    with evaluating(module):
        walk = trajectory(sampler, module.model, sampler.augment_state(module.model.positive_phase(start)))
        for _ in tqdm(range(steps), desc="repairing", unit="step", leave=False):
            state, _ = next(walk)
    return state["x"]


def squared_error(guess: Tensor, truth: Tensor, where: Tensor) -> Measurement:
    """The mean over images of the mean of (guess - truth)^2 over the numbers of each (B, ...) that ``where`` marks.

    An image without any is left out. The standard error is that over images.
    """
    error = (guess.double() - truth.double()).square() * where
    counts = where.flatten(1).sum(1)
    return mean((error.flatten(1).sum(1) / counts)[counts > 0])


def _sampler_of_images(protocol: Protocol, module: EBM, data: DataModule) -> Sampler:
    """A copy of the run's sampler: what an adaptive one learns from these chains is not the run's."""
    if module.sampler is None or "x" not in module.sampler.free:
        raise ValueError(f"{protocol.id} moves x by the sampler of the run, but this one has no sampler that moves x")
    if len(data.shape) != 3:
        raise ValueError(
            f"{protocol.id} repairs images (C, H, W), but x of {type(data).__name__} is of shape {data.shape}"
        )
    return copy(module.sampler)


def _some(data: DataModule, split: Split, number: int, device: torch.device) -> State:
    """A random choice of the examples of a split."""
    return {name: value.to(device) for name, value in random_subset(data.tensors(split), number).items()}


def _drawn(name: str, rows: list[Tensor], bounds: Bounds | None) -> dict[str, Image]:
    if not plots.drawable(rows[0]):
        return {}
    columns = min(SHOWN, len(rows[0]))
    return {name: plots.picture(torch.cat([row[:columns] for row in rows]), bounds, columns)}
