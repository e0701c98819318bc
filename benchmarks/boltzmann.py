"""`python -m benchmarks.boltzmann`: training steps and AIS of Boltzmann machines beside scikit-learn and rbms.

Every measurement is a process of its own, the contenders take turns, and the median over the rounds counts. Ours is
`ebm fit` itself: the time between two lines of its metrics.csv, with data, logging and everything that Lightning does.
The floor is the matrix products alone, 2 k + 3 of them for a step of PCD-k, under the same precision; for a joint
update of a 784-500-1000 deep machine those of 10 mean-field sweeps, 5 Gibbs sweeps and the gradient. Ours runs twice:
in float32 as the others do, and with ``trainer.precision: bf16-mixed``, whose matrix products round the weights to
bfloat16, while binary units lose nothing.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from ebm_lightning.kernels import matmul_error
from ebm_lightning.metrics import Linear, ais
from ebm_lightning.models import RBM
from ebm_lightning.runs import environment, write_atomically
from ebm_lightning.units import Bernoulli

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: written by `python -m benchmarks.boltzmann` -->", "<!-- end of results -->"
VISIBLE, HIDDEN, TOP, THREADS = 784, 500, 1000, 2
TRAINING = [(1, 100), (1, 512), (10, 100), (10, 512)]
"""k of PCD-k, and the batch, which is also the number of chains."""
CHAINS, TEMPERATURES = 100, 400


def main() -> None:
    """Runs all contenders in turn and writes results/boltzmann.json and the table of README.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boltzmann", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; the median counts")
    parser.add_argument("--one", nargs=3, metavar=("CONTENDER", "K", "BATCH"), help="measure one and print it")
    options = parser.parse_args()
    if options.one:
        name, k, batch = options.one
        torch.set_num_threads(THREADS)
        print(json.dumps(CONTENDERS[name](int(k), int(batch))))
        return
    found: dict[str, list[float]] = {}
    absent = {"rbms", "rbms_ais"} if _version("rbms") is None else set()
    for round_ in range(options.rounds):
        for name, k, batch in _plan():
            if name not in absent:
                value = _measure(name, k, batch)
                found.setdefault(f"{name} {k} {batch}", []).append(value)
                print(f"round {round_ + 1}: {name:10} k={k:<3} batch={batch:<4} {value:9.3f}", flush=True)
    facts = environment()
    record = {
        "medians": {key: statistics.median(values) for key, values in found.items()},
        "spread": {key: [min(values), max(values)] for key, values in found.items()},
        "rounds": options.rounds,
        "threads": THREADS,
        "processor": facts["processor"],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "scikit-learn", "rbms", "lightning", "numpy")},
        "commit": facts["commit"],
        "dirty": facts["dirty"],
        "matmul_error": _matmul_error(),
    }
    (HERE / "results").mkdir(exist_ok=True)
    write_atomically(HERE / "results" / "boltzmann.json", json.dumps(record, indent=1) + "\n")
    readme = HERE / "README.md"
    head, tail = readme.read_text().split(BEGIN)[0], readme.read_text().split(END)[1]
    write_atomically(readme, "\n".join([head + BEGIN, *table(record), END]) + tail)
    print("\n".join(table(record)))


