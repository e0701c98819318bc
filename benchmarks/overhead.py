"""`python -m benchmarks --only overhead`: the cost of everything around the computation of a step.

The round trip of a batch of chains through a sample buffer; a batch of images, from our loader and from torch's; a
training step of `ebm fit`, with data, logging and Lightning, and of the same module in a bare loop; the agreement of
ranks on a received signal after each step; the processor time of commands; size and time of a checkpoint, which is
flushed to the disk.
"""

import logging
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain, repeat
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from torch import Tensor, distributed
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import (
    HERE,
    Contender,
    Options,
    Record,
    facts,
    facts_text,
    in_new_process,
    in_turns,
    installed,
    ratio,
    shown,
    spread,
)
from benchmarks.fitting import bare_ms, fit_ms, instantiate
from ebm_lightning import EBM
from ebm_lightning.chains import FloatStorage, SampleBuffer, Storage, Uint8Storage
from ebm_lightning.data import available
from ebm_lightning.data.base import DataModule, Subset
from ebm_lightning.data.images.base import ImageModule
from ebm_lightning.data.sources import InMemory
from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import MLP
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import SGLD
from ebm_lightning.training.callbacks.preemption import Preemption
from ebm_lightning.training.trainer import Trainer

DEVICES = ("cpu", "cuda")
ROUNDS, SECONDS = 3, 0.5
BATCH, IMAGE, REINIT_PROB = 128, (3, 32, 32), 0.05
QUICKSTART = HERE.parent / "experiments" / "quickstart" / "digits.yaml"
COMMANDS = {
    "`python -c pass`": ("-c", "pass"),
    "`ebm --help`": ("-m", "ebm_lightning", "--help"),
    "`ebm submit --help`": ("-m", "ebm_lightning", "submit", "--help"),
    "`import torch, lightning.pytorch`": ("-c", "import torch, lightning.pytorch"),
    "`ebm fit --help`": ("-m", "ebm_lightning", "fit", "--help"),
}


class Grays(ImageModule):
    """Images of independent gray levels in the format of CIFAR-10.

    Args:
        number: of training examples.
        batch_size: examples per batch.
    """

    def __init__(self, number: int, batch_size: int = BATCH) -> None:
        super().__init__(batch_size, val_size=0)
        self.number = number

    @property
    def shape(self) -> tuple[int, int, int]:
        return IMAGE

    def load(self) -> tuple[Subset, Subset]:
        source = InMemory(
            {"x": torch.randint(256, (self.number, *IMAGE), dtype=torch.uint8), "y": _labels(self.number)}
        )
        return Subset(source, torch.arange(self.number)), Subset(source, torch.arange(10))


def _labels(number: int) -> Tensor:
    return torch.arange(number) % 10


def filled(size: int, shape: tuple[int, ...], storage: Storage, device: str = "cpu") -> SampleBuffer:
    """A buffer filled with chains of uniform noise."""
    buffer = SampleBuffer(size, REINIT_PROB, storage=storage)
    values = storage.encode(torch.rand(size, *shape))
    flags = {"age": torch.ones(size, dtype=torch.int64), "alive": torch.ones(size, dtype=torch.bool)}
    buffer.load_state_dict({"store.x": values, **flags, "seen": torch.tensor(size)})
    buffer.to(torch.device(device))
    return buffer


def round_trip(buffer: SampleBuffer, pos: Tensor) -> None:
    """Take a batch of chains out of the buffer, and put it back."""
    buffer.finish(buffer.start({"x": pos}, ("x",)))


def trips(size: int, device: str, peers: list[str]) -> dict[str, Contender]:
    """Round trips of a batch of images: gathering and scattering alone, JEM's buffer of one tensor, and ours."""
    store, pos = torch.rand(size, *IMAGE, device=device), torch.rand(BATCH, *IMAGE, device=device)

    def gather_and_scatter() -> None:
        rows = torch.randint(size, (BATCH,), device=device)
        store[rows] = store[rows]

    def jem() -> None:
        rows = torch.randint(size, (BATCH,), device=device)
        noise, reinit = torch.rand_like(pos), torch.rand(BATCH, device=device) < REINIT_PROB
        store[rows] = torch.where(reinit[:, None, None, None], noise, store[rows])

    found: dict[str, Callable[[], object]] = {
        "gather and scatter alone": gather_and_scatter,
        "ours, float": partial(round_trip, filled(size, IMAGE, FloatStorage(), device), pos),
        "ours, uint8": partial(round_trip, filled(size, IMAGE, Uint8Storage(), device), pos),
        "JEM's buffer": jem,
    }
    if "ebmkit" in peers:
        import ebm

        theirs = ebm.ReplayBuffer(size, IMAGE, REINIT_PROB, torch.rand)
        found["ebmkit"] = lambda: theirs.push(theirs.sample(BATCH, device))
    return {name: Contender(step) for name, step in found.items()}


