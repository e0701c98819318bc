"""A training run on text that keeps the batches it was given."""

from pathlib import Path

from ebm_lightning.core import State
from ebm_lightning.data import DataModule
from support.fits import TrainingRecorder, quiet_trainer


def fitted(data: DataModule, steps: int, path: Path, start: Path | None = None) -> list[State]:
    """The batches that a run up to this step was given; it begins at a checkpoint, or anew, and leaves one."""
    module, trainer = TrainingRecorder(), quiet_trainer(steps)
    trainer.fit(module, datamodule=data, ckpt_path=start)
    trainer.save_checkpoint(path)
    return module.trained
