"""`python -m benchmarks --only ebt`: a training step of an energy-based transformer, ours and as published.

Every contender is a process of its own; all contenders of a setting are warmed up before the first is timed, and take
turns. A step is the positive phase, two steps of descent, the objective and the backward pass, without optimizer, data
and Lightning; on a CPU it is measured in processor time, on which other processes have less effect. Memory is the peak
of the tensors created in one step, by torch's profiler or allocator. Gradients are for equal weights and noise, and are
compared parameter by parameter with ours uncompiled.

The published method is reimplemented from its description (Gladstone et al. 2025, and their code): attention by plain
products on S x (S + 1) matrices, whose superdiagonal is zeroed, filled with the score of self and removed after
the softmax, in the observed and the predicted half; create_graph at every step that is differentiated.
"""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.common import Options, Record, facts, facts_text, in_new_process, peak
from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import State
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.energies import NextToken, StepToken, TextEBT
from ebm_lightning.energies.networks import SIZES, CausalTransformer
from ebm_lightning.energies.networks.transformer import rotated
from ebm_lightning.objectives import TokenPrediction
from ebm_lightning.samplers import Descent
from ebm_lightning.training.acceleration import Acceleration
from ebm_lightning.utils.malloc import keep_freed_memory

DEVICES = ("cpu", "cuda")
ROUNDS, TURN = 5, 4
"""Number of rounds, and steps of a turn."""
VOCABULARY, STEPS = 256, 2


class Setting(NamedTuple):
    """Model size of Gladstone et al. (2025), positions, batch size, 1 or 2 for their System 1 or 2, and device."""

    size: str
    positions: int
    batch: int
    system: int
    device: str = "cpu"


