"""A roofline model of training: the cost of one step, the rates of a cluster, and the time that follows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from ebm_lightning.planning.hardware import GPUS, NETWORKS, Arithmetic, Gpu

LAUNCH_SECONDS = 5e-6
"""Seconds that eager PyTorch takes to launch one operation on a GPU, whatever its size: an assumption."""

COMMON_ASSUMPTIONS = (
    "ms a step overlaps no communication with computation, ms overlapped all that is possible",
    "data, logging, validation, pictures and checkpoints cost nothing",
)
"""Assumptions of every plan."""

OMITTED_MEMORY = (
    "of the memory: temporary tensors, workspace of convolutions, averaged weights, state of adaptive samplers, "
    "CUDA's own memory and fragmentation"
)
"""Memory that a plan does not count."""


@dataclass(frozen=True)
class Step:
    """The cost of one training step of one rank.

    Args:
        examples: of this rank, all batches of accumulated gradients together.
        flop: operations of matrix products, convolutions and attention, two for a multiplication with an addition.
        moved: bytes that all operations read and write, without fusion.
        calls: number of operations.
        parameters: number of trained values.
        gradient: bytes that are averaged over the ranks.
        memory: bytes by kind.
        counted: the way of counting, as a sentence.
        convolved: of ``flop``, those in convolutions: torch runs them in TF32 even if matrix products are float32.
    """

    examples: int
    flop: float
    moved: float
    calls: float
    parameters: int
    gradient: int
    memory: Mapping[str, float]
    counted: str
    convolved: float = 0.0


@dataclass(frozen=True)
class Row:
    """The training step on n ranks.

    Args:
        nodes: number of machines.
        ranks: n, on all nodes together.
        examples: of all ranks.
        computing: seconds of computation of each rank.
        communicating: seconds to average the gradient.
    """

    nodes: int
    ranks: int
    examples: int
    computing: float
    communicating: float

    @property
    def slowest(self) -> float:
        """Seconds without any overlap of communication and computation."""
        return self.computing + self.communicating

    @property
    def fastest(self) -> float:
        """Seconds with complete overlap of communication and computation."""
        return max(self.computing, self.communicating)

    @property
    def rate(self) -> float:
        """Examples per second, without overlap."""
        return self.examples / self.slowest


def all_reduce(size: float, ranks: int, bandwidth: float) -> float:
    """Seconds that a ring of n ranks takes to sum ``size`` bytes: 2 (n - 1) / n size / bandwidth.

    Each rank sends, and receives, that many bytes (Patarasuk & Yuan 2009). Latency is left out.

    Args:
        size: bytes on each rank.
        ranks: n, at least 1.
        bandwidth: of each rank in each direction, bytes per second.
    """
    return 2 * (ranks - 1) / ranks * size / bandwidth


@dataclass(frozen=True)
class Cluster:
    """GPUs in nodes, one rank on each.

    Args:
        gpu: a name of :data:`~ebm_lightning.planning.hardware.GPUS`.
        gpus: number of GPUs, at least 1; beyond one node a multiple of ``gpus_per_node``.
        gpus_per_node: at least 1.
        network: a name of :data:`~ebm_lightning.planning.hardware.NETWORKS`.
        arithmetic: of matrix products.
        share: of the GPU's peak that matrix products reach, in (0, 1].

    Raises:
        ValueError: if a name is not known or a number out of range.
    """

    gpu: str
    gpus: int = 1
    gpus_per_node: int = 8
    network: str = "infiniband-400"
    arithmetic: Arithmetic = "fp32"
    share: float = 0.35

    def __post_init__(self) -> None:
        _known("GPU", self.gpu, GPUS)
        _known("network", self.network, NETWORKS)
        if self.gpus < 1 or self.gpus_per_node < 1:
            raise ValueError(
                f"a plan for {self.gpus} GPUs, {self.gpus_per_node} in a node: expected both to be at least 1"
            )
        if self.gpus > self.gpus_per_node and self.gpus % self.gpus_per_node:
            raise ValueError(
                f"{self.gpus} GPUs do not fill nodes of {self.gpus_per_node}: give a multiple of that, or another "
                "--gpus_per_node"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share:g} of the peak: expected more than 0 and at most 1")

    @property
    def nodes(self) -> int:
        return math.ceil(self.gpus / self.gpus_per_node)

    @property
    def _gpu(self) -> Gpu:
        return GPUS[self.gpu]

    def limits(self, step: Step) -> dict[str, float]:
        """Lower bounds on the seconds of a step, by what limits it; the largest is its time."""
        of_convolutions: Arithmetic = "tf32" if self.arithmetic == "fp32" else self.arithmetic
        peaks = {of_convolutions: step.convolved, self.arithmetic: step.flop - step.convolved}
        if of_convolutions == self.arithmetic or not step.convolved:
            peaks = {self.arithmetic: step.flop}
        words = " and ".join(f"{self._gpu.peak(one) / 1e12:g} TFLOP/s ({one})" for one in peaks)
        seconds = sum(flop / self._gpu.peak(one) for one, flop in peaks.items()) / self.share
        return {
            f"{self.share:g} of {words}": seconds,
            f"{self._gpu.bandwidth:g} GB/s of its memory": step.moved / (1e9 * self._gpu.bandwidth),
            f"{1e6 * LAUNCH_SECONDS:g} us to launch each operation": step.calls * LAUNCH_SECONDS,
        }

    def communicating(self, size: float, ranks: int) -> float:
        """Seconds to sum ``size`` bytes over all ranks: a ring within each node, and one of all nodes.

        A node of g GPUs sums by a ring, after which each has a part of 1/g; the nodes sum these by rings that share
        their network; then each node gathers the parts.
        """
        here = min(ranks, self.gpus_per_node)
        within = all_reduce(size, here, 1e9 * self._gpu.link)
        return within + all_reduce(size, ranks // here, 1e9 * NETWORKS[self.network])

    def rows(self, step: Step) -> list[Row]:
        """The step on one GPU, on one node, on two, four, ... and on all: each rank keeps its batch (weak scaling)."""
        nodes = [2**power for power in range(self.nodes.bit_length()) if 2**power < self.nodes] + [self.nodes]
        ranks = dict.fromkeys([1, *(min(self.gpus, n * self.gpus_per_node) for n in nodes)])
        seconds = max(self.limits(step).values())
        return [
            Row(
                nodes=math.ceil(n / self.gpus_per_node),
                ranks=n,
                examples=n * step.examples,
                computing=seconds,
                communicating=self.communicating(step.gradient, n),
            )
            for n in ranks
        ]

    def plan(self, step: Step, steps: int) -> "Plan":
        """The plan of a run of ``steps`` training steps."""
        limits = self.limits(step)
        others = [f"{seconds_text(each)} by {name}" for name, each in sorted(limits.items(), key=lambda one: -one[1])]
        return Plan(
            step,
            tuple(self.rows(step)),
            steps,
            capacity=1e9 * self._gpu.memory,
            speed="; ".join(others) + ": the longest counts",
            assumed=(
                f"matrix products reach {self.share:g} of the peak in {self.arithmetic}, and nothing is fused",
                f"gradients are summed by rings, at {self._gpu.link:g} GB/s within a node and "
                f"{NETWORKS[self.network]:g} GB/s out of one ({self.network}), without latency",
                "each rank keeps the configuration's batch and the run its steps: more ranks take more examples",
                *COMMON_ASSUMPTIONS,
            ),
        )


@dataclass(frozen=True)
class Plan:
    """Predicted time and memory of a training run.

    Args:
        step: its cost.
        rows: its time, from one rank to all.
        steps: of the run.
        speed: the origin of the time of a rank, as a sentence.
        assumed: the assumptions, each as a sentence.
        capacity: bytes of a rank's memory, or None if it is not known.
    """

    step: Step
    rows: tuple[Row, ...]
    steps: int
    speed: str
    assumed: tuple[str, ...]
    capacity: float | None = None

    @property
    def memory(self) -> dict[str, float]:
        """Bytes of a rank by kind; several ranks have a second copy of the gradient, to send it."""
        sent = {"gradients to be sent": float(self.step.gradient)} if self.rows[-1].ranks > 1 else {}
        return {**self.step.memory, **sent}

    @property
    def hours(self) -> float:
        """Hours of the complete run on all ranks, without overlap."""
        return self.steps * self.rows[-1].slowest / 3600

    @property
    def rank_hours(self) -> float:
        """Those hours, times the number of ranks."""
        return self.rows[-1].ranks * self.hours

    def lines(self) -> list[str]:
        """The plan as text, with its table in Markdown."""
        step, last, needed = self.step, self.rows[-1], sum(self.memory.values())
        capacity = f", which has {bytes_text(self.capacity)}" if self.capacity else ""
        full = " and is too small" if self.capacity and needed > self.capacity else ""
        parts = ", ".join(f"{name} {bytes_text(size)}" for name, size in self.memory.items())
        return [
            f"step        {step.examples} examples a rank: {step.flop / 1e9:.4g} GFLOP, {bytes_text(step.moved)} read "
            f"and written, {step.calls:.0f} operations ({step.counted})",
            f"parameters  {step.parameters:,}, whose gradient has {bytes_text(step.gradient)}",
            f"memory      {bytes_text(needed)} of a rank{capacity}{full}: {parts}",
            f"time        {self.speed}",
            f"run         {self.steps:,} steps on {last.ranks} in {hours_text(self.hours)}: {self.rank_hours:.3g} "
            f"{'GPU' if self.capacity else 'process'}-hours",
            "",
            *table(self.rows),
            "",
            *(f"assumed     {sentence}" for sentence in self.assumed),
            f"left out    {OMITTED_MEMORY}",
        ]


def table(rows: Sequence[Row]) -> list[str]:
    """Rows as a table in Markdown; efficiency is examples per second and rank, relative to the first row."""
    columns = ("nodes", "ranks", "examples a step", "ms a step", "of it communication", "ms overlapped")
    alone = rows[0].rate / rows[0].ranks
    cells = [
        (
            str(row.nodes),
            str(row.ranks),
            str(row.examples),
            f"{1e3 * row.slowest:.4g}",
            f"{1e3 * row.communicating:.3g}",
            f"{1e3 * row.fastest:.4g}",
            f"{row.rate / row.ranks / alone:.0%}",
            f"{row.rate:.4g}",
        )
        for row in rows
    ]
    return markdown((*columns, "efficiency", "examples/s"), cells)


def markdown(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    rows = [columns, ["---"] * len(columns), *cells]
    return [f"| {' | '.join(row)} |" for row in rows]


def bytes_text(size: float) -> str:
    """A number of bytes in units of 10^3, 10^6, 10^9 or 10^12."""
    power = min(int(math.log10(max(size, 1))) // 3, 4)
    return f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def seconds_text(seconds: float) -> str:
    """Seconds in milliseconds."""
    return f"{1e3 * seconds:.3g} ms"


def hours_text(hours: float) -> str:
    """Hours, or minutes if less than one."""
    return f"{hours:.3g} hours" if hours >= 1 else f"{60 * hours:.3g} minutes"


def _known(what: str, name: str, names: Mapping[str, object]) -> None:
    if name not in names:
        near = get_close_matches(name, names, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no {what} {name!r}: expected one of {', '.join(names)}{meant}")