def table(record: dict) -> list[str]:
    """The results in words and a table: milliseconds a step, or microseconds a chain and temperature, and ratios."""
    medians = record["medians"]
    lines = [
        f"{record['processor']}, {record['threads']} threads, float32; medians of {record['rounds']} rounds, "
        f"torch {record['versions']['torch']}, scikit-learn {record['versions']['scikit-learn']}, "
        f"rbms {record['versions']['rbms'] or 'not installed'}; commit {record['commit'][:7]}. Matrix products under "
        f"`matmul_precision: medium` are off by {record['matmul_error']:.1e} of their largest entry.",
        "",
        "| | ours | floor | ours / floor | rbms | rbms / ours | scikit-learn | scikit-learn / ours |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def row(label: str, ours: str, others: list[str]) -> str:
        cells = [f"{medians[ours]:.2f}"]
        for i, key in enumerate(others):
            value = medians.get(key)
            ratio = None if value is None else (medians[ours] / value if i == 0 else value / medians[ours])
            cells += ["-", "-"] if value is None else [f"{value:.2f}", f"{ratio:.2f}"]
        return f"| {label} | {' | '.join(cells)} |"

    for k, batch in TRAINING:
        for suffix, words in (("", ""), ("_bf16", ", bfloat16 products")):
            keys = [f"{name} {k} {batch}" for name in (f"floor{suffix}", "rbms", "sklearn")]
            lines.append(row(f"PCD-{k}, batch {batch}{words}, ms a step", f"ebm{suffix} {k} {batch}", keys))
    for suffix, words in (("", ""), ("_bf16", ", bfloat16 products")):
        label = f"joint update of a 784-500-1000 deep machine, batch 100{words}, ms"
        lines.append(row(label, f"dbm{suffix} 5 100", [f"floor_dbm{suffix} 5 100", "none", "none"]))
    keys = [f"{name} 0 {CHAINS}" for name in ("floor_ais", "rbms_ais", "none")]
    lines.append(row(f"AIS, {CHAINS} chains, us a chain and temperature", f"ebm_ais 0 {CHAINS}", keys))
    return lines


def _plan() -> list[tuple[str, int, int]]:
    plan = []
    for k, batch in TRAINING:
        names = ["ebm", "ebm_bf16", "floor", "floor_bf16", "rbms", *(["sklearn"] if k == 1 else [])]
        plan += [(name, k, batch) for name in names]
    plan += [(name, 5, 100) for name in ("dbm", "dbm_bf16", "floor_dbm", "floor_dbm_bf16")]
    return plan + [(name, 0, CHAINS) for name in ("ebm_ais", "floor_ais", "rbms_ais")]


def _measure(name: str, k: int, batch: int) -> float:
    command = [sys.executable, "-m", "benchmarks.boltzmann", "--one", name, str(k), str(batch)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent)
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def _median_ms(step: Callable[[], object], seconds: float = 1.5) -> float:
    """The median time of a step in milliseconds, after a warm-up of a fifth of ``seconds``."""
    times: list[float] = []
    begun = time.perf_counter()
    while (now := time.perf_counter()) - begun < 1.2 * seconds or len(times) < 10:
        step()
        if now - begun > 0.2 * seconds:
            times.append(time.perf_counter() - now)
    return 1e3 * statistics.median(times)


def ebm(k: int, batch: int, precision: str = "32-true", config: str = "rbm.yaml") -> float:
    """Milliseconds a step of `ebm fit -c benchmarks/<config>`: the median of its logging intervals."""
    steps = 400 if k == 1 and batch <= 100 else 200
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "--model.init_args.steps": k,
            "--model.init_args.chains.init_args.size": batch,
            "--data.init_args.batch_size": batch,
            "--trainer.max_steps": steps,
            "--trainer.precision": precision,
            "--run": f"{folder}/run",
        }
        command = [sys.executable, "-m", "ebm_lightning", "fit", "-c", str(HERE / config)]
        command += [str(part) for option in options.items() for part in option]
        quiet = {**os.environ, "WANDB_MODE": "disabled"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=quiet)
        with open(f"{folder}/run/metrics.csv") as file:
            rows = [row for row in csv.DictReader(file) if row["name"] == "train/gap"]
    times = [(float(row["time"]), int(row["step"])) for row in rows][1:]
    each = [(b - a) / (n - m) for (a, m), (b, n) in pairwise(times)]
    return 1e3 * statistics.median(each)


def ebm_bf16(k: int, batch: int) -> float:
    """The same under bf16-mixed."""
    return ebm(k, batch, "bf16-mixed")


def floor(k: int, batch: int, dtype: torch.dtype = torch.float32) -> float:
    """Milliseconds of the 2 k + 3 matrix products of a step of PCD-k or CD-k."""
    torch.set_float32_matmul_precision("medium")
    shapes = ((batch, VISIBLE), (batch, HIDDEN), (VISIBLE, HIDDEN))
    v, h, w = (torch.rand(shape).to(dtype) for shape in shapes)

    def step() -> None:
        for _ in range(k + 1):
            v @ w
        for _ in range(k):
            h @ w.T
        for _ in range(2):
            v.T @ h

    return _median_ms(step)


def floor_bf16(k: int, batch: int) -> float:
    """The same in bfloat16."""
    return floor(k, batch, torch.bfloat16)


def dbm(k: int, batch: int) -> float:
    """Milliseconds of a joint update of a deep machine with k Gibbs sweeps, in float32."""
    return ebm(k, batch, config="dbm.yaml")


def dbm_bf16(k: int, batch: int) -> float:
    """The same under bf16-mixed."""
    return ebm(k, batch, "bf16-mixed", "dbm.yaml")


