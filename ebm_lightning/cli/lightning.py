"""What the commands of `ebm` do: configuration by LightningCLI, one folder per run, continuation without a flag."""

import logging
import os
import sys
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning.pytorch as L
import torch
import yaml
from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

# What is imported can be named in YAML without its path.
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
from ebm_lightning.cli.errors import Parser, explain
from ebm_lightning.data import DataModule, TextModule
from ebm_lightning.evaluation import Protocol
from ebm_lightning.evaluation.monitors.samples import SamplePictures
from ebm_lightning.evaluation.protocol import named
from ebm_lightning.planning import comparison, measure
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.dependencies import check_data_below, name_runs_below, runs_below
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import default_folder
from ebm_lightning.runs.loggers import RunLogger, RunWandbLogger
from ebm_lightning.runs.provenance import command_line
from ebm_lightning.training import trainer
from ebm_lightning.training.callbacks.checkpoint import RunCheckpoint
from ebm_lightning.training.callbacks.guard import Diverged, DivergenceGuard
from ebm_lightning.training.callbacks.preemption import Preemption
from ebm_lightning.training.callbacks.random_state import TrainingRandomState
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.fused_ops import matmul_error
from ebm_lightning.utils.malloc import keep_freed_memory

Kind = TypeVar("Kind", bound=L.Callback)


