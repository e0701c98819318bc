"""`python -m benchmarks --only profiles`: the time of our steps by operator, and their rate.

Transitions of SGLD and bare training steps of an RBM under torch's profiler: the share of the time of each operator,
without the operators that it calls; the rest is Python and the profiler. The rate is that of the counted operations
without the profiler, also as a share of the rate of large matrix products in the same arithmetic.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product

import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import HERE, Options, Record, facts, facts_text, median_ms, peak_rates, peak_rates_text
from benchmarks.fitting import bare_steps
from benchmarks.sampling import CASES, OURS, SMALL, Case, ours
from ebm_lightning.data import available
from ebm_lightning.evaluation.protocols.training_cost import Work
from ebm_lightning.utils.malloc import keep_freed_memory

DEVICES = ("cpu",)
ROUNDS, CALLS, SHOWN = 1, 20, 6
WAYS = {True: ("channels_last", "compiled_last", "bf16", "compiled_bf16"), False: ("ours", "compiled")}
"""The ways of running for images (True) and for points (False)."""
BATCH, SWEEPS = 512, (1, 10)
"""Batch size of an RBM's step, and k of PCD-k."""


def transitions(case: Case, way: str) -> Callable[[], object]:
    """One transition in one way of running."""
    torch.manual_seed(0)
    model = case.model().eval().to(memory_format=torch.channels_last)
    return ours(OURS[way], case.sampler, model, torch.rand(case.batch, *case.shape), 1)


def rbm_steps(k: int, half: bool) -> Callable[[], object]:
    """A training step of the RBM of benchmarks/rbm.yaml by PCD-k, with products in bfloat16 if ``half``."""
    config = yaml.safe_load((HERE / "rbm.yaml").read_text())
    config["model"]["init_args"]["steps"] = k
    config["data"]["init_args"]["batch_size"] = BATCH
    config["model"]["init_args"]["chains"]["init_args"]["size"] = BATCH
    config["trainer"]["max_steps"] = 10**9
    steps = bare_steps(config)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            next(steps)

    return step


def steps(quick: bool) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """The profiled steps: label, arithmetic, and function."""
    for case in SMALL if quick else CASES:
        torch.compiler.reset()
        for way in WAYS[case.image]:
            if quick and OURS[way].compiled:
                continue
            label = f"transition, {case.label}, batch {case.batch}, {OURS[way].label}"
            yield label, "bf16" if OURS[way].bf16 else "fp32", transitions(case, way)
    if available("mnist"):
        for k, half in product(SWEEPS, (False, True)):
            label = f"training step of a 784-500 RBM, PCD-{k}, batch {BATCH}{', bfloat16 products' if half else ''}"
            yield label, "bf16" if half else "fp32", rbm_steps(k, half)


def shares(step: Callable[[], object], calls: int) -> dict[str, float]:
    """The share of each operator in the time of some calls, largest first; the rest is outside of operators."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        whole = calls * median_ms(step, 0.0, calls) * 1e3
    own = Counter[str]()
    for event in profiled.key_averages():
        own[_plain(event.key)] += event.self_cpu_time_total
    total = max(whole, float(own.total()))
    return {name: time / total for name, time in own.most_common(SHOWN)}


def _plain(name: str) -> str:
    """An operator's name without its origin; one name for all kernels of torch.compile."""
    return "fused kernels" if "ompiled" in name else name.removeprefix("aten::").rpartition(": ")[2]


def measure(options: Options) -> Iterator[Record]:
    """Yield the record after each step."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    record = facts(threads, options.turns(ROUNDS)) | {"ceilings": peak_rates("cpu", 256 if options.quick else 2048)}
    record["profiles"] = {}
    for label, arithmetic, step in steps(options.quick):
        for _ in range(3):
            step()
        with Work() as counted, torch.compiler.set_stance("force_eager"):
            step()
        ms = median_ms(step, 0.1 if options.quick else 3.0)
        found = {"ms": ms, "arithmetic": arithmetic, "rate": counted.flop / ms / 1e9}
        record["profiles"][label] = found | {"shares": shares(step, 2 if options.quick else CALLS)}
        yield record


def table(record: Record) -> list[str]:
    """Milliseconds, rates and shares."""
    peaks = record["ceilings"]
    lines = [facts_text(record), "", peak_rates_text(peaks), ""]
    lines += ["| | ms | GFLOP/s | of the matrix rate | operators by share of the time |"]
    lines += ["|---|---|---|---|---|"]
    for label, one in record["profiles"].items():
        share = one["rate"] / peaks[one["arithmetic"]]
        operators = ", ".join(f"{name} {part:.0%}" for name, part in one["shares"].items())
        lines.append(
            f"| {label} | {one['ms']:.3g} | {1e3 * one['rate']:.0f} | {share:.0%} ({one['arithmetic']}) | {operators} |"
        )
    return lines
