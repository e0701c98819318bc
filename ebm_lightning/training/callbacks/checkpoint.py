"""Periodic checkpoints of a run, counted in steps."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Checkpoint

from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.loggers import log_checkpoint


class RunCheckpoint(Checkpoint):
    """Write ``checkpoints/step=<step>.ckpt`` every n steps and at the last step, and keep the newest ones.

    Args:
        every_n_steps: training steps between checkpoints.
        keep: the number of checkpoints kept, at least 1; a rollback returns to one of them.
        upload: whether the last checkpoint becomes an artifact of the W&B run.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(self, every_n_steps: int = 1000, keep: int = 3, upload: bool = False) -> None:
        if every_n_steps < 1 or keep < 1:
            raise ValueError(
                f"RunCheckpoint(every_n_steps={every_n_steps}, keep={keep}): expected both to be at least 1"
            )
        self.every_n_steps, self.keep, self.upload = every_n_steps, keep, upload
        self._saved_at = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set aside checkpoints beyond the current step: those from before a rollback, or damaged ones."""
        self._saved_at = trainer.global_step
        for path in RunFolder(trainer.default_root_dir).checkpoints() if trainer.is_global_zero else ():
            if checkpoints.step_of(path) > trainer.global_step:
                checkpoints.set_aside(path)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == trainer.max_steps or trainer.should_stop
        if due and step != self._saved_at:
            run = RunFolder(trainer.default_root_dir)
            path = run.checkpoint(step)
            trainer.save_checkpoint(path)
            if self.upload and step == trainer.max_steps:
                log_checkpoint(trainer, path)
            self._saved_at = step
            if trainer.is_global_zero:
                run.event("checkpoint", step=step)
            for old in run.checkpoints()[: -self.keep]:
                trainer.strategy.remove_checkpoint(old)
