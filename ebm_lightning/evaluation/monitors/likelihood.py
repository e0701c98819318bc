"""Log-probabilities while a model trains, against the time that training took."""

import time
from typing import Any

import lightning.pytorch as L
import torch

from ebm_lightning.core import evaluating
from ebm_lightning.data.base import DataModule, Split
from ebm_lightning.evaluation.metrics.binary import refuse_gray
from ebm_lightning.evaluation.metrics.partition import PartitionEstimator, free_energies
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.random import isolated, mix


class LikelihoodMonitor(L.Callback):
    """Logs log Z and the mean log-probability of an example, in nats, at step 0, at some steps and at the last one.

    ``likelihood/<split>_log_prob``, ``likelihood/log_z``; of estimates ``likelihood/log_w_std`` and
    ``likelihood/ess``, which say whether to trust them
    (:class:`~ebm_lightning.evaluation.metrics.weights.LogPartition`); and ``likelihood/train_seconds``, the wall time
    of the training batches alone, over all starts of the run: no data loading, no validation, and none of this
    callback's work. Of other callbacks it leaves out those that stand after this one where a batch ends; list it first.

    It draws from streams of its own: with or without it a run has the same weights. Estimates of data of
    different preprocessing must not be compared.

    Args:
        estimator: of log Z.
        every_n_steps: training steps between estimates; null takes the doubling steps first, 2 first, 4 first, ...
        first: the first of the doubling steps.
        number: examples whose log-probabilities are averaged, the first of the split; null takes all.
        split: which split they are of.

    Raises:
        ValueError: where a number is below 1; at the start of training where binary units would have to judge data
            that are not binary.
    """

    def __init__(
        self,
        estimator: PartitionEstimator,
        every_n_steps: int | None = None,
        first: int = 1,
        number: int | None = None,
        split: Split = "test",
    ) -> None:
        if min(1 if every_n_steps is None else every_n_steps, first, 1 if number is None else number) < 1:
            raise ValueError(
                f"LikelihoodMonitor(every_n_steps={every_n_steps}, first={first}, number={number}): expected 1 or more"
            )
        self.estimator, self.every_n_steps, self.first = estimator, every_n_steps, first
        self.number, self.split = number, split
        self.train_seconds = 0.0
        self._begun = 0.0
        self._measured_at = -1

    @property
    def state_key(self) -> str:
        return self._generate_state_key(split=self.split)

    def state_dict(self) -> dict[str, Any]:
        return {"train_seconds": self.train_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train_seconds = state_dict["train_seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, EBM)
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        model = pl_module.model
        with isolated(0), evaluating(model), torch.no_grad():
            some = model.positive_phase(next(iter(data.eval_loader(self.split, device=pl_module.device))))
            refuse_gray(model, some, data.binary, data.preprocessing)
        self._measured_at = trainer.global_step  # a run that continues measured there before it was interrupted
        if trainer.global_step == 0:
            self.measure(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = step != self._measured_at and (self._is_due(step) or step == trainer.max_steps)
        assert isinstance(pl_module, EBM)
        if due:
            pl_module.wait()
        self.train_seconds += time.perf_counter() - self._begun
        if due:
            self.measure(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last step of a run that ends early, as by a limit of time."""
        if trainer.global_step != self._measured_at:
            assert isinstance(pl_module, EBM)
            self.measure(trainer, pl_module)

    def measure(self, trainer: L.Trainer, module: EBM) -> None:
        """Sends one row to the loggers; every rank takes part in the estimate."""
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        step = self._measured_at = trainer.global_step
        with isolated(mix(step, trainer.global_rank)), evaluating(module.model):
            estimate = self.estimator(module.model, data.eval_loader("train", device=module.device))
            energies = free_energies(module.model, data.eval_loader(self.split, device=module.device), self.number)
        row = {
            f"likelihood/{self.split}_log_prob": -float(energies.mean()) - estimate.log_z,
            "likelihood/log_z": estimate.log_z,
            "likelihood/train_seconds": self.train_seconds,
        }
        if estimate.chains:
            row |= {"likelihood/log_w_std": estimate.log_weight_std, "likelihood/ess": estimate.ess}
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.log_metrics(row, step)

    def _is_due(self, step: int) -> bool:
        """Whether the step is a multiple of ``every_n_steps``, or ``first`` times a power of two."""
        if self.every_n_steps is not None:
            return step % self.every_n_steps == 0
        times, rest = divmod(step, self.first)
        return rest == 0 and times > 0 and times & (times - 1) == 0
