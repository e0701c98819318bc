"""Log-probabilities while a model trains, against the wall time of training."""

import time
from typing import Any

import lightning.pytorch as L
import torch

from ebm_lightning.core import evaluating
from ebm_lightning.data.base import DataModule, Split
from ebm_lightning.evaluation.metrics.binary import require_binary_data
from ebm_lightning.evaluation.metrics.partition import PartitionEstimator, free_energies
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.random import isolated, mix


class LikelihoodMonitor(L.Callback):
    """Logs log Z and the mean log-probability of an example, in nats, at step 0, at regular steps and at the last one.

    Logged are ``likelihood/<split>_log_prob`` and ``likelihood/log_z``; of estimates their diagnostics
    ``likelihood/log_w_std`` and ``likelihood/ess`` (:class:`~ebm_lightning.evaluation.metrics.weights.LogPartition`);
    and ``likelihood/train_seconds``, the wall time of the training batches, over all starts of the run, without data
    loading, validation and this callback. The time of callbacks that come after this one at the end of a batch is left
    out: list this callback first.

    Its random numbers are isolated: a run has the same weights with and without it. Estimates of data of
    different preprocessing must not be compared.

    Args:
        estimator: of log Z.
        every_n_steps: training steps between estimates; null estimates at doubling steps: first, 2 first, 4 first, ...
        first: the first of the doubling steps.
        num_examples: examples whose log-probabilities are averaged, the first of the split; null takes all.
        split: of these examples.

    Raises:
        ValueError: if a number is below 1; at the start of training, if data of binary units are not binary.
    """

    def __init__(
        self,
        estimator: PartitionEstimator,
        every_n_steps: int | None = None,
        first: int = 1,
        num_examples: int | None = None,
        split: Split = "test",
    ) -> None:
        if min(1 if every_n_steps is None else every_n_steps, first, 1 if num_examples is None else num_examples) < 1:
            raise ValueError(
                f"LikelihoodMonitor(every_n_steps={every_n_steps}, first={first}, num_examples={num_examples}): "
                "expected 1 or more"
            )
        self.estimator, self.every_n_steps, self.first = estimator, every_n_steps, first
        self.num_examples, self.split = num_examples, split
        self.train_seconds = 0.0
        self._batch_started_at = 0.0
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
            batch = model.positive_phase(next(iter(data.eval_loader(self.split, device=pl_module.device))))
            require_binary_data(model, batch, data.binary, data.preprocessing)
        self._measured_at = trainer.global_step  # a continued run measured there before its interruption
        if trainer.global_step == 0:
            self.measure(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch_started_at = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = step != self._measured_at and (self._is_due(step) or step == trainer.max_steps)
        assert isinstance(pl_module, EBM)
        if due:
            pl_module.wait()
        self.train_seconds += time.perf_counter() - self._batch_started_at
        if due:
            self.measure(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the last step of a run that ends early, such as by a time limit."""
        if trainer.global_step != self._measured_at:
            assert isinstance(pl_module, EBM)
            self.measure(trainer, pl_module)

    def measure(self, trainer: L.Trainer, module: EBM) -> None:
        """Log one row; every rank takes part in the estimate."""
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        step = self._measured_at = trainer.global_step
        with isolated(mix(step, trainer.global_rank)), evaluating(module.model):
            estimate = self.estimator(module.model, data.eval_loader("train", device=module.device))
            energies = free_energies(
                module.model, data.eval_loader(self.split, device=module.device), self.num_examples
            )
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
