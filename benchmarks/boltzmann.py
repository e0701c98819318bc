"""`python -m benchmarks --only boltzmann`: training steps and AIS of Boltzmann machines, ours and of other packages.

Every measurement is a process of its own, the contenders take turns, and the result is the median over the rounds. Ours
is `ebm fit`: the time between two rows of metrics.csv, with data, logging and Lightning. The others are scikit-learn's
BernoulliRBM (PCD-1), the training loop of rbms (PCD-k), the `fit` of learnergy (CD-k), with its data loader and
pseudo-likelihood, and a gradient of CD-1 by thrml, which is designed for sparse graphs. The lower bound is the matrix
products alone in the same precision: 2 k + 3 for a step of PCD-k or CD-k; for a joint update of a 784-500-1000 deep
machine those of 10 mean-field sweeps, 5 Gibbs sweeps and the gradient. Ours is measured in float32, like the others,
and with ``trainer.precision: bf16-mixed``, whose matrix products round the weights to bfloat16; binary units are exact.
"""

import statistics
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.common import (
    HERE,
    Options,
    Record,
    facts,
    facts_text,
    in_new_process,
    installed,
    median_ms,
    require_mnist,
)
from benchmarks.fitting import fit_ms
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.evaluation.metrics import Linear, ais
from ebm_lightning.utils.fused_ops import matmul_error

DEVICES = ("cpu",)
ROUNDS = 5
VISIBLE, HIDDEN, TOP, THREADS = 784, 500, 1000, 2
TRAINING = [(1, 100), (1, 512), (10, 100), (10, 512)]
"""k of PCD-k, and the batch, which is also the number of chains."""
CONTRASTIVE = [(1, 100), (1, 512)]
"""k of CD-k, and the batch."""
CHAINS, TEMPERATURES = 100, 400
PEERS = ("rbms", "scikit-learn", "learnergy", "thrml")
OWNERS = {"rbms": "rbms", "rbms_ais": "rbms", "sklearn": "scikit-learn", "learnergy": "learnergy", "thrml": "thrml"}
"""The package of each contender."""


def measure(options: Options) -> Iterator[Record]:
    """Yield the record after each round. Raises ValueError if MNIST is missing."""
    require_mnist("boltzmann")
    present = installed(*PEERS)
    plan = [one for one in _plan(options.quick) if OWNERS.get(one[0]) in (None, *present)]
    found: dict[str, list[float]] = {}
    for number in range(1, options.turns(ROUNDS) + 1):
        for name, k, batch in plan:
            value = in_new_process(CONTENDERS[name], k, batch, threads=THREADS)
            found.setdefault(f"{name} {k} {batch}", []).append(value)
            print(f"round {number}: {name:10} k={k:<3} batch={batch:<4} {value:9.3f}", flush=True)
        yield {
            "medians": {key: statistics.median(values) for key, values in found.items()},
            "spread": {key: [min(values), max(values)] for key, values in found.items()},
            **facts(THREADS, number, *PEERS, "lightning", "numpy"),
            "matmul_error": in_new_process(_matmul_error),
        }


