"""What all benchmarks share: turns, medians with their spread, memory, the machine, and where results are written."""

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
"""What a section found, and where: plain values, as they are kept in results/."""


@dataclass(frozen=True)
class Options:
    """How a section measures.

    Args:
        rounds: turns of every contender; None is the section's own number.
        quick: whether one round of small sizes is enough, to see that everything runs.
        device: "cpu" or "cuda".
        large: whether to measure the sizes too that take long.
    """

    rounds: int | None = None
    quick: bool = False
    device: str = "cpu"
    large: bool = False

    def turns(self, usual: int) -> int:
        """How many rounds there are, in a section that takes ``usual`` of them."""
        return self.rounds or (1 if self.quick else usual)


class Contender(NamedTuple):
    """What is timed: ``step`` is called, and takes ``units`` of what is counted, such as transitions."""

    step: Callable[[], object]
    units: int = 1


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of the rounds, and their extremes."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def shown(found: dict[str, float] | None) -> str:
    """A spread as a cell of a table; "-" where nothing was measured."""
    if found is None:
        return "-"
    median, low, high = (f"{found[key]:.3g}" if found[key] < 100 else f"{found[key]:.0f}" for key in found)
    return f"{median} ({low} to {high})"


def ratio(found: dict[str, float] | None, to: dict[str, float] | None) -> str:
    """The ratio of two medians as a cell of a table; "-" where one was not measured."""
    return "-" if found is None or to is None else f"{found['median'] / to['median']:.2f}"


def in_turns(
    contenders: dict[str, Contender], rounds: int, seconds: float, device: str = "cpu", wall: bool = False
) -> Record:
    """Milliseconds a unit of each contender: all are called twice first, and then they take turns.

    A turn lasts ``seconds``, or a few calls where one takes longer, and counts as the median of its calls. ``wall`` is
    for contenders that have processes of their own.
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
    """The median time of a call in milliseconds, after a warm-up of a fifth of ``seconds``; of ``least`` calls or more.

    Time is the processor's where this process computes on one thread, since others who run there then count less; on
    several threads, on a GPU and with ``wall`` it is the wall's.
    """
    single = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if single and not wall else time.perf_counter
    times: list[float] = []
    begun = time.perf_counter()
    while (now := time.perf_counter()) - begun < 1.2 * seconds or len(times) < least:
        before = clock()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        if now - begun > 0.2 * seconds:
            times.append(clock() - before)
    return 1e3 * statistics.median(times)


def peak(step: Callable[[], object], device: str = "cpu") -> float:
    """What the tensors made in one call hold at most, in MiB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 2**20


def ceilings(device: str, side: int) -> dict[str, float]:
    """What this machine reaches: 10^12 operations a second by products of square matrices, 10^9 bytes by a copy.

    A float32 product on a CPU is that of the faster of two libraries, if the second one does not round.
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


def ceilings_told(found: dict[str, float]) -> str:
    """Those ceilings as a sentence."""
    names = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16"}
    products = ", ".join(f"{1e3 * found[key]:,.0f} in {name}" for key, name in names.items() if key in found)
    return f"Measured ceilings: large matrix products at {products} GFLOP/s, a copy at {found['copy']:,.0f} GB/s."


def alone(function: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """What a function of a module returns in a fresh process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=torch.set_num_threads, initargs=(threads,)) as process:
        return process.submit(function, *arguments).result()


def require_mnist(section: str) -> None:
    """Raises ValueError where MNIST, on which a section trains, is not there."""
    if not available("mnist"):
        raise ValueError(f"{section} trains on MNIST, which was not found: set EBM_DATA to a folder that holds mnist/")


def version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed(*packages: str) -> list[str]:
    """Those of the packages that are there; a line says which are not."""
    absent = [package for package in packages if version(package) is None]
    if absent:
        print(f"not installed and left out: {', '.join(absent)}", flush=True)
    return [package for package in packages if package not in absent]


def facts(threads: int, rounds: int, *packages: str, device: str = "cpu") -> Record:
    """The machine, the versions and the source that a record is of."""
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


def told(record: Record) -> str:
    """The facts of a record as the sentence above its tables."""
    threads, rounds = record["threads"], record["rounds"]
    versions = ", ".join(f"{name} {number or 'not installed'}" for name, number in record["versions"].items())
    steps = f" of {record['steps']} steps" if "steps" in record else ""
    commit = (record["commit"] or "unknown")[:7]
    return (
        f"{record['processor']}, {threads} thread{'s' * (threads > 1)}, float32; medians of {rounds} "
        f"round{'s' * (rounds > 1)}{steps}, {versions}; commit {commit}{', with changes' if record['dirty'] else ''}."
    )


def markers(name: str) -> tuple[str, str]:
    """Between what in README.md the tables of a section stand."""
    section = name.removesuffix("_cuda")
    command = f"python -m benchmarks --only {section}{' --device cuda' if section != name else ''}"
    return f"<!-- {name}: written by `{command}` -->", f"<!-- end of {name} -->"


def publish(name: str, record: Record, lines: list[str], folder: Path = HERE) -> None:
    """Writes results/<name>.json, and the lines between the markers of README.md.

    Raises ValueError where README.md has no such markers.
    """
    readme, (begin, end) = folder / "README.md", markers(name)
    text = readme.read_text()
    if begin not in text or end not in text.split(begin)[1]:
        raise ValueError(f"{readme} has no place for {name}: expected the lines {begin} and {end}, put them there")
    (folder / "results").mkdir(exist_ok=True)
    write_atomically(folder / "results" / f"{name}.json", json.dumps(record, indent=1) + "\n")
    write_between(readme, begin, lines, end)
