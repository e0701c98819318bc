"""Lightning's Trainer with the settings that energy-based models need, and checkpoints of every rank's state."""

import functools
import os
from typing import Any

import lightning.pytorch as L
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies import StrategyRegistry

from ebm_lightning.runs import checkpoints
from ebm_lightning.training.callbacks.progress import TimedProgressBar
from ebm_lightning.training.callbacks.random_state import TrainingRandomState
from ebm_lightning.training.callbacks.rank_state import RankState
from ebm_lightning.training.sharded_strategy import ShardedStrategy

DEFAULTS: dict[str, Any] = {
    "inference_mode": False,  # sampling needs gradients in validation and test too
    "use_distributed_sampler": False,  # the DataModules distribute the batches over the ranks themselves
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,  # runs are counted in steps: validation every val_check_interval steps
    "val_check_interval": 1000,
}
"""What differs from Lightning's own defaults."""

StrategyRegistry.register(
    "sharded", ShardedStrategy, description="DDP that shares out gradients and the optimizer's memory."
)


class Trainer(L.Trainer):
    """A Trainer whose checkpoints hold every rank's chains and random streams, written whole or not at all.

    Takes the arguments of :class:`lightning.pytorch.Trainer`; :data:`DEFAULTS` says which defaults differ. Runs are
    counted in steps: give ``max_steps``.
    """

    @functools.wraps(L.Trainer.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {**DEFAULTS, **kwargs}
        if settings.get("enable_progress_bar") is not False:
            given = settings.get("callbacks") or []
            given = given if isinstance(given, list) else [given]
            if not any(isinstance(callback, ProgressBar) for callback in given):
                settings["callbacks"] = [*given, TimedProgressBar()]
        plugins = settings.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        if SLURMEnvironment.detect() and not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
            alone = os.environ["SLURM_NTASKS"] == "1" and settings.get("devices", 1) != 1
            # A job of one task starts its other ranks itself; what Lightning would requeue, Preemption does.
            made = LightningEnvironment() if alone else SLURMEnvironment(auto_requeue=False)
            settings["plugins"] = [*plugins, made]
        super().__init__(*args, **settings)
        self.strategy.checkpoint_io = checkpoints.RankCheckpointIO()
        self.callbacks.insert(0, TrainingRandomState())  # type: ignore[attr-defined]  # before any callback that draws

    def save_checkpoint(
        self, filepath: Any, weights_only: bool | None = None, storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint: first the file of each rank, then, when all are there, rank 0's main file."""
        rank_state = {c.state_key: c.rank_state_dict() for c in self.callbacks if isinstance(c, RankState)}  # type: ignore[attr-defined]
        if self.is_global_zero:
            checkpoints.remove_stale(filepath, self.world_size)
        checkpoints.save_atomically(rank_state, checkpoints.rank_file(filepath, self.global_rank, self.world_size))
        self.strategy.barrier("Trainer.save_checkpoint: rank files")
        super().save_checkpoint(filepath, bool(weights_only), storage_options)