class PublishedAttention(nn.Module):
    """Attention of both halves of a sequence (B, 2S, dim), observed and predicted: see :mod:`benchmarks.ebt`."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        b, s = self.block, x.shape[1] // 2
        q, k, v = (part(x).unflatten(-1, (b.heads, -1)).transpose(1, 2) for part in (b.query, b.key, b.value))
        q_o, q_p = rotated(q[:, :, :s], angles[:s]), rotated(q[:, :, s:], angles[1:])
        k_o, k_p = rotated(k[:, :, :s], angles[:s]), rotated(k[:, :, s:], angles[1:])
        v_o, v_p = v[:, :, :s], v[:, :, s:]
        scale = 1 / math.sqrt(q.shape[-1])
        causal = torch.full((s, s), -torch.inf, dtype=x.dtype, device=x.device).triu(1)
        observed = ((q_o @ k_o.transpose(-1, -2)) * scale + causal).softmax(-1) @ v_o
        return torch.cat([observed, self.predicted(q_p, k_p, v_p, k_o, v_o, scale)], 2).transpose(1, 2).flatten(2)

    def predicted(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        s = q.shape[2]
        scores = (q @ keys.transpose(-1, -2)) * scale
        scores = torch.cat([scores, scores.new_zeros(*scores.shape[:-1], 1)], -1)
        superdiagonal = torch.ones(s, dtype=q.dtype, device=q.device).diag(1)[:s]
        own = (q * k).sum(-1) * scale
        scores = scores * (1 - superdiagonal) + torch.diag_embed(own, offset=1)[:, :, :s]
        scores = scores + torch.full((s, s + 1), -torch.inf, dtype=q.dtype, device=q.device).triu(2)
        weights = scores.softmax(-1)
        of_self = (weights * superdiagonal).sum(-1, keepdim=True)
        return (weights * (1 - superdiagonal))[..., :-1] @ values + of_self * v


class Published(nn.Module):
    """The published method with our weights: (tokens, logits) -> the logits after every step."""

    def __init__(self, module: EBM) -> None:
        super().__init__()
        self.model, self.sampler = module.model, module.sampler
        self.attention = nn.ModuleList(PublishedAttention(block) for block in self.model.trunk.blocks)

    def energies(self, x: Tensor, p: Tensor, step: int) -> Tensor:
        model = self.model
        token = model.landscape.weight[min(step, STEPS - 1)].expand(len(x), 1, -1)
        # The step is the first element of both halves; the output there is not used.
        h = torch.cat([token, model.embedding(x), token, model.candidate(p)], 1)
        angles = model.trunk._angles(h, 0, x.shape[1] + 2)
        for block, attention in zip(model.trunk.blocks, self.attention, strict=True):
            h = h + block.out(attention(block.attention_norm(h), angles))
            n = block.mlp_norm(h)
            h = h + block.down(F.silu(block.gate(n)) * block.up(n))
        return model.head(model.trunk.norm(h[:, x.shape[1] + 2 :]))

    def forward(self, x: Tensor, y: Tensor, system: int, graph: bool = True) -> list[Tensor]:
        path = []
        for step in range(STEPS):
            differentiated = graph and (system == 1 or step == STEPS - 1)
            if system == 1:
                y = y.detach()
            y = y + self.sampler.noise * torch.randn_like(y) if self.sampler.noise else y
            p = y.softmax(-1)
            if not p.requires_grad:
                p = p.requires_grad_()
            with torch.enable_grad():
                (grad,) = torch.autograd.grad(self.energies(x, p, step).sum(), p, create_graph=differentiated)
            alpha = self.sampler.alpha.clamp(min=1e-4)
            if system == 2:
                share = torch.rand(*y.shape[:2], 1, dtype=y.dtype, device=y.device)
                alpha = alpha / 2 + share * (alpha * 2 - alpha / 2)
            y = p - alpha * grad
            if not differentiated:
                y = y.detach()
            path.append(y)
        return path


def published(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """A step of the published method."""
    module, batch = _module(setting, dtype), _batch(setting)
    net = Published(module)

    def loss() -> Tensor:
        y = torch.randn(*batch["x"].shape, VOCABULARY, dtype=dtype, device=setting.device)
        path = net(batch["x"], y, setting.system)
        path = path if setting.system == 1 else path[-1:]
        return torch.stack([F.cross_entropy(y.flatten(0, 1), batch["target"].flatten()) for y in path]).mean()

    return loss, module


def ours(setting: Setting, dtype: torch.dtype, compiled: bool = False) -> tuple[Callable[[], Tensor], nn.Module]:
    """A step of ours, by default as in `ebm fit`."""
    module, batch = _module(setting, dtype, compiled), _batch(setting)
    return lambda: module.training_step(batch, 1)["loss"], module


def ours_compiled(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """Ours with EBM(acceleration=Acceleration(compile=True))."""
    return ours(setting, dtype, compiled=True)


def ours_checkpointed(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """Ours, with the output projection of attention and the MLP of every block recomputed in backward passes."""
    loss, module = ours(setting, dtype)
    for block in module.model.trunk.blocks:
        block.join = partial(checkpoint, block.join, use_reentrant=False)
    return loss, module


def transformer(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """A first-order step of the CausalTransformer of the same size."""
    torch.manual_seed(0)
    layers, heads, dim = SIZES[setting.size]
    net = CausalTransformer(VOCABULARY, layers=layers, heads=heads, dim=dim)
    module, batch = EBM(NextToken(net), TokenPrediction()).to(setting.device, dtype), _batch(setting)
    return lambda: module.training_step(batch, 1)["loss"], module


def validation(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """The same prediction without a graph: two steps and the loss, as in protocols."""
    module, batch = _module(setting, dtype), _batch(setting)

    @torch.no_grad()
    def loss() -> Tensor:
        pos = module.model.positive_phase(batch)
        neg, _ = module.run_negative_chains(module.chains.start(module.sampler.augment_state(pos), ("y",)), STEPS)
        return module.objective(module.model, pos, neg)["loss"]

    return loss, module


def validation_published(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """The same by the released code for text, which keeps the graph for a second derivative."""
    return published(setting, dtype)


CONTENDERS = {
    one.__name__: one
    for one in (transformer, published, ours, ours_compiled, ours_checkpointed, validation_published, validation)
}
LABELS = {
    "transformer": "transformer of the same size, first order",
    "published": "published method",
    "ours": "ours",
    "ours_compiled": "ours, `compile: true`",
    "ours_checkpointed": "ours, halves of blocks checkpointed",
    "validation_published": "validation, published method",
    "validation": "validation, ours",
}


def _module(setting: Setting, dtype: torch.dtype, compiled: bool = False) -> EBM:
    """The module of experiments/gladstone2025_ebt/text_laptop.yaml, with the size and the system of the setting."""
    torch.manual_seed(0)
    layers, heads, dim = SIZES[setting.size]
    model = TextEBT(VOCABULARY, layers=layers, heads=heads, dim=dim, condition=StepToken(STEPS))
    if setting.system == 1:
        sampler = Descent(60.0, learned=True, detach=True, softmax=True, return_trajectory=True)
    else:
        sampler = Descent(5.0, softmax=True, noise=3.0, step_size_jitter=2.0, step_size_jitter_axes=2)
    chains, backprop = NoiseChains(GaussianNoise()), STEPS if setting.system == 1 else 1
    return EBM(
        model, TokenPrediction(), sampler, STEPS, backprop, chains, acceleration=Acceleration(compile=compiled)
    ).to(setting.device, dtype)


def _batch(setting: Setting) -> State:
    generator = torch.Generator().manual_seed(1)
    shape = (setting.batch, setting.positions)
    drawn = {name: torch.randint(VOCABULARY, shape, generator=generator) for name in ("x", "target")}
    return {name: tokens.to(setting.device) for name, tokens in drawn.items()}


def _gradients(name: str, setting: Setting, dtype: torch.dtype) -> list[Tensor]:
    """The gradients of all parameters, including alpha, with noise from one seed."""
    loss, module = CONTENDERS[name](setting, dtype)
    torch.manual_seed(2)
    parameters = [p for p in module.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss(), parameters, materialize_grads=True))


def differences(name: str, setting: Setting) -> dict[str, float]:
    """The largest of |g - ours| / |ours| over the parameters, in float32 and in float64."""
    found = {}
    for precision, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        pairs = zip(_gradients(name, setting, dtype), _gradients("ours", setting, dtype), strict=True)
        found[precision] = max(float((g - o).norm() / o.norm().clamp_min(1e-30)) for g, o in pairs)
    return found


def serve(pipe: Connection, name: str, setting: Setting) -> None:
    """Run one contender: send its peak memory, then for each received number n the times of n steps; 0 ends it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    loss, module = CONTENDERS[name](setting, torch.float32)

    def step() -> None:
        module.zero_grad()
        if (found := loss()).requires_grad and not name.startswith("validation"):
            found.backward()

    step()
    step()
    pipe.send(peak(step, setting.device))
    clock = time.process_time if setting.device == "cpu" else time.perf_counter
    for steps in iter(pipe.recv, 0):
        times = []
        for _ in range(steps):
            start = clock()
            step()
            if setting.device == "cuda":
                torch.cuda.synchronize()
            times.append(1e3 * (clock() - start))
        pipe.send(times)


