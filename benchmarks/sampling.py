"""`python -m benchmarks --only sampling`: transitions of SGLD and HMC, of published loops and of other packages.

All contenders of a network have the same weights, the same x and mode eval. The lower bound is one forward pass and one
backward pass to the input alone. Ours is ``run_chain_cached`` as in a training step without logging: spectrally
normalized weights are computed once for all transitions; the others compute them in each. bfloat16 is autocast around
it: x, noise and gradients stay float32. Memory is the peak of the tensors created in one call.

On a GPU the networks are those of the papers, with their batch sizes, and the rate of each is compared with that of a
large matrix product. Float32 convolutions run in TF32, torch's default; the MLP's products are float32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from benchmarks import loops
from benchmarks.common import (
    Contender,
    Options,
    Record,
    facts,
    facts_text,
    in_turns,
    installed,
    peak,
    peak_rates,
    peak_rates_text,
    ratio,
    shown,
)
from ebm_lightning.core import EnergyModel, Sampler, run_chain
from ebm_lightning.energies import JEM, DeepEnergy
from ebm_lightning.energies.networks import MLP, IGEBMNet, WideResNet
from ebm_lightning.evaluation.protocols.training_cost import Work
from ebm_lightning.samplers import HMC, SGLD
from ebm_lightning.training.module import run_chain_cached
from ebm_lightning.utils.cuda_graphs import Graphed
from ebm_lightning.utils.fused_ops import compiled, has_compiler
from ebm_lightning.utils.malloc import keep_freed_memory

DEVICES = ("cpu", "cuda")
ROUNDS, SECONDS, LONG = 5, {"cpu": 1.0, "cuda": 0.3}, 60
PEERS = ("torchebm", "ebmkit")
AS_JEM = SGLD(1.0, noise=0.01)
AS_IGEBM = SGLD(10.0, noise=0.005, clip=0.01, bounds=(0.0, 1.0), noise_first=True)


@dataclass(frozen=True)
class Case:
    """A network to sample: x (batch, *shape), and ``steps`` transitions of ``sampler`` in one call."""

    label: str
    model: Callable[[], EnergyModel]
    shape: tuple[int, ...]
    batch: int
    steps: int
    sampler: SGLD

    @property
    def image(self) -> bool:
        """Whether there are convolutions, for which the memory format matters."""
        return len(self.shape) == 3


@dataclass(frozen=True)
class Ours:
    """A way of running our code: memory format, autocast, compilation, matmul precision, CUDA graphs."""

    label: str
    channels_last: bool = False
    bf16: bool = False
    compiled: bool = False
    medium: bool = False
    graphs: bool = False


def wide() -> EnergyModel:
    """JEM on a WRN-10-2."""
    return JEM(WideResNet(10, 2), 10)


IMAGE = (3, 32, 32)
CASES = (
    Case("MLP of 2 x 256 units, points of the plane", lambda: DeepEnergy(MLP(2, [256, 256])), (2,), 512, 10, AS_JEM),
    Case("WRN-10-2, 3 x 32 x 32", wide, IMAGE, 32, 2, AS_JEM),
    Case("IGEBM's ResNet32, 3 x 32 x 32", lambda: DeepEnergy(IGEBMNet()), IMAGE, 32, 2, AS_IGEBM),
)
LARGE = (
    CASES[0],
    Case("WRN-28-10, 3 x 32 x 32", lambda: DeepEnergy(WideResNet(28, 10, 1)), IMAGE, 64, 4, AS_JEM),
    Case("IGEBM's ResNet32, 3 x 32 x 32", lambda: DeepEnergy(IGEBMNet()), IMAGE, 128, 4, AS_IGEBM),
)
"""The networks on a GPU."""
SMALL = (
    Case("MLP of 2 x 16 units", lambda: DeepEnergy(MLP(2, [16, 16])), (2,), 64, 2, AS_JEM),
    Case("IGEBM's net, tiny", lambda: DeepEnergy(IGEBMNet(width=4, stages=((4, 1),))), (3, 8, 8), 4, 2, AS_IGEBM),
)
OURS = {
    "ours": Ours("ours"),
    "channels_last": Ours("ours, `channels_last`", channels_last=True),
    "bf16": Ours("ours, bfloat16 (and `channels_last` for images)", channels_last=True, bf16=True),
    "compiled": Ours("ours, compiled", compiled=True),
    "compiled_last": Ours("ours, compiled, `channels_last`", channels_last=True, compiled=True),
    "compiled_bf16": Ours(
        "ours, bfloat16, compiled (and `channels_last` for images)", channels_last=True, bf16=True, compiled=True
    ),
    "compiled_medium": Ours("ours, compiled, `matmul_precision: medium`", compiled=True, medium=True),
}
ON_GPU = {
    "graphs": Ours("ours, `cuda_graphs`", graphs=True),
    "compiled_graphs": Ours("ours, compiled, `cuda_graphs`", compiled=True, graphs=True),
    "bf16_graphs": Ours("ours, bfloat16, `cuda_graphs`", channels_last=True, bf16=True, graphs=True),
    "bf16_compiled_graphs": Ours(
        "ours, bfloat16, compiled, `cuda_graphs`", channels_last=True, bf16=True, compiled=True, graphs=True
    ),
}
WAYS = OURS | ON_GPU
LABELS = {
    "floor": "lower bound",
    **{name: way.label for name, way in WAYS.items()},
    "jem": "JEM's loop",
    "igebm": "IGEBM's loop",
    "torchebm": "torchebm",
    "ebmkit": "ebmkit",
}


def ours(way: Ours, sampler: Sampler, model: EnergyModel, x: Tensor, steps: int) -> Callable[[], Tensor]:
    """``steps`` transitions from ``x`` in one way of running, as a function without arguments."""
    _ = model.variables  # a compiler cannot trace a cached property
    chain = compiled(run_chain) if way.compiled else run_chain_cached
    chain = Graphed(chain) if way.graphs else chain

    def step() -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=way.bf16):
            torch.set_float32_matmul_precision("medium" if way.medium else "highest")
            end, _ = chain(sampler, model, {"x": x}, steps, with_info=False)
            torch.set_float32_matmul_precision("highest")
        return end["x"]

    return step


def lower_bound(model: EnergyModel, x: Tensor, steps: int) -> Tensor:
    """The lower bound, with normalized weights computed once as in ours."""
    with parametrize.cached():
        return loops.lower_bound(model, x, steps)


def contenders(case: Case, device: str, compiler: bool, peers: list[str]) -> dict[str, Contender]:
    """All contenders for one network, with weights and x from the same seed."""

    def fresh(channels_last: bool = False) -> EnergyModel:
        torch.manual_seed(0)
        model = case.model().eval().to(device)
        return model.to(memory_format=torch.channels_last) if channels_last else model

    model, steps, image = fresh(), case.steps, case.image
    x = torch.rand(case.batch, *case.shape, device=device)
    found: dict[str, Callable[[], object]] = {"floor": partial(lower_bound, model, x, steps)}
    for name, way in (WAYS if device == "cuda" else OURS).items():
        memory_format = way.channels_last and not way.bf16  # the row in which only this differs
        compiles = compiler and not (image and (device == "cuda" or way.medium))
        if (compiles or not way.compiled) and (image or not memory_format):
            found[name] = ours(way, case.sampler, fresh(way.channels_last and image), x, steps)
    found["jem"] = partial(loops.jem, model, x, steps)
    found["igebm"] = partial(loops.igebm, model, x, steps)
    settings = case.sampler.step_size, case.sampler.noise, case.sampler.bounds
    if "torchebm" in peers:
        found["torchebm"] = partial(loops.torchebm_langevin(model, *settings), x, steps)
    if "ebmkit" in peers:
        found["ebmkit"] = partial(loops.ebmkit_langevin(model, *settings, case.sampler.clip), x, steps)
    return {name: Contender(step, steps) for name, step in found.items()}


def hamiltonian(case: Case, device: str, peers: list[str], leapfrog: int = 10) -> dict[str, Contender]:
    """One trajectory of HMC on a network, with leapfrog steps as units."""
    torch.manual_seed(0)
    model = case.model().eval().to(device)
    x = torch.rand(case.batch, *case.shape, device=device)
    found: dict[str, Callable[[], object]] = {
        "floor": partial(lower_bound, model, x, leapfrog),
        "ours": ours(OURS["ours"], HMC(0.01, leapfrog=leapfrog), model, x, 1),
    }
    if "torchebm" in peers:
        found["torchebm"] = partial(loops.torchebm_hmc(model, 0.01, leapfrog), x, 1)
    if "ebmkit" in peers:
        found["ebmkit"] = partial(loops.ebmkit_hmc(model, 0.01, leapfrog), x, 1)
    return {name: Contender(step, leapfrog) for name, step in found.items()}


def memory(case: Case, device: str) -> dict[str, float]:
    """Peak memory of 1 and of 60 transitions, in MiB."""
    torch.manual_seed(0)
    model = case.model().eval().to(device)
    x = torch.rand(case.batch, *case.shape, device=device)
    return {f"{steps}": peak(ours(OURS["ours"], case.sampler, model, x, steps), device) for steps in (1, LONG)}


def rates(case: Case, found: Record) -> dict[str, tuple[float, str]]:
    """10^12 operations per second of each contender, and the arithmetic of the matrix product to compare with."""
    model, x = case.model().eval().cuda(), torch.rand(case.batch, *case.shape, device="cuda")
    with Work() as counted:
        lower_bound(model, x, 1)
    rated = {}
    for name, one in found.items():
        way = WAYS.get(name, WAYS["ours"])
        arithmetic = "bf16" if way.bf16 else "tf32" if case.image or way.medium else "fp32"
        rated[name] = (counted.flop / one["median"] / 1e9, arithmetic)
    return rated


def measure(options: Options) -> Iterator[Record]:
    """Yield the record after each network."""
    keep_freed_memory()
    seconds = 0.02 if options.quick else SECONDS[options.device]
    rounds = options.turns(ROUNDS)
    device, peers, compiler = options.device, installed(*PEERS), options.device == "cuda" or has_compiler()
    record = facts(torch.get_num_threads(), rounds, *PEERS, device=device) | {"networks": {}, "hmc": {}, "memory": {}}
    cases = SMALL if options.quick else LARGE if device == "cuda" else CASES
    if device == "cuda":
        record |= {"ceilings": peak_rates("cuda", 8192), "rates": {}}
    for case in cases:
        torch.compiler.reset()
        key = f"{case.label}, batch {case.batch}"
        contending = contenders(case, device, compiler and not options.quick, peers)
        record["networks"][key] = in_turns(contending, rounds, seconds, device)
        record["memory"][key] = memory(case, device)
        if device == "cuda":
            record["rates"][key] = rates(case, record["networks"][key])
        yield record
    record["hmc"] = in_turns(hamiltonian(cases[0], device, peers), rounds, seconds, device)
    yield record


def table(record: Record) -> list[str]:
    """Milliseconds per transition, and ratios."""
    lines, peaks = [facts_text(record)], record.get("ceilings")
    if peaks:
        lines += ["", peak_rates_text(peaks)]
    lines += ["", "A transition of SGLD, median (fastest to slowest round):"]
    for key, found in record["networks"].items():
        more = (" TFLOP/s | of the matrix rate |", "---|---|") if peaks else ("", "")
        lines += ["", f"{key}:", "", f"| | ms | / lower bound | / ours |{more[0]}", f"|---|---|---|---|{more[1]}"]
        for name, one in found.items():
            cells = [LABELS[name], shown(one), ratio(one, found["floor"]), ratio(one, found["ours"])]
            if peaks:
                rate, arithmetic = record["rates"][key][name]
                cells += [f"{rate:.3g}", f"{rate / peaks[arithmetic]:.0%} ({arithmetic})"]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Peak memory of one call in MiB, for 1 and for {LONG} transitions:", ""]
    lines += [f"- {key}: {', '.join(f'{mib:.3g}' for mib in one.values())}" for key, one in record["memory"].items()]
    if found := record["hmc"]:
        lines += ["", "A leapfrog step of HMC on the first network:", "", "| | ms | / lower bound |", "|---|---|---|"]
        lines += [f"| {LABELS[name]} | {shown(one)} | {ratio(one, found['floor'])} |" for name, one in found.items()]
    return lines