def batches(number: int, device: str) -> dict[str, Contender]:
    """The next batch of images on the device, in endless passes: ours from bytes, torch's from floats."""
    ours = iter(Grays(number).train_stream(10**6, device=device))
    data = TensorDataset(torch.rand(number, *IMAGE), _labels(number))
    found: dict[str, Callable[[], object]] = {"ours": partial(next, ours)}
    for workers in (0, 2):
        loader = DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=workers)
        endless = chain.from_iterable(repeat(loader))
        found[f"`DataLoader`, {workers} workers"] = partial(_moved, endless, device)
    return {name: Contender(step) for name, step in found.items()}


def _moved(endless: Iterator[list[Tensor]], device: str) -> list[Tensor]:
    return [tensor.to(device) for tensor in next(endless)]


def fits(quick: bool) -> dict[str, tuple[Path, dict[str, object]]]:
    """The runs of `ebm fit`: by name, a configuration and options."""
    steps = {"--trainer.max_steps": 60 if quick else 400}
    found = {"quickstart": (QUICKSTART, steps)}
    if available("mnist"):
        rbm = {"--data.init_args.batch_size": 512, "--model.init_args.chains.init_args.size": 512}
        fewer = {"--trainer.max_steps": 40, "--trainer.log_every_n_steps": 10} if quick else steps
        found["RBM, PCD-1, batch 512"] = (HERE / "rbm.yaml", {**rbm, **fewer})
    else:
        print("MNIST is missing (EBM_DATA): the step of an RBM is left out", flush=True)
    return found


def lightning(quick: bool, rounds: int) -> Record:
    """Milliseconds per step of `ebm fit` and of a bare loop, in processes of their own that take turns."""
    found: Record = {}
    for name, (config, options) in fits(quick).items():
        turns: list[tuple[float, float]] = []
        for _ in range(rounds):
            of_fit, whole = fit_ms(config, options)
            turns.append((of_fit, in_new_process(bare_ms, whole)))
        found[name] = {
            key: spread(values) for key, values in zip(("fit", "bare"), zip(*turns, strict=True), strict=True)
        }
    return found


def agreement(rounds: int, calls: int) -> Record:
    """Milliseconds per step of :class:`Preemption`, on the slower of two ranks."""
    found = {name: _on_ranks(number, rounds, calls) for name, number in (("1 rank", 1), ("2 ranks, gloo", 2))}
    return {name: spread([max(each) for each in zip(*times, strict=True)]) for name, times in found.items()}


def _on_ranks(number: int, rounds: int, calls: int) -> list[list[float]]:
    """The results of :func:`hook_ms` on each of n ranks, in processes of their own."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(number, get_context("spawn"), torch.set_num_threads, (1,)) as processes:
        started = [processes.submit(hook_ms, rank, number, port, rounds, calls) for rank in range(number)]
        return [one.result() for one in started]


def hook_ms(rank: int, ranks: int, port: int, rounds: int, calls: int) -> list[float]:
    """Milliseconds per call of the hook after a batch, in each of some rounds after the first, on one of the ranks."""
    if ranks > 1:
        distributed.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=ranks)
    trainer = SimpleNamespace(world_size=ranks, is_global_zero=False, global_step=0, max_steps=1)
    callback, times = Preemption(), list[float]()
    callback.on_train_start(trainer, None)
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for number in range(calls):
            callback.on_train_batch_end(trainer, None, None, None, number)
        times.append(1e3 * (time.perf_counter() - start) / calls)
    callback.teardown(trainer, None, "fit")
    return times[1:]


def start_times(rounds: int) -> Record:
    """Seconds of processor time of a process for each command."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=HERE.parent)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {name: spread(values) for name, values in found.items()}


