"""Common parts of all benchmarks: turns, medians with their spread, memory, facts of the machine, output."""

import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ebm_lightning.data import available
from ebm_lightning.runs.files import write_atomically, write_between
from ebm_lightning.runs.provenance import environment
from ebm_lightning.utils.fused_ops import matmul_error

HERE = Path(__file__).parent

Record = dict[str, Any]
"""The results of a section, with facts of the machine: plain values, as stored in results/."""


@dataclass(frozen=True)
class Options:
    """Options of a section.

    Args:
        rounds: number of rounds; None takes that of the section.
        quick: whether to run one round with small sizes, as a test.
        device: "cpu" or "cuda".
        large: whether to include large sizes, which take long.
    """

    rounds: int | None = None
    quick: bool = False
    device: str = "cpu"
    large: bool = False

    def turns(self, usual: int) -> int:
        """The number of rounds of a section; ``usual`` unless the options set it."""
        return self.rounds or (1 if self.quick else usual)


class Contender(NamedTuple):
    """A timed function ``step``, of which one call has ``units`` of the counted unit, such as transitions."""

    step: Callable[[], object]
    units: int = 1


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, minimum and maximum of the rounds."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def shown(found: dict[str, float] | None) -> str:
    """A spread as a cell of a table; "-" if nothing was measured."""
    if found is None:
        return "-"
    median, low, high = (f"{found[key]:.3g}" if found[key] < 100 else f"{found[key]:.0f}" for key in found)
    return f"{median} ({low} to {high})"


def ratio(found: dict[str, float] | None, to: dict[str, float] | None) -> str:
    """The ratio of two medians as a cell of a table; "-" if one was not measured."""
    return "-" if found is None or to is None else f"{found['median'] / to['median']:.2f}"


def in_turns(
    contenders: dict[str, Contender], rounds: int, seconds: float, device: str = "cpu", wall: bool = False
) -> Record:
    """Milliseconds per unit of each contender: after two calls of each as warm-up, the contenders take turns.

    A turn takes ``seconds``, or a few calls if one takes longer; its result is the median of its calls. ``wall`` is for
    contenders with processes of their own.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender.step()
        contender.step()
    for _ in range(rounds):
        for name, contender in contenders.items():
            found[name].append(median_ms(contender.step, seconds, 3, device, wall) / contender.units)
    return {name: spread(values) for name, values in found.items()}


def median_ms(
    step: Callable[[], object], seconds: float = 1.5, least: int = 10, device: str = "cpu", wall: bool = False
) -> float:
    """The median time of at least ``least`` calls in milliseconds, after a warm-up of a fifth of ``seconds``.

    On one CPU thread it is processor time, on which other processes have less effect; on several threads, on a GPU and
    with ``wall`` it is wall time.
    """
    single = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if single and not wall else time.perf_counter
    times: list[float] = []
    start = time.perf_counter()
    while (now := time.perf_counter()) - start < 1.2 * seconds or len(times) < least:
        before = clock()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        if now - start > 0.2 * seconds:
            times.append(clock() - before)
    return 1e3 * statistics.median(times)


def peak(step: Callable[[], object], device: str = "cpu") -> float:
    """Peak memory of the tensors created in one call, in MiB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 2**20


def peak_rates(device: str, side: int) -> dict[str, float]:
    """Measured peak rates: 10^12 operations per second of products of square matrices, 10^9 bytes per second of a copy.

    For float32 products on a CPU it is the rate of the faster of two libraries, if the second one does not round.
    """
    a = torch.randn(side, side, device=device)
    half, seconds = a.bfloat16(), 0.2

    def rate(factor: Tensor, precision: str) -> float:
        torch.set_float32_matmul_precision(precision)
        found = 2e-9 * side**3 / median_ms(partial(torch.mm, factor, factor), seconds, 3, device)
        torch.set_float32_matmul_precision("highest")
        return found

    found = {"fp32": rate(a, "highest"), "bf16": rate(half, "highest")}
    if device == "cuda":
        found["tf32"] = rate(a, "high")
    else:
        torch.set_float32_matmul_precision("medium")
        exact = matmul_error() < 1e-5
        torch.set_float32_matmul_precision("highest")
        found["fp32"] = max(found["fp32"], rate(a, "medium")) if exact else found["fp32"]
    source, target = (torch.empty(15 * side**2, device=device) for _ in range(2))
    found["copy"] = 1e-6 * 2 * source.nbytes / median_ms(partial(target.copy_, source), seconds, 3, device)
    return found


def peak_rates_text(found: dict[str, float]) -> str:
    """The peak rates as a sentence."""
    names = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16"}
    products = ", ".join(f"{1e3 * found[key]:,.0f} in {name}" for key, name in names.items() if key in found)
    return f"Measured peak rates: {products} GFLOP/s of large matrix products, {found['copy']:,.0f} GB/s of a copy."


def in_new_process(function: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """The result of a function of a module, called in a new process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=torch.set_num_threads, initargs=(threads,)) as process:
        return process.submit(function, *arguments).result()


def require_mnist(section: str) -> None:
    """Raise ValueError if MNIST, the training data of a section, is missing."""
    if not available("mnist"):
        raise ValueError(f"{section} trains on MNIST, which was not found: set EBM_DATA to a folder with mnist/")


def version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed(*packages: str) -> list[str]:
    """The installed ones of some packages; prints the names of the others."""
    absent = [package for package in packages if version(package) is None]
    if absent:
        print(f"not installed, therefore left out: {', '.join(absent)}", flush=True)
    return [package for package in packages if package not in absent]


def facts(threads: int, rounds: int, *packages: str, device: str = "cpu") -> Record:
    """The machine, versions and source of a record."""
    found = environment()
    return {
        "rounds": rounds,
        "threads": threads,
        "processor": torch.cuda.get_device_name() if device == "cuda" else found["processor"],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", *packages)},
        "commit": found["commit"],
        "dirty": found["dirty"],
    }


def facts_text(record: Record) -> str:
    """The facts of a record as a sentence."""
    threads, rounds = record["threads"], record["rounds"]
    versions = ", ".join(f"{name} {number or 'not installed'}" for name, number in record["versions"].items())
    steps = f" of {record['steps']} steps" if "steps" in record else ""
    commit = (record["commit"] or "unknown")[:7]
    return (
        f"{record['processor']}, {threads} thread{'s' * (threads > 1)}, float32; medians of {rounds} "
        f"round{'s' * (rounds > 1)}{steps}, {versions}; commit {commit}{', with changes' if record['dirty'] else ''}."
    )


def markers(name: str) -> tuple[str, str]:
    """The markers in README.md around the tables of a section."""
    section = name.removesuffix("_cuda")
    command = f"python -m benchmarks --only {section}{' --device cuda' if section != name else ''}"
    return f"<!-- {name}: written by `{command}` -->", f"<!-- end of {name} -->"


def publish(name: str, record: Record, lines: list[str], folder: Path = HERE) -> None:
    """Write results/<name>.json, and the lines between the markers of README.md.

    Raises ValueError if README.md has no such markers.
    """
    readme, (begin, end) = folder / "README.md", markers(name)
    text = readme.read_text()
    if begin not in text or end not in text.split(begin)[1]:
        raise ValueError(f"{readme} has no markers for {name}: add the lines {begin} and {end}")
    (folder / "results").mkdir(exist_ok=True)
    write_atomically(folder / "results" / f"{name}.json", json.dumps(record, indent=1) + "\n")
    write_between(readme, begin, lines, end)
