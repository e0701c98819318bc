"""`python -m benchmarks.ebt`: a training step of an energy-based transformer beside the published way of taking it.

Every contender is a process of its own, all of one setting are warm before the first is timed, and they take turns. A
step is the positive phase, two steps of descent, the objective and the backward pass, without optimizer, data and
Lightning; it is timed in seconds of the process on its processor, so that others who run there count less. Memory is
what the tensors made in one step hold at most, as torch's profiler sees them allocated and freed. Gradients are those
of equal weights and noise, compared parameter by parameter with ours uncompiled.

The published way is written again here from its description (Gladstone et al. 2025, their released code): attention
by plain products on S x (S + 1) matrices, whose superdiagonal is zeroed, filled with the score of self and taken out
again behind the softmax, in observed and predicted half alike; create_graph at every step that is differentiated.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import State
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.memory import keep_freed_memory
from ebm_lightning.models import NextToken, StepToken, TextEBT
from ebm_lightning.models.backbones import SIZES, CausalTransformer
from ebm_lightning.models.backbones.transformer import rotated
from ebm_lightning.objectives import TokenPrediction
from ebm_lightning.runs import environment, write_atomically
from ebm_lightning.samplers import Descent

HERE = Path(__file__).parent
BEGIN, END = "<!-- ebt: written by `python -m benchmarks.ebt` -->", "<!-- end of ebt -->"
VOCABULARY, STEPS = 256, 2


class Setting(NamedTuple):
    """A size of Gladstone et al. (2025), positions, batch, and 1 or 2 for their System 1 or 2."""

    size: str
    positions: int
    batch: int
    system: int


class PublishedAttention(nn.Module):
    """Attention of both halves of a sequence (B, 2S, dim), observed and predicted, as :mod:`benchmarks.ebt` says."""

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
        causal = torch.full((s, s), -torch.inf, dtype=x.dtype).triu(1)
        observed = ((q_o @ k_o.transpose(-1, -2)) * scale + causal).softmax(-1) @ v_o
        return torch.cat([observed, self.predicted(q_p, k_p, v_p, k_o, v_o, scale)], 2).transpose(1, 2).flatten(2)

    def predicted(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        s = q.shape[2]
        scores = (q @ keys.transpose(-1, -2)) * scale
        scores = torch.cat([scores, scores.new_zeros(*scores.shape[:-1], 1)], -1)
        superdiagonal = torch.ones(s, dtype=q.dtype).diag(1)[:s]
        own = (q * k).sum(-1) * scale
        scores = scores * (1 - superdiagonal) + torch.diag_embed(own, offset=1)[:, :, :s]
        scores = scores + torch.full((s, s + 1), -torch.inf, dtype=q.dtype).triu(2)
        weights = scores.softmax(-1)
        of_self = (weights * superdiagonal).sum(-1, keepdim=True)
        return (weights * (1 - superdiagonal))[..., :-1] @ values + of_self * v


class Published(nn.Module):
    """Our weights, in the published way: (tokens, logits) -> the logits after every step."""

    def __init__(self, module: EBM) -> None:
        super().__init__()
        self.model, self.sampler = module.model, module.sampler
        self.attention = nn.ModuleList(PublishedAttention(block) for block in self.model.trunk.blocks)

    def energies(self, x: Tensor, p: Tensor, step: int) -> Tensor:
        model = self.model
        token = model.landscape.weight[min(step, STEPS - 1)].expand(len(x), 1, -1)
        # The step is the first element of both halves; nothing is read where the predicted half begins.
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
                share = torch.rand(*y.shape[:2], 1, dtype=y.dtype)
                alpha = alpha / 2 + share * (alpha * 2 - alpha / 2)
            y = p - alpha * grad
            if not differentiated:
                y = y.detach()
            path.append(y)
        return path


def published(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """The published way."""
    module, batch = _module(setting, dtype), _batch(setting)
    net = Published(module)

    def loss() -> Tensor:
        y = torch.randn(*batch["x"].shape, VOCABULARY, dtype=dtype)
        path = net(batch["x"], y, setting.system)
        path = path if setting.system == 1 else path[-1:]
        return torch.stack([F.cross_entropy(y.flatten(0, 1), batch["target"].flatten()) for y in path]).mean()

    return loss, module


def ours(setting: Setting, dtype: torch.dtype, compiled: bool | None = None) -> tuple[Callable[[], Tensor], nn.Module]:
    """Ours, as `ebm fit` runs it by default."""
    module, batch = _module(setting, dtype, compiled), _batch(setting)
    return lambda: module.training_step(batch, 1)["loss"], module


def ours_compiled(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """Ours with EBM(compiled=True)."""
    return ours(setting, dtype, compiled=True)


def ours_checkpointed(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """Ours, with what attention found, its projection and the MLP of every block computed again in backward passes."""
    loss, module = ours(setting, dtype)
    for block in module.model.trunk.blocks:
        block.join = partial(checkpoint, block.join, use_reentrant=False)
    return loss, module


def transformer(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """A first-order step of the CausalTransformer of the same size."""
    torch.manual_seed(0)
    layers, heads, dim = SIZES[setting.size]
    net = CausalTransformer(VOCABULARY, layers=layers, heads=heads, dim=dim)
    module, batch = EBM(NextToken(net), TokenPrediction()).to(dtype), _batch(setting)
    return lambda: module.training_step(batch, 1)["loss"], module


def validation(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """The same prediction without a graph: two steps and the loss, as protocols take them."""
    module, batch = _module(setting, dtype), _batch(setting)

    @torch.no_grad()
    def loss() -> Tensor:
        pos = module.model.complete(batch)
        neg, _ = module.imagine(module.chains.start(module.sampler.extend(pos), ("y",)), STEPS)
        return module.objective(module.model, pos, neg)["loss"]

    return loss, module


def validation_published(setting: Setting, dtype: torch.dtype) -> tuple[Callable[[], Tensor], nn.Module]:
    """The same by the released code for text, which keeps the graph to differentiate once more."""
    return published(setting, dtype)


CONTENDERS = {
    one.__name__: one
    for one in (transformer, published, ours, ours_compiled, ours_checkpointed, validation_published, validation)
}
WORDS = {
    "transformer": "transformer of the same size, first order",
    "published": "the published way",
    "ours": "ours",
    "ours_compiled": "ours, `compiled: true`",
    "ours_checkpointed": "ours, halves of blocks checkpointed",
    "validation_published": "validation, the published way",
    "validation": "validation, ours",
}


def _module(setting: Setting, dtype: torch.dtype, compiled: bool | None = None) -> EBM:
    """The module of experiments/gladstone2025_ebt/text_laptop.yaml, in the size and the system asked for."""
    torch.manual_seed(0)
    layers, heads, dim = SIZES[setting.size]
    model = TextEBT(VOCABULARY, layers=layers, heads=heads, dim=dim, condition=StepToken(STEPS))
    if setting.system == 1:
        sampler = Descent(60.0, learned=True, rate_factor=180.0, detach=True, normalise=True, keep_path=True)
    else:
        sampler = Descent(5.0, normalise=True, noise=3.0, spread=2.0, spread_axes=2)
    chains, backprop = NoiseChains(GaussianNoise()), STEPS if setting.system == 1 else 1
    return EBM(model, TokenPrediction(), sampler, STEPS, backprop, chains, compiled=compiled).to(dtype)


def _batch(setting: Setting) -> State:
    generator = torch.Generator().manual_seed(1)
    shape = (setting.batch, setting.positions)
    return {name: torch.randint(VOCABULARY, shape, generator=generator) for name in ("x", "target")}


def _gradients(name: str, setting: Setting, dtype: torch.dtype) -> list[Tensor]:
    """Of all parameters, alpha among them, after noise from one seed."""
    loss, module = CONTENDERS[name](setting, dtype)
    torch.manual_seed(2)
    parameters = [p for p in module.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss(), parameters, materialize_grads=True))


def difference(name: str, setting: Setting, dtype: torch.dtype) -> float:
    """The largest of |g - ours| / |ours| over the parameters."""
    pairs = zip(_gradients(name, setting, dtype), _gradients("ours", setting, dtype), strict=True)
    return max(float((g - o).norm() / o.norm().clamp_min(1e-30)) for g, o in pairs)


def peak(step: Callable[[], object]) -> float:
    """What the tensors made in one step hold at most, in MiB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 2**20


