"""What images are judged by: the features and the classes that a trained network gives them."""

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

Reader = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, ...) -> their features (B, d) and the logits of their classes (B, classes), both float64."""


class FeatureExtractor(abc.ABC):
    """A trained network that gives an image features and classes; final subclasses are frozen dataclasses.

    ``distance`` is what results call the Frechet distance in its features, ``score`` exp E KL(p(y | x) || p(y)) of its
    classes: those of InceptionV3 alone are an FID and an inception score.
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
    def load(self, module: EBM, data: DataModule) -> Reader:
        """The network, on the device of the module, for images as the data have them."""


@dataclass(frozen=True)
class Inception(FeatureExtractor):
    """InceptionV3 of 2015, as published FIDs and inception scores use it (Heusel et al. 2017; Salimans et al. 2016).

    Its features are the 2048 of the last pooling, its classes the 1008 logits without their bias. Images are clamped to
    the bounds of the data, rounded to 256 levels, of gray made three equal channels, and enlarged as TensorFlow did.
    The network comes from the package torch-fidelity, its weights from a file; nothing is downloaded.

    Args:
        weights: the file, which torch-fidelity publishes as weights-inception-2015-12-05-6726825d.pth.

    Raises:
        ValueError: when loading, where the package or the file is missing, the file does not hold these weights, or the
            data have no bounds or are no images of 1 or 3 channels.
    """

    weights: str

    @property
    def distance(self) -> str:
        return "FID"

    @property
    def score(self) -> str:
        return "inception score"

    def load(self, module: EBM, data: DataModule) -> Reader:
        bounds = data.bounds
        if bounds is None or len(data.shape) != 3 or data.shape[0] not in (1, 3):
            raise ValueError(
                f"{self} looks at images (1 or 3, H, W) within bounds, but {type(data).__name__} is of shape "
                f"{data.shape} within {bounds}: judge by a TrainedClassifier instead"
            )
        network = self._network().to(module.device)

        def read(x: Tensor) -> tuple[Tensor, Tensor]:
            features, found = network(levels(x, bounds))
            return features.double(), found.double()

        return read

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
                "torch-fidelity publishes with its release v0.2.0 on GitHub, or name the file where it lies"
            )
        try:
            torch.load(self.weights, map_location="cpu", weights_only=True)  # torch-fidelity would run code in the file
            network: torch.nn.Module = FeatureExtractorInceptionV3(
                "inception", ["2048", "logits_unbiased"], self.weights
            )
        except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as fault:
            raise ValueError(
                f"{self.weights} does not hold the weights of InceptionV3 as torch-fidelity has them "
                f"({str(fault).splitlines()[0]}): download weights-inception-2015-12-05-6726825d.pth again"
            ) from fault
        return network


@dataclass(frozen=True)
class TrainedClassifier(FeatureExtractor):
    """p(y | x) of a finished run, whose logits are features as well: for data that InceptionV3 knows nothing of.

    Its numbers bear the run's name, for they compare models that were judged by that run and no others. Logits, and no
    layer below them, are what every model with a p(y | x) has; there are few of them, so that a few hundred images fix
    their covariance. What does not change the class, such as the background, hardly shows in them.

    Args:
        run: its folder; a name without a slash, such as ``mnist_laptop_classifier``, is the run of that YAML file
            beside the one that is judged, with the same seed.
        block: the label.

    Raises:
        ValueError: when loading, where there is no such run or it has no checkpoint, or it saw images within other
            bounds; at a call, where its model has no p(y | x).
    """

    run: str
    block: str = "y"

    @property
    def distance(self) -> str:
        return f"Frechet distance in logits of {RunFolder(self.run).path.name}"

    @property
    def score(self) -> str:
        return f"classifier score of {RunFolder(self.run).path.name}"

    def load(self, module: EBM, data: DataModule) -> Reader:
        folder = RunFolder(self.run)
        if "/" not in self.run:
            judged = run_folder(module)
            folder = judged.beside(self.run, judged.seed)
        seen = flatten(folder.config().get("data") or {}).get("init_args.bounds")
        if seen is not None and data.bounds is not None and tuple(seen) != data.bounds:
            raise ValueError(
                f"{self} was trained on images within {tuple(seen)}, but those of {type(data).__name__} lie within "
                f"{data.bounds}: name a classifier that was trained with the same bounds"
            )
        model = load_model(str(folder.path)).to(module.device).eval()

        def read(x: Tensor) -> tuple[Tensor, Tensor]:
            found = logits(model, {"x": x}, self.block)
            return found, found

        return read


@dataclass(frozen=True)
class OwnClassifier(FeatureExtractor):
    """p(y | x) of the model that is judged: for counting its modes. A judge of its own samples it is not.

    Args:
        block: the label.

    Raises:
        ValueError: at a call, where the model has no p(y | x).
    """

    block: str = "y"

    @property
    def distance(self) -> str:
        return "Frechet distance in the model's own logits"

    @property
    def score(self) -> str:
        return "classifier score of the model itself"

    def load(self, module: EBM, data: DataModule) -> Reader:
        def read(x: Tensor) -> tuple[Tensor, Tensor]:
            with evaluating(module):
                found = logits(module.model, {"x": x}, self.block)
            return found, found

        return read


@torch.no_grad()
def read_all(reader: Reader, x: Tensor, device: torch.device, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """The features (N, d) and the logits (N, classes) of all images, in batches; on the CPU."""
    parts = [reader(batch.to(device)) for batch in torch.split(x, batch_size)]
    features, found = (torch.cat([part[i].cpu() for part in parts]) for i in range(2))
    return features, found


def levels(x: Tensor, bounds: Bounds) -> Tensor:
    """Images (B, 1 or 3, H, W) as uint8 (B, 3, H, W): clamped to the bounds and rounded to 0..255."""
    low, high = bounds
    return ((x - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)


def run_folder(module: EBM) -> RunFolder:
    """The folder of the run that a module belongs to, whose trainer is attached in `ebm test`."""
    return RunFolder(module.trainer.default_root_dir)
