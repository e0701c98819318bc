"""Training runs that keep and print nothing."""

from collections.abc import Callable, Iterable

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ebm_lightning import EBM, Trainer
from ebm_lightning.core import State
from ebm_lightning.data import DataModule


def quiet_trainer(steps: int, **settings: object) -> Trainer:
    """A trainer on one processor, without logs, checkpoints and bars."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(max_steps=steps, accelerator="cpu", devices=1, enable_model_summary=False, **quiet, **settings)


def fit(module: EBM, data: DataModule | Tensor, steps: int, batch_size: int = 0) -> None:
    """Trains on a DataModule, or on the rows of a tensor: in order, in batches, from the start again at the end."""
    if isinstance(data, Tensor):
        batches = [{"x": x} for x in data.split(batch_size or len(data))]
        quiet_trainer(steps).fit(module, DataLoader(batches, batch_size=None))
    else:
        quiet_trainer(steps).fit(module, datamodule=data)


def sgd(lr: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.SGD]:
    """A factory of plain gradient descent at this learning rate."""
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def to_zero(steps: int) -> Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LinearLR]:
    """A factory of a learning rate that falls linearly to 0, so that the noise of the last steps averages out."""
    return lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, steps)


class TrainingRecorder(L.LightningModule):
    """Keeps the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained: list[State] = []

    def training_step(self, batch: State, batch_idx: int) -> Tensor:
        self.trained.append(batch)
        return self.weight * batch["x"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)
