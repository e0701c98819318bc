"""A training run on text that keeps the batches it was given."""

from pathlib import Path

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from ebm_lightning.core import State
from ebm_lightning.data import DataModule
from ebm_lightning.training.trainer import Trainer


class ExtractFeatures(L.LightningModule):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.shown: list[State] = []

    def training_step(self, batch: State, batch_idx: int) -> Tensor:
        self.shown.append(batch)
        return self.weight * batch["x"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(steps: int) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fitted(data: DataModule, steps: int, path: Path, start: Path | None = None) -> list[State]:
    module, fit = ExtractFeatures(), trainer(steps)
    fit.fit(module, datamodule=data, ckpt_path=start)
    fit.save_checkpoint(path)
    return module.shown
