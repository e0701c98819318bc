"""Feature extractors: trained networks that give the features and the class logits of images."""

import abc
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ebm_lightning.core import Bounds, evaluating
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.class_posterior import logits
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import flatten
from ebm_lightning.runs.load_model import load_model
from ebm_lightning.training.module import EBM

ExtractFeatures = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, ...) -> (features (B, d), class logits (B, classes)), both float64."""


class FeatureExtractor(abc.ABC):
    """A trained network with features and classes of an image; final subclasses are frozen dataclasses.

    ``distance`` is the name of the Frechet distance in its features, ``score`` that of exp E KL(p(y | x) || p(y)) of
    its classes. FID and inception score are those of InceptionV3 only.
    """

    @property
    @abc.abstractmethod
    def distance(self) -> str:
        """The name of the Frechet distance in these features."""

    @property
    @abc.abstractmethod
    def score(self) -> str:
        """The name of the score of these classes."""

    @abc.abstractmethod
    def load(self, module: EBM, data: DataModule) -> ExtractFeatures:
        """The network, on the device of the module, as a function of images within the bounds of the data."""


@dataclass(frozen=True)
class Inception(FeatureExtractor):
    """InceptionV3 of 2015, as published FIDs and inception scores use it (Heusel et al. 2017; Salimans et al. 2016).

    The features are the 2048 of the last pooling, the classes the 1008 logits without bias. Images are clamped to the
    bounds of the data and rounded to 256 levels; gray images get three equal channels; all are enlarged as by
    TensorFlow. The network comes from the package torch-fidelity, its weights from a file; nothing is downloaded.

    Args:
        weights: the file weights-inception-2015-12-05-6726825d.pth that torch-fidelity publishes.

    Raises:
        ValueError: when loading, if the package or the file is missing, the file does not contain these weights, or the
            data have no bounds or are no images of 1 or 3 channels.
    """

    weights: str

    @property
    def distance(self) -> str:
        return "FID"

    @property
    def score(self) -> str:
        return "inception score"

    def load(self, module: EBM, data: DataModule) -> ExtractFeatures:
        bounds = data.bounds
        if bounds is None or len(data.shape) != 3 or data.shape[0] not in (1, 3):
            raise ValueError(
                f"{self} takes images (1 or 3, H, W) within bounds, but {type(data).__name__} is of shape "
                f"{data.shape} within {bounds}: use a TrainedClassifier instead"
            )
        network = self._network().to(module.device)

        def extract(x: Tensor) -> tuple[Tensor, Tensor]:
            features, class_logits = network(levels(x, bounds))
            return features.double(), class_logits.double()

        return extract

    def _network(self) -> torch.nn.Module:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as fault:
            raise ValueError(
                f"{self} needs the package torch-fidelity, which is not installed ({fault}): "
                "pip install 'ebm_lightning[inception]'"
            ) from fault
        if not Path(self.weights).is_file():
            raise ValueError(
                f"there is no file {self.weights}: put weights-inception-2015-12-05-6726825d.pth there, which "
                "torch-fidelity publishes with its release v0.2.0 on GitHub, or give the path of the file"
            )
        try:
            torch.load(self.weights, map_location="cpu", weights_only=True)  # torch-fidelity would run code in the file
            network: torch.nn.Module = FeatureExtractorInceptionV3(
                "inception", ["2048", "logits_unbiased"], self.weights
            )
        except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as fault:
            raise ValueError(
                f"{self.weights} does not contain the weights of InceptionV3 of torch-fidelity "
                f"({str(fault).splitlines()[0]}): download weights-inception-2015-12-05-6726825d.pth again"
            ) from fault
        return network


@dataclass(frozen=True)
class TrainedClassifier(FeatureExtractor):
    """p(y | x) of a finished run, whose logits are also its features: for data unlike those of InceptionV3.

    The name of the run is part of the names of the numbers, since only numbers of the same classifier are comparable.
    The features are the logits, since every model with a p(y | x) has them; they are few, so that a few hundred images
    suffice for their covariance. They hardly depend on what does not change the class, such as the background.

    Args:
        run: its folder; a name without a slash, such as ``mnist_laptop_classifier``, is the run of that YAML file
            beside the run that is measured, with the same seed.
        block: the label.

    Raises:
        ValueError: when loading, if there is no such run, it has no checkpoint, or it was trained on images within
            other bounds; at a call, if its model has no p(y | x).
    """

    run: str
    block: str = "y"

    @property
    def distance(self) -> str:
        return f"Frechet distance in logits of {RunFolder(self.run).path.name}"

    @property
    def score(self) -> str:
        return f"classifier score of {RunFolder(self.run).path.name}"

    def load(self, module: EBM, data: DataModule) -> ExtractFeatures:
        folder = RunFolder(self.run)
        if "/" not in self.run:
            measured = run_folder(module)
            folder = measured.sibling(self.run, measured.seed)
        trained = flatten(folder.config().get("data") or {}).get("init_args.bounds")
        if trained is not None and data.bounds is not None and tuple(trained) != data.bounds:
            raise ValueError(
                f"{self} was trained on images within {tuple(trained)}, but those of {type(data).__name__} are within "
                f"{data.bounds}: name a classifier that was trained with the same bounds"
            )
        model = load_model(str(folder.path)).to(module.device).eval()

        def extract(x: Tensor) -> tuple[Tensor, Tensor]:
            class_logits = logits(model, {"x": x}, self.block)
            return class_logits, class_logits

        return extract


@dataclass(frozen=True)
class OwnClassifier(FeatureExtractor):
    """p(y | x) of the measured model itself: for counting its modes, not for the quality of its samples.

    Args:
        block: the label.

    Raises:
        ValueError: at a call, if the model has no p(y | x).
    """

    block: str = "y"

    @property
    def distance(self) -> str:
        return "Frechet distance in the model's own logits"

    @property
    def score(self) -> str:
        return "classifier score of the model itself"

    def load(self, module: EBM, data: DataModule) -> ExtractFeatures:
        def extract(x: Tensor) -> tuple[Tensor, Tensor]:
            with evaluating(module):
                class_logits = logits(module.model, {"x": x}, self.block)
            return class_logits, class_logits

        return extract


@torch.no_grad()
def extract_all(
    extract: ExtractFeatures, x: Tensor, device: torch.device, batch_size: int = 500
) -> tuple[Tensor, Tensor]:
    """The features (N, d) and the class logits (N, classes) of all images, in batches; on the CPU."""
    parts = [extract(batch.to(device)) for batch in torch.split(x, batch_size)]
    features, class_logits = (torch.cat([part[i].cpu() for part in parts]) for i in range(2))
    return features, class_logits


def levels(x: Tensor, bounds: Bounds) -> Tensor:
    """Images (B, 1 or 3, H, W) as uint8 (B, 3, H, W): clamped to the bounds and rounded to 0..255."""
    low, high = bounds
    return ((x - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)


def run_folder(module: EBM) -> RunFolder:
    """The run folder of a module that is attached to a trainer, as in `ebm test`."""
    return RunFolder(module.trainer.default_root_dir)