def main(arguments: list[str]) -> None:
    """Parses the arguments of one command and runs it."""
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    os.environ.setdefault("WANDB_SILENT", "true")
    sys.argv[1:] = arguments  # where Lightning looks for them, and what it starts further processes with
    try:
        ExperimentCLI(
            EBM,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=trainer.Trainer,
            trainer_defaults=trainer.DEFAULTS,
            parser_class=Parser,
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except MisconfigurationException as fault:
        raise ValueError(f"the trainer cannot be made as configured: {fault}") from fault
    except ValueError as fault:
        if "Does not validate against" not in str(fault):
            raise
        raise ValueError(explain(str(fault), [])) from fault


class ExperimentCLI(LightningCLI):
    """LightningCLI in which a run is a folder and `fit` continues whatever that folder holds."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        loaders = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
        skipped = loaders | {"ckpt_path", "weights_only", "verbose"}
        told = {"tokenizer", "length", "energies"}  # by the data of the run, and by a flag of its own
        every = {"fit": skipped, "validate": skipped, "test": skipped, "sample": loaders, "generate": loaders | told}
        every["plan"] = loaders
        return {sys.argv[1]: every[sys.argv[1]]}  # a parser takes a second to build: only the one that is needed

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument(
            "--run", type=str | None, default=None, help="The run folder; null names it by the configuration."
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
            "--evaluation", type=list[Protocol], default=[], help="What `ebm test` measures, one protocol each."
        )
        if sys.argv[1] == "test":
            parser.add_argument(
                "--protocols",
                type=str | None,
                default=None,
                help="Only these protocols of the run, by class or file and separated by commas: ood,calibration.",
            )
        if sys.argv[1] == "generate":
            parser.add_argument(
                "--energies", action="store_true", help="Print, for each token, its energies by step and the gap."
            )
        if sys.argv[1] == "plan":
            parser.add_argument(
                "--measure",
                type=Literal[1, 2] | None,
                default=None,
                help="Train for some seconds with one process, and with two, and compare with what was predicted.",
            )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(DivergenceGuard, "guard")
        parser.add_lightning_class_args(SamplePictures, "samples")

    def before_instantiate_classes(self) -> None:
        """Finds the folder of this run; `fit` claims it for its configuration."""
        # Lightning's own dump would check once more what was parsed a moment ago: a fifth of a command's start.
        whole = {"skip_unset": False, "skip_link_targets": False}
        resolved = self.parser.dump(self.config, format="yaml", skip_validation=True, **whole)
        config = self.config_dump = yaml.safe_load(resolved)[self.subcommand]
        if config["threads"] is not None:
            torch.set_num_threads(config["threads"])
        if config["matmul_precision"] is not None:
            torch.set_float32_matmul_precision(config["matmul_precision"])
        files = [str(path) for path in self._get(self.config, "config") or []]
        self.folder = RunFolder(config["run"] or default_folder(config, files))
        inner = self._get(self.config, "model")
        name_runs_below(inner, self.folder, config["seed_everything"])
        check_data_below(config, [RunFolder(arguments["run"]) for arguments in runs_below(inner)])
        if self.subcommand == "fit" and _is_first_rank():
            self.folder.claim({key: value for key, value in config.items() if key != "run"}, command_line())
            if config["matmul_precision"] is not None:
                self.folder.event("matmul", precision=config["matmul_precision"], relative_error=matmul_error())

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        logger = self._loggers() if self.subcommand == "fit" else False
        if self.subcommand == "plan":  # a rank of the run, on whatever this machine has
            asked = self._get(self.config_init, "trainer")["accelerator"]
            kwargs |= {"accelerator": "cpu" if asked == "cpu" else "auto", "devices": 1, "num_nodes": 1}
            kwargs |= {"strategy": "auto"}
        made = super().instantiate_trainer(logger=logger, default_root_dir=str(self.folder.path), **kwargs)
        if self.subcommand == "fit":
            made.callbacks.insert(0, Preemption())  # type: ignore[attr-defined]  # before the one that saves
        if self.subcommand == "test":
            every = self._get(self.config_init, "evaluation")
            made.callbacks.extend(named(every, self._get(self.config_init, "protocols")))  # type: ignore[attr-defined]
        return made

    def fit(self, model: EBM, datamodule: L.LightningDataModule) -> None:
        """Trains to ``max_steps`` from the newest whole checkpoint, going back where the guard asks for it."""
        with self.folder.lock() if _is_first_rank() else nullcontext():
            while True:
                start = self._checkpoint(self._rolled_back)
                if start is not None and self._is_complete(start):
                    break
                try:
                    self.trainer.fit(self.model, self.datamodule, ckpt_path=start)
                    break
                except Diverged as fault:
                    self._go_back(fault)
            signal = self._callback(Preemption).came
            if _is_first_rank() and signal is None:
                self._conclude()
        if signal is not None:
            print(f"stopped by {signal} at step {self.trainer.global_step}: the same command goes on", file=sys.stderr)
            raise SystemExit(os.EX_TEMPFAIL)

    def validate(self, model: EBM, datamodule: L.LightningDataModule) -> None:
        """Energies of the validation data."""
        self.trainer.validate(model, datamodule, ckpt_path=self._trained())

    def test(self, model: EBM, datamodule: L.LightningDataModule) -> None:
        """The evaluation protocols of the run on the test data."""
        self.trainer.test(model, datamodule, ckpt_path=self._trained(), verbose=False)

    def sample(self, model: EBM, datamodule: L.LightningDataModule, number: int, steps: int, seed: int) -> None:
        """Fresh samples of the trained run."""
        self._load_weights(self._trained())
        print("\n".join(str(file) for file in self._draw(number, steps, seed)))

    def generate(
        self,
        model: EBM,
        datamodule: L.LightningDataModule,
        prompt: str,
        tokens: int,
        think: int | None,
        candidates: int,
        temperature: float,
        seed: int,
    ) -> None:
        """Text of the trained run; of its data only the tokenizer is needed, whose vocabulary is in the checkpoint."""
        if not isinstance(datamodule, TextModule):
            raise ValueError(
                f"`ebm generate` writes text, but the data of this run are {type(datamodule).__name__}: give a run "
                "that was trained on Text or TextStream"
            )
        known = self._load_weights(self._trained()).get(type(datamodule).__qualname__)
        if known is None:
            raise ValueError(f"the checkpoint of {self.folder.path} remembers no vocabulary: train the run on text")
        assert isinstance(self.trainer, trainer.Trainer)
        files = self.trainer.generate(
            model,
            datamodule.recalled(known),
            datamodule.length,
            prompt,
            tokens,
            think,
            candidates,
            temperature,
            seed,
            self._get(self.config_init, "energies"),
        )
        print("\n".join(str(file) for file in files), file=sys.stderr)

    def plan(
        self,
        model: EBM,
        datamodule: L.LightningDataModule,
        gpus: int,
        gpu: str,
        gpus_per_node: int,
        network: str,
        share: float,
    ) -> None:
        """What the run would take, and with ``--measure`` what it takes here."""
        assert isinstance(self.trainer, trainer.Trainer)
        assert isinstance(datamodule, DataModule)
        processes = self._get(self.config_init, "measure")
        if processes and gpu != "this":
            raise ValueError(f"--measure compares with this machine, not with {gpu}: leave out --gpu")
        plan = self.trainer.plan(model, datamodule, gpus, gpu, gpus_per_node, network, share)
        print("\n".join(plan.lines()))
        if processes:
            own = {"gpus", "gpu", "gpus_per_node", "network", "share", "measure"}
            config = {key: value for key, value in self.config_dump.items() if key not in own}
            name_runs_below(config["model"], self.folder, config["seed_everything"])
            rows = [row for row in plan.rows if row.ranks <= processes]
            found = {row.ranks: measure(config, row.ranks, row.slowest) for row in rows}
            print("\n" + "\n".join(comparison(plan, found)))

    def _draw(self, number: int, steps: int, seed: int) -> list[Path]:
        assert isinstance(self.trainer, trainer.Trainer)
        return self.trainer.sample(self.model, self.datamodule, number, steps, seed)

    def _callback(self, kind: type[Kind]) -> Kind:
        """The callback of a kind that every run has."""
        return next(c for c in self.trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]

    _rolled_back = 0

    def _go_back(self, fault: Diverged) -> None:
        """Everything anew, to start from an earlier checkpoint with another random stream; or the fault itself."""
        guard = self._callback(DivergenceGuard)
        if guard.rolled_back >= guard.rollbacks:
            raise fault
        self._rolled_back = guard.rolled_back + 1
        if _is_first_rank():
            self.folder.event("rollback", number=self._rolled_back, reason=str(fault))
            print(f"rollback {self._rolled_back} of {guard.rollbacks}: {fault}", file=sys.stderr)
        self._set_seed()
        self.instantiate_classes()
        self._callback(DivergenceGuard).rolled_back = self._rolled_back
        self._callback(TrainingRandomState).reseed(self._rolled_back)

    def _checkpoint(self, back: int = 0) -> Path | None:
        """The newest whole checkpoint, or for ``back`` > 1 an earlier one; None where there is none."""
        found = list(islice(checkpoints.valid_checkpoints(self.folder.checkpoints()), max(back, 1)))
        return found[-1] if found else None

    def _is_complete(self, start: Path) -> bool:
        """Whether the run has taken all its steps; its weights are loaded then."""
        step = checkpoints.step_of(start)
        if step < self.trainer.max_steps:
            return False
        print(f"this run is complete: {step} of {self.trainer.max_steps} steps are done")
        self._load_weights(start)
        return True

    def _load_weights(self, path: Path) -> dict[str, Any]:
        """Fills the model from a checkpoint, and gives back what else is in it."""
        checkpoint = checkpoints.load(path, "cpu")
        checkpoints.check_weights(self.model, checkpoint["state_dict"])
        self.model.load_state_dict(checkpoint["state_dict"])
        return checkpoint

    def _trained(self) -> Path:
        path = self._checkpoint()
        if path is None:
            raise ValueError(f"the run {self.folder.path} has no whole checkpoint: train it first with `ebm fit`")
        return path

    def _conclude(self) -> None:
        """Draws the final samples and says where everything is."""
        self.folder.event("end", step=self.trainer.global_step)
        rows = {"run": self.folder.path, "metrics": self.folder.path / "metrics.csv"}
        if self.model.sampler is not None:
            pictures = self._callback(SamplePictures)
            rows["samples"] = self._draw(pictures.num_chains, pictures.steps, seed=0)[0]
        print("\n" + "\n".join(f"{name:8} {path}" for name, path in rows.items()))

    def _loggers(self) -> list[Logger]:
        mode = os.environ.get("WANDB_MODE", "offline")
        loggers: list[Logger] = [RunLogger(str(self.folder.path))]
        if mode != "disabled" and _is_first_rank():
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


def _is_first_rank() -> bool:
    return bool(getattr(rank_zero_only, "rank", 0) == 0)