def floor_dbm(k: int, batch: int, dtype: torch.dtype = torch.float32) -> float:
    """Milliseconds of the matrix products of such an update.

    Mean field needs x W1 once and two products with W2 for each of 10 sweeps after the first; a Gibbs sweep needs two
    products with each matrix; the gradient two with each.
    """
    torch.set_float32_matmul_precision("medium")
    shapes = ((batch, VISIBLE), (batch, HIDDEN), (batch, TOP), (VISIBLE, HIDDEN), (HIDDEN, TOP))
    x, h1, h2, w1, w2 = (torch.rand(shape).to(dtype) for shape in shapes)

    def step() -> None:
        x @ w1
        for _ in range(10):
            h1 @ w2
            h2 @ w2.T
        h1 @ w2
        for _ in range(k):
            x @ w1
            h2 @ w2.T
            h1 @ w1.T
            h1 @ w2
        for _ in range(2):
            x.T @ h1
            h1.T @ h2

    return _median_ms(step)


def floor_dbm_bf16(k: int, batch: int) -> float:
    """The same in bfloat16."""
    return floor_dbm(k, batch, torch.bfloat16)


def rbms(k: int, batch: int) -> float:
    """Milliseconds a step of the training loop of the package rbms, without its files and progress bar."""
    from rbms.bernoulli_bernoulli.classes import BBRBM  # type: ignore[import-untyped]
    from rbms.training.pcd import fit_batch_pcd  # type: ignore[import-untyped]

    data, weights = torch.from_numpy(_data()), torch.ones(60_000, 1)
    machine = BBRBM(0.01 * torch.randn(VISIBLE, HIDDEN), torch.zeros(VISIBLE), torch.zeros(HIDDEN))
    for parameter in machine.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.SGD(machine.parameters(), lr=0.01, maximize=True)
    chains = machine.init_chains(batch)

    def step() -> None:
        nonlocal chains
        rows = torch.randperm(len(data))[:batch]
        optimizer.zero_grad(set_to_none=False)
        chains, _ = fit_batch_pcd((data[rows], weights[rows]), chains, machine, gibbs_steps=k, beta=1.0)
        optimizer.step()

    with torch.no_grad():
        return _median_ms(step)


def sklearn(k: int, batch: int) -> float:
    """Milliseconds a step of scikit-learn's BernoulliRBM, which is PCD-1, in float32."""
    from sklearn.neural_network import BernoulliRBM

    assert k == 1
    machine = BernoulliRBM(HIDDEN, batch_size=batch, learning_rate=0.01, n_iter=1, random_state=0)
    some = _data()[: 50 * batch]
    machine.fit(some)
    return _median_ms(lambda: machine.fit(some)) / 50


def ebm_ais(k: int, chains: int) -> float:
    """Microseconds of our AIS for each chain and temperature."""
    torch.set_float32_matmul_precision("medium")
    model, betas = RBM({"x": Bernoulli([VISIBLE])}, HIDDEN), Linear(TEMPERATURES)()
    path = model.annealing_path()
    return 1e3 * _median_ms(lambda: ais(path, betas, chains)) / chains / TEMPERATURES


def floor_ais(k: int, chains: int) -> float:
    """Microseconds of the two matrix products of a transition, for each chain."""
    torch.set_float32_matmul_precision("medium")
    v, h, w = torch.rand(chains, VISIBLE), torch.rand(chains, HIDDEN), torch.randn(VISIBLE, HIDDEN)
    return 1e3 * _median_ms(lambda: (v @ w, h @ w.T)) / chains


def rbms_ais(k: int, chains: int) -> float:
    """Microseconds of the AIS of the package rbms for each chain and temperature."""
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.partition_function.ais import compute_partition_function_ais  # type: ignore[import-untyped]

    machine = BBRBM(0.01 * torch.randn(VISIBLE, HIDDEN), torch.zeros(VISIBLE), torch.zeros(HIDDEN))
    with torch.no_grad():
        whole = _median_ms(lambda: compute_partition_function_ais(chains, TEMPERATURES, machine))
    return 1e3 * whole / chains / TEMPERATURES


def _data() -> np.ndarray:
    """60,000 binary vectors as dense as binarised MNIST."""
    return (np.random.default_rng(0).random((60_000, VISIBLE), dtype=np.float32) < 0.13).astype(np.float32)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _matmul_error() -> float:
    torch.set_float32_matmul_precision("medium")
    return matmul_error()


CONTENDERS: dict[str, Callable[[int, int], float]] = {
    one.__name__: one
    for one in (
        *(ebm, ebm_bf16, floor, floor_bf16, rbms, sklearn),
        *(dbm, dbm_bf16, floor_dbm, floor_dbm_bf16),
        *(ebm_ais, floor_ais, rbms_ais),
    )
}

if __name__ == "__main__":
    main()
