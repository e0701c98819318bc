"""Inpainting and denoising of images by the chains of a model."""

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
from ebm_lightning.generation.samples import initial_distribution
from ebm_lightning.samplers import Masked
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots

NUM_PICTURED = 10
"""Images in the picture, at most."""


@dataclass(eq=False)
class Inpainting(Protocol):
    """Mean squared error per hidden value of an image that is inpainted by the module's sampler.

    The hidden pixels are drawn from the initial distribution of the run's chains and move by its sampler, while the
    known ones are clamped (:class:`~ebm_lightning.samplers.Masked`); labels that the sampler leaves clamped are given.
    Measured on random test and training images; lower errors on the latter are memorization (Du & Mordatch 2019). The
    baseline is the mean training image, the best prediction without the known pixels. A sample from the true
    conditional distribution has twice the error of the mean of that distribution, so that a good model may have a
    larger error than a blurred image. Errors are in units of the data squared, with the standard error over images. The
    truth is the image as evaluation loads it, with the noise that the data have there. Pictures: truth, start and
    result in three rows.

    Args:
        mask: of the known pixels.
        num_examples: images of each split, at most.
        steps: transitions of each chain.

    Raises:
        ValueError: if a number is < 1; when measuring, if the run has no sampler of x, or one that cannot be masked, or
            x are no images (C, H, W).
    """

    mask: Mask
    num_examples: int = 100
    steps: int = 500

    def __post_init__(self) -> None:
        if min(self.num_examples, self.steps) < 1:
            raise ValueError(f"{self.id}: expected num_examples >= 1 and steps >= 1")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        sampler = Masked(_sampler_of_images(self, module, data))
        guess = data.tensors("train")["x"].double().mean(0).to(module.device)
        result, noise = ProtocolResult({}), initial_distribution(module)
        for split, name in _SPLITS.items():
            truth = _subset(data, split, self.num_examples, module.device)
            x, known = truth["x"], self.mask.known(truth["x"])
            start = {**truth, "x": torch.where(known, x, noise.initial(truth, "x")), "x" + KNOWN: known}
            end = sample_x(module, sampler, start, self.steps)
            baseline = squared_error(guess.expand_as(x), x, ~known)
            result.measurements[f"mse_{name}"] = squared_error(end, x, ~known).labeled(f"MSE {name}")
            result.measurements[f"mean_image_mse_{name}"] = baseline.labeled(f"MSE of the mean image, {name}")
            result.pictures |= _pictures(name, [x, start["x"], end], data.bounds)
        return result


@dataclass(eq=False)
class Denoising(Protocol):
    """Mean squared error per value of corrupted images, before and after transitions of the module's sampler.

    The chains start at the corrupted image and move all of it, under a distribution that does not depend on the
    corruption: longer chains forget the image. Measured on random test and training images, in units of the data
    squared, with the standard error over images. The truth is the image as evaluation loads it, with the noise that the
    data have there. Pictures: truth, start and result in three rows. Du & Mordatch (2019).

    Args:
        corruption: of the images.
        num_examples: images of each split, at most.
        steps: transitions of each chain.

    Raises:
        ValueError: if a number is < 1; when measuring, if the data have no bounds, the run has no sampler of x, or x
            are no images (C, H, W).
    """

    corruption: Corruption
    num_examples: int = 100
    steps: int = 100

    def __post_init__(self) -> None:
        if min(self.num_examples, self.steps) < 1:
            raise ValueError(f"{self.id}: expected num_examples >= 1 and steps >= 1")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        sampler, result = _sampler_of_images(self, module, data), ProtocolResult({})
        if data.bounds is None:
            raise ValueError(f"{self.id} corrupts images within bounds, but {type(data).__name__} has none")
        for split, name in _SPLITS.items():
            truth = _subset(data, split, self.num_examples, module.device)
            x, everywhere = truth["x"], torch.ones_like(truth["x"], dtype=torch.bool)
            start = {**truth, "x": self.corruption(x, data.bounds)}
            end = sample_x(module, sampler, start, self.steps)
            before, after = squared_error(start["x"], x, everywhere), squared_error(end, x, everywhere)
            result.measurements[f"mse_before_{name}"] = before.labeled(f"MSE before, {name}")
            result.measurements[f"mse_after_{name}"] = after.labeled(f"MSE after, {name}")
            result.pictures |= _pictures(name, [x, start["x"], end], data.bounds)
        return result


_SPLITS: dict[Split, str] = {"test": "test", "train": "training"}


@torch.no_grad()
def sample_x(module: EBM, sampler: Sampler, start: State, steps: int) -> Tensor:
    """x after ``steps`` transitions from a state that the model first completes; in eval mode."""
    with evaluating(module):
        chain = trajectory(sampler, module.model, sampler.augment_state(module.model.positive_phase(start)))
        for _ in tqdm(range(steps), desc="sampling", unit="step", leave=False):
            state, _ = next(chain)
    return state["x"]


def squared_error(guess: Tensor, truth: Tensor, mask: Tensor) -> Measurement:
    """The mean over images of the mean of (guess - truth)^2 over the values of each (B, ...) with ``mask``.

    Images without such values are left out. The standard error is over images.
    """
    error = (guess.double() - truth.double()).square() * mask
    counts = mask.flatten(1).sum(1)
    return mean((error.flatten(1).sum(1) / counts)[counts > 0])


def _sampler_of_images(protocol: Protocol, module: EBM, data: DataModule) -> Sampler:
    """A copy of the run's sampler, whose adaptation leaves the run's own sampler as it is."""
    if module.sampler is None or "x" not in module.sampler.free:
        raise ValueError(f"{protocol.id} moves x by the sampler of the run, but this run has no sampler of x")
    if len(data.shape) != 3:
        raise ValueError(
            f"{protocol.id} takes images (C, H, W), but x of {type(data).__name__} is of shape {data.shape}"
        )
    return copy(module.sampler)


def _subset(data: DataModule, split: Split, n: int, device: torch.device) -> State:
    """A random subset of n examples of a split."""
    return {name: value.to(device) for name, value in random_subset(data.tensors(split), n).items()}


def _pictures(name: str, rows: list[Tensor], bounds: Bounds | None) -> dict[str, Image]:
    if not plots.can_plot(rows[0]):
        return {}
    columns = min(NUM_PICTURED, len(rows[0]))
    return {name: plots.plot_samples(torch.cat([row[:columns] for row in rows]), bounds, columns)}
