"""Time of a training step on this machine: measured in this process, and in runs of one and of two processes."""

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
from ebm_lightning.planning.roofline import COMMON_ASSUMPTIONS, Plan, Row, Step, all_reduce, markdown, seconds_text
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import Config
from ebm_lightning.training.module import EBM

WARM_UP_STEPS, TIMED_STEPS = 2, 5
"""Training steps that are not timed, and those whose median is taken."""

MATRIX_SIZE, PRODUCTS_PER_SUM = 512, 4
"""Size of the matrices that simulate the work of a process, and number of their products between two sums."""

MEASURED_SECONDS = 5.0
"""The duration of the steps of a measured run, in seconds: its clock has a resolution of 0.01 s."""


def calibrate(
    module: EBM,
    data: DataModule,
    step: Step,
    steps: int,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Plan:
    """The plan of a run of ``steps`` steps here: with one process and, on a CPU, with two that share its cores.

    Training steps are timed in this process, with the threads that each of the processes would have, while the cores of
    the other one multiply matrices; the sum of the gradient over two processes is timed between two threads.

    Args:
        module: the module to be trained, on its device.
        data: of the training batches.
        step: the counted cost of a step.
        steps: of the run.
        precision: makes the context of a training step in the trainer's precision.
    """
    module.train()
    on_cpu, before = module.device.type == "cpu", torch.get_num_threads()
    rows, speeds = [], []
    for processes in (1, 2) if on_cpu else (1,):
        threads = threads_of(processes)
        torch.set_num_threads(threads)
        with _busy_neighbors(processes - 1):
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
            *COMMON_ASSUMPTIONS,
        ),
    )


def threads_of(processes: int) -> int:
    """CPU threads of each of n processes on this machine: the present number, or fewer if cores are short."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(torch.get_num_threads(), max(1, cores // processes))


def measure(config: Config, processes: int, seconds: float) -> float:
    """Seconds of a training step of `ebm fit` on n processes of this machine, by the times in its metrics.csv.

    Half of the run is warm-up; its files are deleted.

    Args:
        config: the complete configuration of `ebm fit`.
        processes: n, on CPU, each with its share of the cores.
        seconds: expected of a step, to choose the number of steps.

    Raises:
        ValueError: with the last line of the run's output, if it fails.
    """
    half = max(10, round(MEASURED_SECONDS / seconds))
    with tempfile.TemporaryDirectory() as folder:
        file, run = Path(folder) / "config.yaml", RunFolder(Path(folder) / "runs" / "run")
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
            "samples.num_chains": 1,
            "samples.steps": 1,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "ebm_lightning", "fit", "-c", str(file), *words]
        environment = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": str(threads_of(processes))}
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise ValueError(f"the run to be measured failed on {processes} processes: {last}")
        times = run.times()
        return (times[2 * half - 1] - times[half - 1]) / half


def comparison(plan: Plan, found: Mapping[int, float]) -> list[str]:
    """Predicted and measured milliseconds of a step by number of processes, as a table in Markdown."""
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
    """The rate of the median of some training steps with their optimizer, after a warm-up."""
    optimizer = module.make_optimizer()
    batches = list(data.train_stream(WARM_UP_STEPS + TIMED_STEPS, device=module.device))
    seconds = [_timed(module, optimizer, batch, precision()) for batch in batches]
    return len(next(iter(batches[0].values()))) / statistics.median(seconds[WARM_UP_STEPS:])


def _timed(
    module: EBM, optimizer: torch.optim.Optimizer, batch: State, precision: AbstractContextManager[Any]
) -> float:
    module.wait()
    start = time.perf_counter()
    optimizer.zero_grad()
    with precision:
        loss = module.training_step(batch, 0)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    module.wait()
    return time.perf_counter() - start


@contextmanager
def _busy_neighbors(n: int) -> Iterator[None]:
    """Simulate the work of n other processes: threads that multiply matrices, each with the CPU threads of this one.

    Cores that share a clock, a cache or arithmetic units are slower if all of them are busy.
    """
    threads, ends = torch.get_num_threads(), Event()

    def work() -> None:
        multiply = _multiplication(threads)
        while not ends.is_set():
            multiply()

    working = [Thread(target=work) for _ in range(n)]
    for thread in working:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in working:
            thread.join()


def _multiplication(threads: int) -> Callable[[], object]:
    """A product of two matrices, with ``threads`` CPU threads of the calling thread."""
    torch.set_num_threads(threads)
    factor, product = torch.ones(MATRIX_SIZE, MATRIX_SIZE), torch.empty(MATRIX_SIZE, MATRIX_SIZE)
    return partial(torch.mm, factor, factor, out=product)


def _bandwidth(size: int) -> float:
    """Bytes per second between two processes of this machine: that of a sum of ``size`` bytes by gloo.

    Both multiply matrices before each sum, since idle cores respond faster.
    """
    store, seconds = torch.distributed.HashStore(), [0.0, 0.0]  # type: ignore[attr-defined]
    threads = torch.get_num_threads()

    def rank(number: int) -> None:
        multiply = _multiplication(threads)
        group = torch.distributed.ProcessGroupGloo(store, number, 2, timedelta(minutes=1))
        part, times = [torch.zeros(max(size // 4, 1))], []
        for _ in range(WARM_UP_STEPS + TIMED_STEPS):
            for _ in range(PRODUCTS_PER_SUM):
                multiply()
            start = time.perf_counter()
            group.allreduce(part).wait()  # type: ignore[attr-defined]
            times.append(time.perf_counter() - start)
        seconds[number] = statistics.median(times[WARM_UP_STEPS:])

    ranks = [Thread(target=rank, args=(number,)) for number in (0, 1)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    return size / max(seconds)