def serve(name: str, setting: Setting) -> None:
    """One contender: says its memory when it is ready, and then times as many steps as each line it reads says."""
    torch.set_num_threads(1)
    keep_freed_memory()
    loss, module = CONTENDERS[name](setting, torch.float32)

    def step() -> None:
        module.zero_grad()
        if (found := loss()).requires_grad and not name.startswith("validation"):
            found.backward()

    step()
    step()
    print(json.dumps({"MiB": peak(step)}), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            begun = time.process_time()
            step()
            times.append(1e3 * (time.process_time() - begun))
        print(json.dumps(times), flush=True)


def measure(setting: Setting, names: list[str], rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """All contenders of one setting in turn, ``steps`` steps each in every round; the median of all steps counts."""
    command = [sys.executable, "-m", "benchmarks.ebt", *_options(setting), "--serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": HERE.parent}
    processes = {name: subprocess.Popen([*command, name], **pipes) for name in names}  # type: ignore[call-overload]
    found = {name: {**json.loads(process.stdout.readline()), "ms": []} for name, process in processes.items()}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            found[name]["ms"] += json.loads(process.stdout.readline())
    for process in processes.values():
        process.stdin.close()
        process.wait()
    for one in found.values():
        one["fastest_ms"], one["ms"] = min(one["ms"]), statistics.median(one["ms"])
    return found


def table(record: dict[str, Any]) -> list[str]:
    """The results in words, and a table for each setting."""
    lines = [
        f"{record['processor']}, 1 thread, float32; medians of {record['rounds']} rounds of {record['steps']} steps, "
        f"torch {record['torch']}; commit {record['commit'][:7]}{', with changes' if record['dirty'] else ''}. The "
        "gradients of all ways are compared with ours uncompiled: the largest relative difference of a parameter's."
    ]
    for key, found in record["settings"].items():
        first, theirs = found["transformer"], found["published"]
        lines += [
            "",
            f"{key}:",
            "",
            "| | ms | / transformer | published / it | MiB | published / it | gradients, float32 | float64 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, one in found.items():
            rival = found["validation_published"] if name.startswith("validation") else theirs
            ratios = (
                f"{one['ms'] / first['ms']:.2f}",
                f"{rival['ms'] / one['ms']:.2f}",
                f"{rival['MiB'] / one['MiB']:.2f}",
            )
            off = [f"{one[dtype]:.0e}" if dtype in one else "-" for dtype in ("float32", "float64")]
            cells = (WORDS[name], f"{one['ms']:.1f}", ratios[0], ratios[1], f"{one['MiB']:.0f}", ratios[2], *off)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Runs all contenders in turn and writes results/ebt.json and the table of README.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ebt", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each takes its turn")
    parser.add_argument("--steps", type=int, default=4, help="steps of one turn")
    parser.add_argument("--large", action="store_true", help="a model of 6 layers of 384 too")
    for name, default in zip(Setting._fields, ("4xs", 64, 16, 1), strict=True):
        parser.add_argument(f"--{name}", type=type(default), default=default, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--compare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    one = Setting(options.size, options.positions, options.batch, options.system)
    if options.serve:
        serve(options.serve, one)
        return
    if options.compare:
        torch.set_num_threads(1)
        dtypes = {"float32": torch.float32, "float64": torch.float64}
        print(json.dumps({name: difference(options.compare, one, dtype) for name, dtype in dtypes.items()}))
        return
    settings = [Setting("4xs", 64, 16, 1), Setting("4xs", 64, 16, 2)]
    settings += [Setting("xxs", 128, 4, 1)] if options.large else []
    facts = environment()
    record: dict[str, Any] = {
        "settings": {},
        "rounds": options.rounds,
        "steps": options.steps,
        "processor": facts["processor"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": facts["commit"],
        "dirty": facts["dirty"],
    }
    for setting in settings:
        found = measure(setting, list(CONTENDERS), options.rounds, options.steps)
        for name in ("published", "ours_checkpointed", "ours_compiled"):
            command = [sys.executable, "-m", "benchmarks.ebt", *_options(setting), "--compare", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent)
            found[name] |= json.loads(done.stdout.strip().splitlines()[-1])
        layers, _, dim = SIZES[setting.size]
        size = f"{setting.size} ({layers} layers of {dim}), {setting.positions} positions, batch {setting.batch}"
        record["settings"][f"{size}, System {setting.system}"] = found
        _write(record)
    print("\n".join(table(record)))


def _write(record: dict[str, Any]) -> None:
    """results/ebt.json, and the table of README.md."""
    (HERE / "results").mkdir(exist_ok=True)
    write_atomically(HERE / "results" / "ebt.json", json.dumps(record, indent=1) + "\n")
    readme = HERE / "README.md"
    head, tail = readme.read_text().split(BEGIN)[0], readme.read_text().split(END)[1]
    write_atomically(readme, "\n".join([head + BEGIN, *table(record), END]) + tail)


def _options(setting: Setting) -> list[str]:
    return [part for name, value in setting._asdict().items() for part in (f"--{name}", str(value))]


if __name__ == "__main__":
    main()
