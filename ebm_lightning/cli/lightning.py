"""Common parts of the commands: configuration by LightningCLI, one folder for each run, continuation by default."""

import inspect
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import docstring_parser
import lightning.pytorch as L
import torch
import yaml
from jsonargparse import SUPPRESS
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

# Classes in imported modules can be given in YAML without their paths.
import ebm_lightning.chains
import ebm_lightning.data
import ebm_lightning.distributions
import ebm_lightning.energies
import ebm_lightning.evaluation.monitors
import ebm_lightning.objectives
import ebm_lightning.runs.load_model
import ebm_lightning.samplers
import ebm_lightning.training.callbacks.exchange
import ebm_lightning.training.schedules  # noqa: F401
from ebm_lightning.cli.errors import Parser
from ebm_lightning.cli.trainer import CLITrainer
from ebm_lightning.evaluation import Protocol
from ebm_lightning.evaluation.monitors.samples import SamplePictures
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.dependencies import check_upstream_data, resolve_upstream, upstream_runs
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import Config, default_folder
from ebm_lightning.runs.loggers import RunLogger, RunWandbLogger
from ebm_lightning.training.callbacks.checkpoint import RunCheckpoint
from ebm_lightning.training.callbacks.guard import DivergenceGuard
from ebm_lightning.training.callbacks.preemption import Preemption
from ebm_lightning.training.module import EBM
from ebm_lightning.training.trainer import DEFAULTS
from ebm_lightning.utils.fused_ops import matmul_error

Kind = TypeVar("Kind", bound=L.Callback)


class ExperimentCLI(LightningCLI):
    """LightningCLI for one command, with one folder for each run.

    Args:
        command: a function of this object and of the command's own options, which its signature and docstring define.
        words: the arguments after the command's name.
    """

    SOURCE = "RUN"
    """The first argument in the usage of the command."""

    def __init__(self, command: Callable[..., None], words: list[str]) -> None:
        self.command, self.words = command, words
        super().__init__(
            EBM,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=CLITrainer,
            trainer_defaults=DEFAULTS,
            parser_class=Parser,
            parser_kwargs={
                "usage": f"ebm {command.__name__} {self.SOURCE} [--key value ...]",
                "description": _documented(command).short_description,
            },
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            run=False,
            args=words,
        )

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parse the arguments of the command, without Lightning's warning about arguments in ``sys.argv``."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument(
            "--run",
            type=str | None,
            default=None,
            help="The run folder; null takes one with a hash of the configuration.",
        )
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads of each rank; null leaves torch's choice.",
        )
        parser.add_argument(
            "--matmul_precision",
            type=Literal["highest", "high", "medium"] | None,
            default=None,
            help="torch's float32_matmul_precision; medium is faster on many CPUs. Null leaves torch's choice.",
        )
        parser.add_argument(
            "--evaluation", type=list[Protocol], default=[], help="The evaluation protocols that `ebm test` runs."
        )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(DivergenceGuard, "guard")
        parser.add_lightning_class_args(SamplePictures, "samples")
        self._add_own_options(parser)

    def _add_own_options(self, parser: Any) -> None:
        """Add the command's own options; a bool becomes a flag."""
        own = list(inspect.signature(self.command).parameters.values())[1:]
        flags = [one.name for one in own if one.annotation is bool]
        parser.add_function_arguments(self.command, as_group=False, skip={"cli", *flags})
        texts = {one.arg_name: one.description for one in _documented(self.command).params}
        for name in flags:
            parser.add_argument(f"--{name}", action="store_true", help=texts[name])
        self._own = [one.name for one in own]

    @property
    def options(self) -> dict[str, Any]:
        """The command's own options, by name."""
        return {name: self.config_init[name] for name in self._own if name in self.config_init}

    def get(self, key: str) -> Any:
        """A value of the configuration, as an instance if it is a class."""
        return self.config_init[key]

    def before_instantiate_classes(self) -> None:
        """Resolve the configuration, and determine the folder of this run."""
        # Validation in the dump would repeat that of parsing: a fifth of a command's start.
        complete = {"skip_unset": False, "skip_link_targets": False}
        resolved = yaml.safe_load(self.parser.dump(self.config, format="yaml", skip_validation=True, **complete))
        config: Config = {key: value for key, value in resolved.items() if key not in self._own}
        self.config_dump = config
        if config["threads"] is not None:
            torch.set_num_threads(config["threads"])
        if config["matmul_precision"] is not None:
            torch.set_float32_matmul_precision(config["matmul_precision"])
        files = [str(path) for path in self.config.get("config") or []]
        self.folder = RunFolder(config["run"] or default_folder(config, files))
        inner = self.config["model"]
        resolve_upstream(inner, self.folder, config["seed_everything"])
        check_upstream_data(config, [RunFolder(arguments["run"]) for arguments in upstream_runs(inner)])

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        return super().instantiate_trainer(**{"logger": False, "default_root_dir": str(self.folder.path), **kwargs})

    def callback(self, kind: type[Kind]) -> Kind:
        """The callback of a class; every run has one."""
        return next(c for c in self.trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]

    def checkpoint(self, back: int = 0) -> Path | None:
        """The newest valid checkpoint, or for ``back`` > 1 an earlier one; None if there is none."""
        found = list(islice(checkpoints.valid_checkpoints(self.folder.checkpoints()), max(back, 1)))
        return found[-1] if found else None

    def trained(self) -> Path:
        """The newest valid checkpoint. Raises ValueError if there is none."""
        path = self.checkpoint()
        if path is None:
            raise ValueError(f"the run {self.folder.path} has no valid checkpoint: train it first with `ebm fit`")
        return path

    def load_weights(self, path: Path) -> dict[str, Any]:
        """Load the model's weights from a checkpoint, and return the checkpoint."""
        checkpoint = checkpoints.load(path, "cpu")
        checkpoints.check_weights(self.model, checkpoint["state_dict"])
        self.model.load_state_dict(checkpoint["state_dict"])
        return checkpoint


