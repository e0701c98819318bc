"""The Trainer: Lightning's, with settings for energy-based models and checkpoints of every rank's state."""

import functools
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies import StrategyRegistry

from ebm_lightning.data.base import DataModule
from ebm_lightning.data.text.tokenizers import Tokenizer
from ebm_lightning.generation.samples import asked, fresh_chains, save_samples
from ebm_lightning.generation.text import Manner
from ebm_lightning.generation.writer import generate
from ebm_lightning.planning import Cluster, Plan, arithmetic_of, calibrate, count
from ebm_lightning.runs import checkpoints
from ebm_lightning.training.callbacks.progress import TimedProgressBar
from ebm_lightning.training.callbacks.random_state import TrainingRandomState
from ebm_lightning.training.callbacks.rank_state import RankState
from ebm_lightning.training.module import EBM
from ebm_lightning.training.sharded_strategy import ShardedStrategy
from ebm_lightning.utils.random import isolated

DEFAULTS: dict[str, Any] = {
    "inference_mode": False,  # sampling needs gradients in validation and test too
    "use_distributed_sampler": False,  # the DataModules distribute the batches to the ranks themselves
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,  # runs are counted in steps: validation every val_check_interval steps
    "val_check_interval": 1000,
}
"""The defaults that differ from Lightning's."""

for _share in ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"):
    # typing keeps whichever of Union[int, float] and Union[float, int] it saw first; by the second, 1 is 1.0: all.
    L.Trainer.__init__.__annotations__[_share] = int | float | None

StrategyRegistry.register(
    "sharded", ShardedStrategy, description="DDP with gradients and optimizer state sharded over the ranks."
)


class Trainer(L.Trainer):
    """A Trainer whose checkpoints hold every rank's chains and random streams and are written atomically.

    Takes the arguments of :class:`lightning.pytorch.Trainer`; :data:`DEFAULTS` lists the defaults that differ. The
    length of a run is given in steps, by ``max_steps``.
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
            # A job of one task starts its other ranks itself; Preemption requeues the job, not Lightning.
            made = LightningEnvironment() if alone else SLURMEnvironment(auto_requeue=False)
            settings["plugins"] = [*plugins, made]
        super().__init__(*args, **settings)
        self.strategy.checkpoint_io = checkpoints.RankCheckpointIO()
        self.callbacks.insert(0, TrainingRandomState())  # type: ignore[attr-defined]  # before callbacks that draw

    def save_checkpoint(
        self, filepath: Any, weights_only: bool | None = None, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint: first the side file of each rank, then, when all are complete, rank 0's main file."""
        shard = {c.state_key: c.rank_state_dict() for c in self.callbacks if isinstance(c, RankState)}  # type: ignore[attr-defined]
        if self.is_global_zero:
            checkpoints.remove_stale(filepath, self.world_size)
        checkpoints.save_atomically(shard, checkpoints.side_file(filepath, self.global_rank, self.world_size))
        self.strategy.barrier("Trainer.save_checkpoint: side files")
        super().save_checkpoint(filepath, bool(weights_only), storage_options)

    def sample(
        self, model: EBM, datamodule: DataModule, number: int = 64, steps: int = 500, seed: int = 0
    ) -> list[Path]:
        """Draws fresh chains from noise into ``samples/`` of the run folder: a picture and an .npz.

        The .npz holds every variable of the final states and their energies; labels are dealt in turn. Where
        the sampler predicts from x instead of moving it, x is that of the first test examples.

        Args:
            model: the trained module.
            datamodule: says the shape of a sample and how many classes there are, or holds what is predicted from.
            number: how many samples are drawn, at least 1.
            steps: transitions of each chain, at least 1.
            seed: of the chains' random numbers.

        Returns:
            The files written, the picture first.
        """
        if number < 1 or steps < 1:
            raise ValueError(f"sample(number={number}, steps={steps}): expected both to be at least 1")
        model.to(self.strategy.root_device)
        with isolated(seed):
            state = fresh_chains(model, asked(model, datamodule, number), steps, progress=True)
            return save_samples(
                model, state, Path(self.default_root_dir) / "samples", f"fresh-{steps}-steps-seed-{seed}"
            )

    def generate(
        self,
        model: EBM,
        tokenizer: Tokenizer,
        length: int,
        prompt: str = "",
        tokens: int = 200,
        think: int | None = None,
        candidates: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
        energies: bool = False,
    ) -> list[Path]:
        """Writes text into ``generated/`` of the run folder and, as it comes, to standard output.

        Beside the text there is a .json of the energies of every token by step, and a picture of them.

        Args:
            model: the trained module.
            tokenizer: makes tokens of the prompt, and text of tokens.
            length: tokens that the model sees at most: those of a training example.
            prompt: what the text begins with; empty begins a document, where the tokenizer has an end token.
            tokens: how many are written, at least 1.
            think: steps of the sampler for each token, at least 1; null takes those of training.
            candidates: predictions of each token, at least 1, of which that of the lowest final energy counts.
            temperature: of the draw from softmax(logits / temperature), >= 0; at 0 the most likely token is taken.
            seed: of the random numbers.
            energies: whether to print a line for each token instead of the running text, and the text at the end.

        Returns:
            The files written, the text first.
        """
        model.to(self.strategy.root_device)
        manner = Manner(prompt, tokens, think, candidates, temperature, seed)
        with isolated(seed):
            return generate(model, tokenizer, length, manner, Path(self.default_root_dir) / "generated", energies)

    def plan(
        self,
        model: EBM,
        datamodule: DataModule,
        gpus: int = 1,
        gpu: str = "this",
        gpus_per_node: int = 8,
        network: str = "infiniband-400",
        share: float = 0.35,
    ) -> Plan:
        """Predicts the time, memory and scaling of a training run on a cluster, or by measuring it on this machine.

        The training step is counted on the real model and data, which are changed by it.

        Args:
            model: the module to be trained.
            datamodule: its data.
            gpus: ranks of the run, one for each GPU; what this machine is planned for is 1 and 2 processes.
            gpu: what they are: v100, a100, h100, h200, l40s, rtx4090; or "this" for the machine that plans.
            gpus_per_node: how many are in each node.
            network: what joins the nodes: ethernet-100, infiniband-200, infiniband-400, infiniband-8x200 or
                infiniband-8x400, in Gb/s of each adapter.
            share: of a GPU's peak that its matrix products reach, in (0, 1].

        Raises:
            ValueError: where a name is not known, a number out of range, the run has no ``max_steps``, or its data
                are not there.
        """
        if self.max_steps is None or self.max_steps < 1:
            raise ValueError("runs are counted in steps: set trainer.max_steps")
        here = gpu == "this"
        if here and gpus not in (1, 2):
            raise ValueError(
                f"this machine is planned for 1 and 2 processes, not for {gpus} GPUs: say which, as in --gpu h100"
            )
        cluster = None if here else Cluster(gpu, gpus, gpus_per_node, network, arithmetic_of(self.precision), share)
        self.precision_plugin.convert_module(model.to(self.strategy.root_device))
        in_precision = self.precision_plugin.train_step_context
        try:
            datamodule.prepare_data()
            datamodule.eval_loader("train")
        except ValueError as fault:
            raise ValueError(
                f"{fault}; any data of this shape do for a plan, as in `ebm plan ... -- --data ...`"
            ) from fault
        model.prepare(datamodule)
        step = count(model, datamodule, self.accumulate_grad_batches, in_precision)
        if cluster is None:
            return calibrate(model, datamodule, step, self.max_steps, in_precision)
        return cluster.plan(step, self.max_steps)