def race(setting: Setting, names: list[str], rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Time all contenders of one setting in turns of ``steps`` steps; the result is the median of all steps."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in names:
        pipes[name], theirs = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(theirs, name, setting)))
        processes[-1].start()
        theirs.close()
    mib = {name: pipe.recv() for name, pipe in pipes.items()}
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(steps)
            times[name] += pipe.recv()
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    return {name: {"MiB": mib[name], "ms": statistics.median(ms), "fastest_ms": min(ms)} for name, ms in times.items()}


def table(record: Record) -> list[str]:
    """A table for each setting."""
    lines = [
        f"{facts_text(record)} The columns of gradients are the largest relative difference of a parameter's "
        "gradient from ours uncompiled."
    ]
    for key, found in record["settings"].items():
        first, theirs = found["transformer"], found["published"]
        lines += [
            "",
            f"{key}:",
            "",
            "| | ms | / transformer | published ms / ms | MiB | published MiB / MiB | gradients, float32 | float64 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, one in found.items():
            reference = found["validation_published"] if name.startswith("validation") else theirs
            ratios = (
                f"{one['ms'] / first['ms']:.2f}",
                f"{reference['ms'] / one['ms']:.2f}",
                f"{reference['MiB'] / one['MiB']:.2f}",
            )
            off = [f"{one[dtype]:.0e}" if dtype in one else "-" for dtype in ("float32", "float64")]
            cells = (LABELS[name], f"{one['ms']:.1f}", ratios[0], ratios[1], f"{one['MiB']:.0f}", ratios[2], *off)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def measure(options: Options) -> Iterator[Record]:
    """Yield the record after each setting."""
    on = options.device
    if on == "cuda":
        settings = [Setting("4xs", 256, 32, 1, on)]
    else:
        settings = [Setting("4xs", 64, 16, 1), Setting("4xs", 64, 16, 2)]
        settings += [Setting("xxs", 128, 4, 1)] if options.large else []
    compared = ["published", "ours_checkpointed", "ours_compiled"]
    names, steps, rounds = list(CONTENDERS), TURN, options.turns(ROUNDS)
    if options.quick:
        settings, compared = [Setting("4xs", 8, 2, 1, on)], ["published"]
        names, steps = ["transformer", "published", "ours", "validation_published", "validation"], 1
    record: Record = {"settings": {}, **facts(1, rounds, device=on), "steps": steps}
    for setting in settings:
        found = race(setting, names, rounds, steps)
        for name in compared:
            found[name] |= in_new_process(differences, name, setting)
        layers, _, dim = SIZES[setting.size]
        size = f"{setting.size} ({layers} layers of {dim}), {setting.positions} positions, batch {setting.batch}"
        record["settings"][f"{size}, System {setting.system}"] = found
        yield record
