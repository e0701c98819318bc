"""The commands that take a configuration, as functions: their signatures and docstrings define options and help."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException

from ebm_lightning.cli.errors import format_parser_error
from ebm_lightning.cli.lightning import ExperimentCLI, PlanningCLI, TrainingCLI, is_first_rank
from ebm_lightning.cli.planning import cluster_of, comparison_here, plan_run
from ebm_lightning.data import TextModule
from ebm_lightning.evaluation.monitors.samples import SamplePictures
from ebm_lightning.evaluation.protocol import select_protocols
from ebm_lightning.generation.samples import draw_samples
from ebm_lightning.generation.text import GenerationConfig
from ebm_lightning.generation.writer import generate as generate_text
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.records import FitResult
from ebm_lightning.training.callbacks.guard import DivergenceError, DivergenceGuard
from ebm_lightning.training.callbacks.preemption import Preemption
from ebm_lightning.training.callbacks.random_state import TrainingRandomState
from ebm_lightning.utils.malloc import keep_freed_memory
from ebm_lightning.utils.random import isolated


def run(name: str, words: list[str]) -> None:
    """Parse the arguments of one command and run it."""
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    os.environ.setdefault("WANDB_SILENT", "true")
    make, command = COMMANDS[name]
    try:
        cli = make(command, words)
        command(cli, **cli.options)
    except MisconfigurationException as fault:
        raise ValueError(f"the trainer cannot be created as configured: {fault}") from fault
    except ValueError as fault:
        if "Does not validate against" not in str(fault):
            raise
        raise ValueError(format_parser_error(str(fault), [], fault)) from fault


def fit(cli: TrainingCLI, result: str | None = None) -> None:
    """Train to max_steps from the newest valid checkpoint; the same command continues an interrupted run.

    Args:
        cli: the parsed command line.
        result: Write the run folder and the step reached to this file as JSON.
    """
    if result and not Path(result).absolute().parent.is_dir():
        raise ValueError(f"--result {result}: there is no folder {Path(result).parent}: create it first")
    with cli.folder.lock() if is_first_rank() else nullcontext():
        step = _train(cli)
        stopped_by = cli.callback(Preemption).stopped_by
        if is_first_rank() and stopped_by is None:
            _conclude(cli, step)
    if is_first_rank() and result:
        FitResult(cli.folder.path, step).save(Path(result))
    if stopped_by is not None:
        print(f"stopped by {stopped_by} at step {step}: the same command continues", file=sys.stderr)
        raise SystemExit(os.EX_TEMPFAIL)


def validate(cli: ExperimentCLI) -> None:
    """Measure the energies of the validation data under a trained run.

    Args:
        cli: the parsed command line.
    """
    cli.trainer.validate(cli.model, cli.datamodule, ckpt_path=cli.trained())


def test(cli: ExperimentCLI, protocols: str | None = None) -> None:  # noqa: PT028  (a command, not a test)
    """Run the evaluation protocols of a trained run on the test data.

    Args:
        cli: the parsed command line.
        protocols: Run these protocols only, given by class or file name and separated by commas: ood,calibration.
    """
    cli.trainer.callbacks.extend(select_protocols(cli.get("evaluation"), protocols))  # type: ignore[attr-defined]
    cli.trainer.test(cli.model, cli.datamodule, ckpt_path=cli.trained(), verbose=False)


def sample(cli: ExperimentCLI, num_samples: int = 64, steps: int = 500, seed: int = 0) -> None:
    """Draw samples by new chains from noise, and save them in samples/ of the run folder as a picture and an .npz.

    The .npz has every variable of the final states and their energies; the labels of chains go through all classes in
    turn. If the sampler does not move x but predicts from it, x is that of the first test examples.

    Args:
        cli: the parsed command line.
        num_samples: Number of samples, at least 1.
        steps: Transitions of each chain, at least 1.
        seed: Seed of the chains' random numbers.
    """
    cli.load_weights(cli.trained())
    print("\n".join(map(str, _draw(cli, num_samples, steps, seed))))


def generate(
    cli: ExperimentCLI,
    prompt: str = "",
    tokens: int = 200,
    think: int | None = None,
    candidates: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    energies: bool = False,
) -> None:
    """Generate text, and write it to generated/ of the run folder and, token by token, to standard output.

    The energies of every token by step are written as .json and as a picture. Of the run's data only the tokenizer is
    needed, whose vocabulary is in the checkpoint.

    Args:
        cli: the parsed command line.
        prompt: The beginning of the text; if it is empty, generation starts with the tokenizer's end token.
        tokens: Number of tokens to generate, at least 1.
        think: Steps of the sampler for each token, at least 1; null takes the number of training.
        candidates: Predictions of each token, at least 1; the one with the lowest final energy is used.
        temperature: Temperature of the draw from softmax(logits / temperature), >= 0; 0 takes the most likely token.
        seed: Seed of the random numbers.
        energies: Print, for each token, its energies by step and the gap.
    """
    data, model = cli.datamodule, cli.model
    if not isinstance(data, TextModule):
        raise ValueError(
            f"`ebm generate` needs a model of text, but the data of this run are {type(data).__name__}: give a run "
            "trained on Text or TextStream"
        )
    known = cli.load_weights(cli.trained()).get(type(data).__qualname__)
    if known is None:
        raise ValueError(f"the checkpoint of {cli.folder.path} has no vocabulary: train the run on text")
    model.to(cli.trainer.strategy.root_device)
    config = GenerationConfig(prompt, tokens, think, candidates, temperature, seed)
    tokenizer = data.tokenizer_from(known)
    with isolated(seed):
        files = generate_text(model, tokenizer, data.length, config, cli.folder.path / "generated", energies)
    print("\n".join(map(str, files)), file=sys.stderr)


def plan(
    cli: PlanningCLI,
    gpus: int = 1,
    gpu: str = "this",
    gpus_per_node: int = 8,
    network: str = "infiniband-400",
    share: float = 0.35,
    measure: Literal[1, 2] | None = None,
) -> None:
    """Predict the time, memory and scaling of a training run, on a cluster or, by timing some steps, on this machine.

    Args:
        cli: the parsed command line.
        gpus: Number of GPUs, with one rank each; with --gpu this, the plan is for 1 and 2 processes.
        gpu: Model of the GPUs: v100, a100, h100, h200, l40s, rtx4090; or "this" for this machine.
        gpus_per_node: GPUs in each node.
        network: Network between the nodes: ethernet-100, infiniband-200, infiniband-400, infiniband-8x200 or
            infiniband-8x400, in Gb/s of each adapter.
        share: Share of the GPU's peak that matrix products reach, in (0, 1].
        measure: Train for some seconds with one process, or with one and with two, and compare with the prediction.
    """
    if measure and gpu != "this":
        raise ValueError(f"--measure compares with this machine, not with {gpu}: leave out --gpu")
    cluster = cluster_of(cli.trainer, gpu, gpus, gpus_per_node, network, share)
    predicted = plan_run(cli.trainer, cli.model, cli.datamodule, cluster)
    print("\n".join(predicted.lines()))
    if measure:
        print("\n" + "\n".join(comparison_here(predicted, cli.config_dump, cli.folder, measure)))


COMMANDS: dict[str, tuple[type[ExperimentCLI], Callable[..., None]]] = {
    "fit": (TrainingCLI, fit),
    "validate": (ExperimentCLI, validate),
    "test": (ExperimentCLI, test),
    "sample": (ExperimentCLI, sample),
    "generate": (ExperimentCLI, generate),
    "plan": (PlanningCLI, plan),
}


def _train(cli: TrainingCLI) -> int:
    """Train, with rollbacks if the guard requires them, and return the step reached."""
    rolled_back = 0
    while True:
        start = cli.checkpoint(rolled_back)
        done = 0 if start is None else checkpoints.step_of(start)
        if start is not None and done >= cli.trainer.max_steps:
            print(f"this run is complete: {done} of {cli.trainer.max_steps} steps are done")
            cli.load_weights(start)
            return done
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=start)
            return cli.trainer.global_step
        except DivergenceError as fault:
            rolled_back = _roll_back(cli, fault)


def _roll_back(cli: TrainingCLI, fault: DivergenceError) -> int:
    """Create all objects again, to continue from an earlier checkpoint with another random stream.

    Returns the number of rollbacks so far; raises the fault if no more are allowed.
    """
    guard = cli.callback(DivergenceGuard)
    if guard.rolled_back >= guard.rollbacks:
        raise fault
    number = guard.rolled_back + 1
    if is_first_rank():
        cli.folder.event("rollback", number=number, reason=str(fault))
        print(f"rollback {number} of {guard.rollbacks}: {fault}", file=sys.stderr)
    cli._set_seed()
    cli.instantiate_classes()
    cli.callback(DivergenceGuard).rolled_back = number
    cli.callback(TrainingRandomState).reseed(number)
    return number


def _draw(cli: ExperimentCLI, num_samples: int, steps: int, seed: int) -> list[Path]:
    cli.model.to(cli.trainer.strategy.root_device)
    return draw_samples(cli.model, cli.datamodule, cli.folder.path / "samples", num_samples, steps, seed)


def _conclude(cli: TrainingCLI, step: int) -> None:
    """Draw the final samples and print the paths of the run's files."""
    cli.folder.event("end", step=step)
    rows = {"run": cli.folder.path, "metrics": cli.folder.path / "metrics.csv"}
    if cli.model.sampler is not None:
        pictures = cli.callback(SamplePictures)
        rows["samples"] = _draw(cli, pictures.num_chains, pictures.steps, seed=0)[0]
    print("\n" + "\n".join(f"{name:8} {path}" for name, path in rows.items()))