def checkpoints(rounds: int, size: int) -> Record:
    """MB and milliseconds of a checkpoint: of the quickstart, and of a small net with chains of CIFAR-10's format."""
    module, data = instantiate(yaml.safe_load(QUICKSTART.read_text()))
    found = {"quickstart": checkpoint(module, data, rounds)}
    for storage in (FloatStorage(), Uint8Storage()):
        chains, net = SampleBuffer(size, storage=storage), DeepEnergy(MLP(3072, [16]))
        module = EBM(net, ContrastiveDivergence(), SGLD(1.0, noise=0.01), chains=chains)
        label = f"{size:,} chains of 3 x 32 x 32, {type(storage).__name__}"
        found[label] = checkpoint(module, Grays(BATCH), rounds)
    return found


def checkpoint(module: EBM, data: DataModule, rounds: int) -> Record:
    """Train one step, and save a checkpoint ``rounds`` times."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=1,
            accelerator="cpu",
            limit_val_batches=0,
            enable_checkpointing=False,
            default_root_dir=folder,
            **silent,
        )
        trainer.fit(module, datamodule=data)
        times = []
        for number in range(rounds):
            start = time.perf_counter()
            trainer.save_checkpoint(Path(folder) / f"{number}" / "step=1.ckpt")
            times.append(1e3 * (time.perf_counter() - start))
        size = sum(file.stat().st_size for file in (Path(folder) / "0").rglob("*") if file.is_file())
    return {"MB": size / 1e6, "ms": spread(times)}


def measure(options: Options) -> Iterator[Record]:
    """Yield the record after each part; on a GPU only chains and batches are measured."""
    quick, device, rounds = options.quick, options.device, options.turns(ROUNDS)
    peers, seconds = installed("ebmkit"), 0.02 if quick else SECONDS
    record = facts(torch.get_num_threads(), rounds, "lightning", "ebmkit", device=device)
    record["buffer"] = in_turns(trips(500 if quick else 10_000, device, peers), rounds, seconds, device)
    record["batch"] = in_turns(batches(1000 if quick else 10_000, device), rounds, seconds, device, wall=True)
    yield record
    if device == "cpu":
        record["start"] = start_times(rounds)
        record["checkpoint"] = checkpoints(rounds, 500 if quick else 10_000)
        record["agreement"] = agreement(rounds, 100 if quick else 5000)
        yield record
        record["lightning"] = lightning(quick, rounds)
        yield record


def table(record: Record) -> list[str]:
    """The times of each part, and ratios."""
    lines = [facts_text(record), "", f"Round trip of {BATCH} chains of 3 x 32 x 32 through a buffer:", ""]
    lines += _against(record["buffer"], "ms", "gather and scatter alone")
    lines += ["", f"The next {BATCH} images of 3 x 32 x 32:", "", *_against(record["batch"], "ms", "ours")]
    if found := record.get("start"):
        lines += ["", "Processor time of a process:", "", *_against(found, "s", "`python -c pass`")]
    if found := record.get("checkpoint"):
        lines += ["", "A checkpoint:", "", "| | MB | ms |", "|---|---|---|"]
        lines += [f"| {name} | {one['MB']:.3g} | {shown(one['ms'])} |" for name, one in found.items()]
    if found := record.get("lightning"):
        lines += ["", "A training step:", "", "| | `ebm fit`, ms | bare loop, ms | ratio |", "|---|---|---|---|"]
        for name, one in found.items():
            lines.append(f"| {name} | {shown(one['fit'])} | {shown(one['bare'])} | {ratio(one['fit'], one['bare'])} |")
    if agreed := record.get("agreement"):
        lines += ["", *_of_a_step(agreed, record.get("lightning", {}).get("quickstart", {}).get("fit"))]
    return lines


def _of_a_step(agreed: Record, step: Record | None) -> list[str]:
    """The agreement, and its share of the step of the quickstart if that was measured."""
    lines = [
        "The agreement on a signal after each step:",
        "",
        "| | us | % of the quickstart's step |",
        "|---|---|---|",
    ]
    for name, one in {**agreed, **({"the step itself, `ebm fit`, 1 rank": step} if step else {})}.items():
        share = f"{100 * one['median'] / step['median']:.3g}" if step else "-"
        lines.append(f"| {name} | {shown({key: 1e3 * ms for key, ms in one.items()})} | {share} |")
    return lines


def _against(found: Record, unit: str, first: str) -> list[str]:
    head = [f"| | {unit} | / {first} |", "|---|---|---|"]
    return head + [f"| {name} | {shown(one)} | {ratio(one, found[first])} |" for name, one in found.items()]
