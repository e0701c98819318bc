"""The time of a training step of `ebm fit`, and of the same module in a bare loop."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

import ebm_lightning.cli.lightning  # noqa: F401  (classes that it imports need no path in YAML)
from ebm_lightning import EBM
from ebm_lightning.data.base import DataModule
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.utils.malloc import keep_freed_memory

Config = dict[str, Any]


def fit_ms(config: Path, options: dict[str, object], more: tuple[str, ...] = ()) -> tuple[float, Config]:
    """Milliseconds per step of `ebm fit -c config` with these options, and its complete configuration.

    The time is the median of the logging intervals without the first, and includes data, logging and Lightning.
    Validation, samples and checkpoints are off until the end. ``more`` are arguments without a value.
    Raises ValueError with the last line of the output if the command fails.
    """
    quiet = {"--trainer.limit_val_batches": 0, "--checkpoint.every_n_steps": 10**6, "--samples.every_n_steps": 0}
    few = {"--samples.num_chains": 1, "--samples.steps": 1}
    with tempfile.TemporaryDirectory() as folder:
        given = {**quiet, **few, **options, "--run": f"{folder}/run"}
        command = [sys.executable, "-m", "ebm_lightning", "fit", "-c", str(config), *more]
        command += [str(part) for option in given.items() for part in option]
        environment = {**os.environ, "WANDB_MODE": "disabled"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise ValueError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
        run = RunFolder(f"{folder}/run")
        rows = [(when, step) for step, when in run.times().items()]
        each = [(b - a) / (n - m) for (a, m), (b, n) in pairwise(rows[1:])]
        return 1e3 * statistics.median(each), run.config()


def instantiate(config: Config) -> tuple[EBM, DataModule]:
    """The module and the data of a configuration."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EBM, "model")
    parser.add_subclass_arguments(DataModule, "data")
    found = parser.instantiate(parser.parse_object({name: config[name] for name in ("model", "data")}))
    return found.model, found.data


def bare_steps(config: Config) -> Iterator[int]:
    """Train the module of a configuration in a loop without Lightning and logging; yields the step, from 1."""
    keep_freed_memory()
    torch.set_num_threads(config["threads"])
    torch.set_float32_matmul_precision(config.get("matmul_precision") or "highest")
    torch.manual_seed(config["seed_everything"])
    module, data = instantiate(config)
    configured = module.configure_optimizers()
    plain = isinstance(configured, torch.optim.Optimizer)
    optimizer = configured if plain else configured["optimizer"]
    scheduler = None if plain else configured["lr_scheduler"]["scheduler"]
    for number, batch in enumerate(data.train_stream(config["trainer"]["max_steps"]), 1):
        loss = module.training_step(batch, number - 1)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        yield number


def bare_ms(config: Config) -> float:
    """Milliseconds per step of :func:`bare_steps`: the median of blocks of a logging interval, without the first."""
    every = config["trainer"]["log_every_n_steps"]
    marks = [time.perf_counter() for number in bare_steps(config) if number % every == 0]
    return 1e3 * statistics.median(b - a for a, b in pairwise(marks)) / every