def table(record: Record) -> list[str]:
    """Milliseconds per step, or microseconds per chain and temperature, and ratios, of all that was measured."""
    medians = record["medians"]
    peers = [
        peer for peer in ("rbms", "sklearn", "learnergy", "thrml") if any(key.startswith(f"{peer} ") for key in medians)
    ]
    columns = ["ours", "lower bound", "ours / lower bound"]
    columns += [column for peer in peers for column in (OWNERS[peer], f"{OWNERS[peer]} / ours")]
    error = f"{record['matmul_error']:.1e}"
    lines = [
        f"{facts_text(record)} Matrix products under `matmul_precision: medium` have an error of {error}, "
        "relative to their largest entry.",
        "",
        f"| | {' | '.join(columns)} |",
        f"|{'---|' * (len(columns) + 1)}",
    ]

    def row(label: str, ours: str, floor: str, others: dict[str, str]) -> None:
        if ours not in medians:
            return
        mine = medians[ours]
        cells = [f"{mine:.2f}", f"{medians[floor]:.2f}", f"{mine / medians[floor]:.2f}"]
        for peer in peers:
            value = medians.get(others.get(peer, ""))
            cells += ["-", "-"] if value is None else [f"{value:.2f}", f"{value / mine:.2f}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")

    for suffix, arithmetic in (("", ""), ("_bf16", ", bfloat16 products")):
        for k, batch in CONTRASTIVE:
            key = f"{k} {batch}"
            label = f"CD-{k}, batch {batch}{arithmetic}, ms per step"
            others = {peer: f"{peer} {key}" for peer in ("learnergy", "thrml")}
            row(label, f"ebm_cd{suffix} {key}", f"floor{suffix} {key}", others)
    for k, batch in TRAINING:
        for suffix, arithmetic in (("", ""), ("_bf16", ", bfloat16 products")):
            key = f"{k} {batch}"
            others = {peer: f"{peer} {key}" for peer in ("rbms", "sklearn")}
            row(
                f"PCD-{k}, batch {batch}{arithmetic}, ms per step", f"ebm{suffix} {key}", f"floor{suffix} {key}", others
            )
    for suffix, arithmetic in (("", ""), ("_bf16", ", bfloat16 products")):
        label = f"joint update of a 784-500-1000 deep machine, batch 100{arithmetic}, ms"
        row(label, f"dbm{suffix} 5 100", f"floor_dbm{suffix} 5 100", {})
    label = f"AIS, {CHAINS} chains, us per chain and temperature"
    row(label, f"ebm_ais 0 {CHAINS}", f"floor_ais 0 {CHAINS}", {"rbms": f"rbms_ais 0 {CHAINS}"})
    return lines


def _plan(quick: bool) -> list[tuple[str, int, int]]:
    plan = [(name, k, batch) for k, batch in CONTRASTIVE for name in ("ebm_cd", "ebm_cd_bf16", "learnergy")]
    plan.append(("thrml", 1, 100))
    for k, batch in TRAINING:
        names = ["ebm", "ebm_bf16", "floor", "floor_bf16", "rbms", *(["sklearn"] if k == 1 else [])]
        plan += [(name, k, batch) for name in names]
    plan += [(name, 5, 100) for name in ("dbm", "dbm_bf16", "floor_dbm", "floor_dbm_bf16")]
    plan += [(name, 0, CHAINS) for name in ("ebm_ais", "floor_ais", "rbms_ais")]
    return [one for one in plan if one[1:] == (1, 100) and one[0] != "thrml"] if quick else plan


def ebm(k: int, batch: int, precision: str = "32-true", config: str = "rbm.yaml", persistent: bool = True) -> float:
    """Milliseconds per step of `ebm fit -c benchmarks/<config>`: the median of its logging intervals."""
    options = {
        "--model.init_args.steps": k,
        "--data.init_args.batch_size": batch,
        "--trainer.max_steps": 400 if k == 1 and batch <= 100 else 200,
        "--trainer.precision": precision,
    }
    chains = (
        {"--model.init_args.chains.init_args.size": batch} if persistent else {"--model.init_args.chains": "DataChains"}
    )
    return fit_ms(HERE / config, {**options, **chains})[0]


def ebm_bf16(k: int, batch: int) -> float:
    """The same under bf16-mixed."""
    return ebm(k, batch, "bf16-mixed")


def ebm_cd(k: int, batch: int) -> float:
    """Milliseconds per step of CD-k: chains start at the data."""
    return ebm(k, batch, persistent=False)


def ebm_cd_bf16(k: int, batch: int) -> float:
    """The same under bf16-mixed."""
    return ebm(k, batch, "bf16-mixed", persistent=False)


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

    return median_ms(step)


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

    return median_ms(step)


def floor_dbm_bf16(k: int, batch: int) -> float:
    """The same in bfloat16."""
    return floor_dbm(k, batch, torch.bfloat16)


def rbms(k: int, batch: int) -> float:
    """Milliseconds per step of the training loop of the package rbms, without its files and progress bar."""
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
        return median_ms(step)


def sklearn(k: int, batch: int) -> float:
    """Milliseconds per step of scikit-learn's BernoulliRBM, which is PCD-1, in float32."""
    from sklearn.neural_network import BernoulliRBM

    assert k == 1
    machine = BernoulliRBM(HIDDEN, batch_size=batch, learning_rate=0.01, n_iter=1, random_state=0)
    some = _data()[: 50 * batch]
    machine.fit(some)
    return median_ms(lambda: machine.fit(some)) / 50