class TrainingCLI(ExperimentCLI):
    """The command line of `ebm fit`, with the lock of the run folder, loggers, and the callback of preemption."""

    SOURCE = "-c CONFIG.yaml"

    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"result": SUPPRESS})  # a file of this process, which is not part of the configuration

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        if is_first_rank():
            config = self.config_dump
            command = ["ebm", self.command.__name__, *self.words]
            self.folder.acquire({key: value for key, value in config.items() if key != "run"}, command)
            if config["matmul_precision"] is not None:
                self.folder.event("matmul", precision=config["matmul_precision"], relative_error=matmul_error())

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer = super().instantiate_trainer(logger=self._loggers(), **kwargs)
        trainer.callbacks.insert(0, Preemption())  # type: ignore[attr-defined]  # before the one that saves
        return trainer

    def _loggers(self) -> list[Logger]:
        mode = os.environ.get("WANDB_MODE", "offline")
        loggers: list[Logger] = [RunLogger(str(self.folder.path))]
        if mode != "disabled" and is_first_rank():
            wandb_logger = RunWandbLogger(
                project="ebm_lightning",
                name=self.folder.path.name,
                group=self.folder.experiment,
                id=self.folder.id,
                save_dir=self.folder.path,
                offline=mode != "online",
                job_type="train",
                tags=[type(part).__name__ for part in (self.model.model, self.model.objective, self.datamodule)],
                config=self.config_dump,
            )
            loggers.append(wandb_logger)
        return loggers


class PlanningCLI(ExperimentCLI):
    """The command line of `ebm plan`: the trainer has one rank of the run, on the hardware of this machine."""

    SOURCE = "CONFIG.yaml"

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        chosen = self.config_init["trainer"]["accelerator"]
        here = {"accelerator": "cpu" if chosen == "cpu" else "auto", "devices": 1, "num_nodes": 1, "strategy": "auto"}
        return super().instantiate_trainer(**here, **kwargs)


def is_first_rank() -> bool:
    """Whether this process is rank 0."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def _documented(command: Callable[..., None]) -> docstring_parser.Docstring:
    return docstring_parser.parse(command.__doc__ or "")
