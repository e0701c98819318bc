"""A kernel two-sample statistic between samples and held-out data, with its noise floor and two baselines."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.metrics.mmd import median_bandwidth, mmd2
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, snake_case
from ebm_lightning.generation.samples import empty_batch, fresh_chains
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots


@dataclass(eq=False)
class MMD(Protocol):
    """Unbiased MMD^2 (Gretton et al. 2012, eq. 3) between held-out data and four sets; smaller is closer, 0 is equal.

    The sets: fresh chains of the trained model; fresh chains of the same model before training; independent pixels with
    the training data's marginals; and training data, the noise floor. The kernel is Gaussian; its bandwidth is the
    median distance of the training data times ``scale``. Half the median is the default because, of a quarter, half and
    the whole, it separates independent pixels from validation digits of 8x8 pixels best. The standard error is that of
    the statistic over ten disjoint tenths of each set.

    Args:
        num_samples: number of samples, and of training examples.
        steps: transitions of each chain from noise.
        scale: bandwidth of the kernel in median distances, > 0.
    """

    num_samples: int = 500
    steps: int = 500
    scale: float = 0.5

    def __post_init__(self) -> None:
        if self.num_samples < 20 or self.steps < 1 or not self.scale > 0:
            raise ValueError(f"{self.id}: expected num_samples >= 20, steps >= 1 and scale > 0")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        train, held_out = data.tensors("train")["x"], data.tensors("test")["x"]
        train = train[torch.randperm(len(train))]
        trained_model = module.model
        sets: dict[str, Tensor] = {"trained model": self._samples(module, data)}
        module.model = self.untrained.to(module.device)
        sets["untrained model"] = self._samples(module, data)
        module.model = trained_model
        flat = train.flatten(1)
        shuffled = torch.stack([column[torch.randperm(len(column))] for column in flat.T], 1)
        sets["independent pixels"] = shuffled.view_as(train)[: self.num_samples]
        sets["training data"] = train[: self.num_samples]
        bandwidth = self.scale * float(median_bandwidth(flat[:1000]))
        target = held_out.flatten(1).cpu()
        found = {
            f"mmd2_{snake_case(name)}": self._compare(x.flatten(1).cpu(), target, bandwidth).labeled(f"MMD2 {name}")
            for name, x in sets.items()
        }
        pictures = {"-".join(name.split()): plots.plot_samples(x[:64], data.bounds) for name, x in sets.items()}
        return ProtocolResult(found, pictures)

    def _samples(self, module: EBM, data: DataModule) -> Tensor:
        return fresh_chains(module, empty_batch(data, self.num_samples, module.device), self.steps, progress=True)["x"]

    def _compare(self, x: Tensor, y: Tensor, bandwidth: float) -> Measurement:
        parts = torch.stack(
            [mmd2(a, b, bandwidth) for a, b in zip(x.tensor_split(10), y.tensor_split(10), strict=True)]
        )
        return Measurement(float(mmd2(x, y, bandwidth)), float(parts.std()) / 10**0.5)