def learnergy(k: int, batch: int) -> float:
    """Milliseconds per step of `fit` of learnergy's RBM, which is CD-k: data loader, step and pseudo-likelihood."""
    from learnergy.models.bernoulli import RBM as Theirs  # type: ignore[import-not-found,unused-ignore]
    from torch.utils.data import TensorDataset

    machine = Theirs(VISIBLE, HIDDEN, steps=k, learning_rate=0.01)
    some = torch.from_numpy(_data()[: 20 * batch])
    data = TensorDataset(some, torch.zeros(len(some)))
    return median_ms(lambda: machine.fit(data, batch_size=batch, epochs=1)) / 20


def thrml(k: int, batch: int) -> float:
    """Milliseconds of a gradient of CD-1 by thrml: chains from the data, one sweep, the moments of every edge."""
    import jax
    from jax import numpy as jnp
    from thrml import Block, SamplingSchedule, SpinNode
    from thrml.models import IsingEBM, IsingTrainingSpec, estimate_kl_grad

    assert k == 1
    v, h = ([SpinNode() for _ in range(number)] for number in (VISIBLE, HIDDEN))
    edges = [(one, other) for one in v for other in h]
    weights = 0.01 * jax.random.normal(jax.random.key(0), (len(edges),))
    model = IsingEBM([*v, *h], edges, jnp.zeros(VISIBLE + HIDDEN), weights, jnp.array(1.0))
    once, visible, hidden = SamplingSchedule(1, 1, 1), Block(v), Block(h)
    spec = IsingTrainingSpec(model, [visible], [], [hidden], [hidden, visible], once, once)

    @jax.jit
    def gradient(key, data, chains):
        return estimate_kl_grad(key, spec, [*v, *h], edges, [data], [], [chains[None]], [chains, data])[:2]

    data, chains = jnp.asarray(_data()[:batch] > 0), jnp.zeros((batch, HIDDEN), bool)
    return median_ms(lambda: jax.block_until_ready(gradient(jax.random.key(1), data, chains)))


def ebm_ais(k: int, chains: int) -> float:
    """Microseconds of our AIS for each chain and temperature."""
    torch.set_float32_matmul_precision("medium")
    model, betas = RBM({"x": Bernoulli([VISIBLE])}, HIDDEN), Linear(TEMPERATURES)()
    path = model.annealing_path()
    return 1e3 * median_ms(lambda: ais(path, betas, chains)) / chains / TEMPERATURES


def floor_ais(k: int, chains: int) -> float:
    """Microseconds of the two matrix products of a transition, for each chain."""
    torch.set_float32_matmul_precision("medium")
    v, h, w = torch.rand(chains, VISIBLE), torch.rand(chains, HIDDEN), torch.randn(VISIBLE, HIDDEN)
    return 1e3 * median_ms(lambda: (v @ w, h @ w.T)) / chains


def rbms_ais(k: int, chains: int) -> float:
    """Microseconds of the AIS of the package rbms for each chain and temperature."""
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.partition_function.ais import compute_partition_function_ais  # type: ignore[import-untyped]

    machine = BBRBM(0.01 * torch.randn(VISIBLE, HIDDEN), torch.zeros(VISIBLE), torch.zeros(HIDDEN))
    with torch.no_grad():
        whole = median_ms(lambda: compute_partition_function_ais(chains, TEMPERATURES, machine))
    return 1e3 * whole / chains / TEMPERATURES


def _data() -> np.ndarray:
    """60,000 binary vectors with the density of binarized MNIST."""
    return (np.random.default_rng(0).random((60_000, VISIBLE), dtype=np.float32) < 0.13).astype(np.float32)


def _matmul_error() -> float:
    torch.set_float32_matmul_precision("medium")
    return matmul_error()


CONTENDERS: dict[str, Callable[[int, int], float]] = {
    one.__name__: one
    for one in (
        *(ebm, ebm_bf16, ebm_cd, ebm_cd_bf16, floor, floor_bf16, rbms, sklearn, learnergy, thrml),
        *(dbm, dbm_bf16, floor_dbm, floor_dbm_bf16),
        *(ebm_ais, floor_ais, rbms_ais),
    )
}
