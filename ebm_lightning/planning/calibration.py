"""What a training step takes on this machine: measured in this process, and in runs of one and of two."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
import torch.distributed
import yaml

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule
from ebm_lightning.planning.roofline import ALWAYS, Plan, Row, Step, all_reduce, markdown, seconds_text
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import Config
from ebm_lightning.training.module import EBM

WARM_UP, TIMED = 2, 5
"""Training steps that are taken first, and those whose median counts."""

SIDE, BETWEEN = 512, 4
"""Of the matrices that are multiplied in place of a process's work, and how many products are made between two sums."""

SPAN_S = 5.0
"""How long the steps of a measured run are to take, in seconds: its clock ticks in hundredths."""


def calibrate(
    module: EBM,
    data: DataModule,
    step: Step,
    steps: int,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Plan:
    """The plan of a run of so many steps here: with one process and, on a CPU, with two that share its cores.

    Training steps are timed in this process, with the threads that each of the processes would have, while the cores of
    the other one multiply matrices; what two of them need to sum the gradient is timed between two threads.

    Args:
        module: the module to be trained, on its device.
        data: whose training batches are taken.
        step: what the step asks, as counted.
        steps: of the run.
        precision: makes the context of a training step in the trainer's precision.
    """
    module.train()
    on_cpu, before = module.device.type == "cpu", torch.get_num_threads()
    rows, speeds = [], []
    for processes in (1, 2) if on_cpu else (1,):
        threads = threads_of(processes)
        torch.set_num_threads(threads)
        with _neighbors(processes - 1):
            seconds = step.examples / _examples_per_second(module, data, precision)
        bandwidth = _bandwidth(step.gradient) if processes > 1 else 1.0
        rows.append(
            Row(1, processes, processes * step.examples, seconds, all_reduce(step.gradient, processes, bandwidth))
        )
        speeds.append(
            f"{seconds_text(seconds)} measured with {threads} CPU thread{'s' if threads > 1 else ''}, "
            f"{step.flop / seconds / 1e9:.3g} GFLOP/s"
        )
        torch.set_num_threads(before)
    return Plan(
        step,
        tuple(rows),
        steps,
        speed="; ".join(speeds),
        assumed=(
            "each process has its share of the cores, while the others multiply matrices",
            *ALWAYS,
        ),
    )


def threads_of(processes: int) -> int:
    """CPU threads of each of some processes that share this machine: as many as now, or fewer where cores are short."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(torch.get_num_threads(), max(1, cores // processes))


def measure(config: Config, processes: int, seconds: float) -> float:
    """Seconds of a training step of `ebm fit` on so many processes of this machine, by the clock of its metrics.csv.

    Half of the run is warm-up; what it writes is thrown away.

    Args:
        config: the whole configuration of `ebm fit`.
        processes: on CPU, each with its share of the cores.
        seconds: what a step is expected to take, to choose how many are taken.

    Raises:
        ValueError: with the last line of what the run said, where it fails.
    """
    half = max(10, round(SPAN_S / seconds))
    with tempfile.TemporaryDirectory() as place:
        file, run = Path(place) / "config.yaml", RunFolder(Path(place) / "runs" / "run")
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        options = {
            "run": run.path,
            "threads": threads_of(processes),
            "trainer.accelerator": "cpu",
            "trainer.devices": processes,
            "trainer.num_nodes": 1,
            "trainer.strategy": "ddp" if processes > 1 else "auto",
            "trainer.max_steps": 2 * half + 1,
            "trainer.log_every_n_steps": half,
            "trainer.limit_val_batches": 0,
            "trainer.enable_progress_bar": "false",
            "checkpoint.every_n_steps": 2 * half + 1,
            "samples.every_n_steps": 2 * half + 1,
            "samples.number": 1,
            "samples.steps": 1,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "ebm_lightning", "fit", "-c", str(file), *words]
        alone = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": str(threads_of(processes))}
        done = subprocess.run(command, env=os.environ | alone, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ValueError(f"the run to be measured failed on {processes} processes: {last}")
        when = run.times()
        return (when[2 * half - 1] - when[half - 1]) / half


def comparison(plan: Plan, found: Mapping[int, float]) -> list[str]:
    """Predicted and measured milliseconds of a step by processes, as a table in Markdown."""
    columns = ("processes", "examples a step", "predicted ms a step", "measured ms a step", "measured / predicted")
    rows = [row for row in plan.rows if row.ranks in found]
    return markdown(
        columns,
        [
            (
                str(row.ranks),
                str(row.examples),
                f"{1e3 * row.slowest:.4g}",
                f"{1e3 * found[row.ranks]:.4g}",
                f"{found[row.ranks] / row.slowest:.2f}",
            )
            for row in rows
        ],
    )


def _examples_per_second(module: EBM, data: DataModule, precision: Callable[[], AbstractContextManager[Any]]) -> float:
    """By the median of some training steps with their optimizer, after a warm-up."""
    optimizer = module.make_optimizer()
    batches = list(data.train_stream(WARM_UP + TIMED, device=module.device))
    seconds = [_timed(module, optimizer, batch, precision()) for batch in batches]
    return len(next(iter(batches[0].values()))) / statistics.median(seconds[WARM_UP:])


def _timed(
    module: EBM, optimizer: torch.optim.Optimizer, batch: State, precision: AbstractContextManager[Any]
) -> float:
    module.wait()
    begun = time.perf_counter()
    optimizer.zero_grad()
    with precision:
        loss = module.training_step(batch, 0)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    module.wait()
    return time.perf_counter() - begun


@contextmanager
def _neighbors(number: int) -> Iterator[None]:
    """So many threads that multiply matrices meanwhile, with the CPU threads that this one has: other processes' work.

    Cores that share a clock, a cache or their arithmetic units are slower where all of them are at work.
    """
    threads, ends = torch.get_num_threads(), Event()

    def work() -> None:
        multiply = _multiplication(threads)
        while not ends.is_set():
            multiply()

    working = [Thread(target=work) for _ in range(number)]
    for one in working:
        one.start()
    try:
        yield
    finally:
        ends.set()
        for one in working:
            one.join()


def _multiplication(threads: int) -> Callable[[], object]:
    """A product of two matrices, with so many CPU threads of the thread that calls this."""
    torch.set_num_threads(threads)
    factor, product = torch.ones(SIDE, SIDE), torch.empty(SIDE, SIDE)
    return partial(torch.mm, factor, factor, out=product)


def _bandwidth(size: int) -> float:
    """Bytes per second between two processes of this machine: that of a sum of ``size`` bytes by gloo.

    Both multiply matrices before each sum: cores that have nothing else to do answer sooner.
    """
    store, seconds = torch.distributed.HashStore(), [0.0, 0.0]  # type: ignore[attr-defined]
    threads = torch.get_num_threads()

    def rank(number: int) -> None:
        multiply = _multiplication(threads)
        group = torch.distributed.ProcessGroupGloo(store, number, 2, timedelta(minutes=1))
        part, times = [torch.zeros(max(size // 4, 1))], []
        for _ in range(WARM_UP + TIMED):
            for _ in range(BETWEEN):
                multiply()
            begun = time.perf_counter()
            group.allreduce(part).wait()  # type: ignore[attr-defined]
            times.append(time.perf_counter() - begun)
        seconds[number] = statistics.median(times[WARM_UP:])

    ranks = [Thread(target=rank, args=(number,)) for number in (0, 1)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    return size / max(seconds)
