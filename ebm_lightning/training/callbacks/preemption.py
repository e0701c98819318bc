"""Ends a run that is preempted, at a step that all ranks agree on, so that it can continue from there."""

import os
import signal
from types import FrameType
from typing import Any

import lightning.pytorch as L
import torch
from torch import distributed

from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.loggers import log_preemption
from ebm_lightning.runs.preemption import PREEMPTION_SIGNALS


class Preemption(L.Callback):
    """On SIGUSR1 or SIGTERM, to any rank, training ends after its current step, with a checkpoint of that step.

    The handler only records the signal: it may arrive within a sampler's step, when nothing may be saved and no
    collective operation begun. After each step the ranks agree, on a CPU group of their own, whether one of them
    received a signal; so all end at the same step. Then the file ``.requeue`` in the run folder makes a job's script
    start the run again; ``ebm fit`` ends with status 75 (EX_TEMPFAIL), and the same command continues the run.

    It must stand before the callback that writes checkpoints. Validation is skipped unless it is due at that step.
    """

    def __init__(self) -> None:
        self.stopped_by: str | None = None
        """The name of the signal that ended training; None if none did."""
        self._received: int | None = None
        self._before: dict[int, Any] = {}
        self._group: distributed.ProcessGroup | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._install()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._install()  # Lightning has replaced the handler of SIGTERM meanwhile
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        if trainer.is_global_zero:
            RunFolder(trainer.default_root_dir).requeue_file.unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        received = self._agreed()
        if received and trainer.global_step < trainer.max_steps:
            self.stopped_by = signal.Signals(received).name
            trainer.should_stop = True
            every = trainer.val_check_batch
            if every is None or trainer.global_step % every:
                trainer.limit_val_batches = 0

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.stopped_by and trainer.is_global_zero:
            run = RunFolder(trainer.default_root_dir)
            run.event("preempted", step=trainer.global_step, signal=self.stopped_by)
            run.requeue_file.touch()
            log_preemption(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _install(self) -> None:
        self._pid = os.getpid()  # a process that was forked from this one must not record a signal of its own
        for number in PREEMPTION_SIGNALS:
            before = signal.signal(number, self._on_signal)
            self._before.setdefault(number, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._pid:
            self._received = number

    def _agreed(self) -> int:
        """The signal that some rank received, the same on all ranks; 0 if none did."""
        if self._group is None:
            return self._received or 0
        received = torch.tensor(self._received or 0)
        distributed.all_reduce(received, distributed.ReduceOp.MAX, group=self._group)
        return int(received)
