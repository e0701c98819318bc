"""The plan of a configured run: its training step is counted with the run's trainer, for a cluster or this machine."""

import lightning.pytorch as L

from ebm_lightning.data.base import DataModule
from ebm_lightning.planning import Cluster, Plan, arithmetic_of, calibrate, comparison, count, measure
from ebm_lightning.runs.dependencies import resolve_upstream
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import Config
from ebm_lightning.training.module import EBM


def cluster_of(
    trainer: L.Trainer,
    gpu: str,
    gpus: int,
    gpus_per_node: int = 8,
    network: str = "infiniband-400",
    share: float = 0.35,
) -> Cluster | None:
    """The cluster of a plan; None if ``gpu`` is "this", for this machine.

    Raises ValueError if a name is unknown or a number out of range, or if the run has no ``max_steps``.
    """
    if trainer.max_steps is None or trainer.max_steps < 1:
        raise ValueError("runs are counted in steps: set trainer.max_steps")
    if gpu != "this":
        return Cluster(gpu, gpus, gpus_per_node, network, arithmetic_of(trainer.precision), share)
    if gpus not in (1, 2):
        raise ValueError(
            f"this machine is planned for 1 and 2 processes, not for {gpus} GPUs: give their model, as in --gpu h100"
        )
    return None


def plan_run(trainer: L.Trainer, model: EBM, datamodule: DataModule, cluster: Cluster | None = None) -> Plan:
    """The plan of a training run, whose step is counted on the real model and data; both are changed.

    Args:
        trainer: for one rank; its ``max_steps``, precision and accumulation are those of the run.
        model: the module to train.
        datamodule: its data.
        cluster: the cluster of the run; None measures the step on this machine.

    Raises:
        ValueError: if the data are missing.
    """
    trainer.precision_plugin.convert_module(model.to(trainer.strategy.root_device))
    in_precision = trainer.precision_plugin.train_step_context
    try:
        datamodule.prepare_data()
        datamodule.eval_loader("train")
    except ValueError as fault:
        raise ValueError(
            f"{fault}; a plan may use any data of this shape, as in `ebm plan ... -- --data ...`"
        ) from fault
    model.prepare(datamodule)
    step = count(model, datamodule, trainer.accumulate_grad_batches, in_precision)
    if cluster is None:
        return calibrate(model, datamodule, step, trainer.max_steps, in_precision)
    return cluster.plan(step, trainer.max_steps)


def comparison_here(plan: Plan, config: Config, folder: RunFolder, processes: int) -> list[str]:
    """A table of predicted and measured steps on this machine, for up to n processes.

    Args:
        plan: of this machine.
        config: the resolved configuration of the run; the names of upstream runs are replaced in it.
        folder: of the run.
        processes: n, 1 or 2.
    """
    resolve_upstream(config["model"], folder, config["seed_everything"])
    rows = [row for row in plan.rows if row.ranks <= processes]
    return comparison(plan, {row.ranks: measure(config, row.ranks, row.slowest) for row in rows})
