"""`python -m benchmarks --only growth`: the time of a step as a function of its size.

A transition of SGLD by batch size, number of pixels and dimension; the round trip of a batch of chains by the size of
the buffer; a training step of the quickstart by number of ranks, each with a batch of its own and one thread.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.common import Contender, Options, Record, facts, facts_text, in_turns, ratio, shown, spread
from benchmarks.fitting import fit_ms
from benchmarks.overhead import QUICKSTART, filled, round_trip
from benchmarks.sampling import AS_JEM, OURS, ours, wide
from ebm_lightning.chains import FloatStorage
from ebm_lightning.core import EnergyModel
from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import MLP
from ebm_lightning.utils.malloc import keep_freed_memory

DEVICES = ("cpu", "cuda")
ROUNDS, SECONDS = 3, 0.5
DDP = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


class Unit(NamedTuple):
    """The smallest sizes: number of images, their side in pixels, number of points, number of chains."""

    images: int
    side: int
    points: int
    chains: int


def transition(model: EnergyModel, batch: int, shape: tuple[int, ...], device: str) -> Contender:
    """One transition of SGLD from x of this shape."""
    x = torch.rand(batch, *shape, device=device)
    return Contender(ours(OURS["ours"], AS_JEM, model, x, 1))


def with_batch(unit: Unit, device: str) -> dict[str, Contender]:
    """SGLD on a WRN-10-2: 1, 2 and 4 times the batch."""
    model, shape = wide().eval().to(device), (3, unit.side, unit.side)
    return {f"{k * unit.images} images": transition(model, k * unit.images, shape, device) for k in (1, 2, 4)}


def with_pixels(unit: Unit, device: str) -> dict[str, Contender]:
    """SGLD on a WRN-10-2: images of 1, 2 and 4 times the side, so of 1, 4 and 16 times the pixels."""
    model = wide().eval().to(device)
    sides = (unit.side, 2 * unit.side, 4 * unit.side)
    return {f"{side} x {side} pixels": transition(model, unit.images, (3, side, side), device) for side in sides}


def with_dimension(unit: Unit, device: str) -> dict[str, Contender]:
    """SGLD on an MLP of 2 x 256 units: points of 2, 64 and 2048 dimensions."""
    models = {d: DeepEnergy(MLP(d, [256, 256])).eval().to(device) for d in (2, 64, 2048)}
    return {f"{d} dimensions": transition(model, unit.points, (d,), device) for d, model in models.items()}


def with_buffer(unit: Unit, device: str) -> dict[str, Contender]:
    """The round trip of 128 chains of 28 x 28: 1, 10 and 100 times the buffer."""
    shape, pos = (1, 28, 28), torch.rand(128, 1, 28, 28, device=device)
    sizes = (unit.chains, 10 * unit.chains, 100 * unit.chains)
    buffers = {size: filled(size, shape, FloatStorage(), device) for size in sizes}
    return {f"{size:,} chains": Contender(partial(round_trip, buffer, pos)) for size, buffer in buffers.items()}


PARTS = {
    "SGLD on a WRN-10-2, the batch": with_batch,
    "SGLD on a WRN-10-2, the pixels": with_pixels,
    "SGLD on an MLP of 2 x 256 units, the dimension": with_dimension,
    "128 chains of 28 x 28 through a buffer": with_buffer,
}


def with_ranks(rounds: int, steps: int) -> Record:
    """Milliseconds per training step of the quickstart on 1 and on 2 ranks."""
    options: dict[str, object] = {"--trainer.max_steps": steps, "--threads": 1}
    found: dict[str, list[float]] = {"1 rank": [], "2 ranks": []}
    for _ in range(rounds):
        found["1 rank"].append(fit_ms(QUICKSTART, options)[0])
        found["2 ranks"].append(fit_ms(QUICKSTART, options, DDP)[0])
    return {name: spread(values) for name, values in found.items()}


def measure(options: Options) -> Iterator[Record]:
    """Yield the record after each part; ranks are processes on a CPU."""
    keep_freed_memory()
    quick, device, rounds = options.quick, options.device, options.turns(ROUNDS)
    record = facts(torch.get_num_threads(), rounds, "lightning", device=device) | {"parts": {}}
    unit = Unit(4, 8, 16, 200) if quick else Unit(32, 16, 512, 1000)
    for label, contenders in PARTS.items():
        record["parts"][label] = in_turns(contenders(unit, device), rounds, 0.02 if quick else SECONDS, device)
        yield record
    if device == "cpu":
        ranks = with_ranks(rounds, 60 if quick else 400)
        record["parts"]["training step of the quickstart, batch 128 a rank"] = ranks
        yield record


def table(record: Record) -> list[str]:
    """Milliseconds, and ratios to the first row of each part."""
    lines = [facts_text(record), "", "| | ms | / first |", "|---|---|---|"]
    for label, found in record["parts"].items():
        first = next(iter(found.values()))
        lines += [f"| {label}: {name} | {shown(one)} | {ratio(one, first)} |" for name, one in found.items()]
    return lines
