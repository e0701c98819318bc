"""Replicas and fast weights against enumeration, loops written out, and the runs that they are part of.

Statistical checks fail by chance once in a million; starts and seeds are fixed by conftest.
"""

import copy
import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, assert_counts, bits, identical, index_of, log_partition, probabilities
from torch import Tensor
from torch.utils.data import DataLoader

from ebm_lightning import EBM, Trainer
from ebm_lightning.chains import SampleBuffer
from ebm_lightning.core import EnergyModel, Info, Sampler, State, run
from ebm_lightning.distributions import BernoulliNoise
from ebm_lightning.energies import RBM, DoubleWell, Ising
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.samplers import (
    FastWeights,
    Gibbs,
    Langevin,
    MeanField,
    ParallelTempering,
    TrajectoryTempering,
    log_partition_along,
)
from ebm_lightning.samplers.wrappers.parallel_tempering import exchange

F64 = torch.float64
SIGMAS = float(stats.norm.isf(FALSE_ALARM / 2))
BETAS = (1.0, 0.75, 0.5, 0.25, 0.0)


class Still(Sampler):
    """Moves nothing, so that a step of its wrapper is a swap alone."""

    def __init__(self, free: tuple[str, ...] = ("x",)) -> None:
        self.free = free

    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        return state, {}


class Failing(Still):
    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        raise RuntimeError("the inner sampler fails")


def _rbm(visible: int = 4, hidden: int = 3, weight_std: float = 1.0, **settings: object) -> RBM:
    model = RBM({"x": Bernoulli([visible])}, hidden, weight_std=weight_std, **settings).double()
    with torch.no_grad():
        model.hidden_bias.uniform_(-1, 1)
        model.units("x").bias.uniform_(-1, 1)
    return model


def _two_modes(strength: float = 1.0) -> RBM:
    """Six units that are nearly all off, with probability about 0.7, or nearly all on, for strength 1."""
    model = RBM({"x": Bernoulli([6])}, 3).double()
    with torch.no_grad():
        model.weight.fill_(5.0 * strength)
        model.hidden_bias.fill_(-15.0 * strength)
        model.units("x").bias.fill_((-7.5 - 0.14) * strength)
    return model


def _run(sampler: Sampler, model: EnergyModel, state: State, steps: int) -> State:
    return run(sampler, model, sampler.augment_state(state), steps)[0]


def _assert_law(x: Tensor, model: EnergyModel) -> None:
    """Draws (n, units) of one variable x against the enumerated law of an energy over it."""
    units = x.shape[1]
    assert_counts(index_of(x).bincount(minlength=2**units), probabilities(model, {"x": bits(units)}))


# Parallel tempering.


def test_replicas_cross_between_modes_that_hold_gibbs_and_reach_the_enumerated_law() -> None:
    """All chains start in the mode of all off: Gibbs sampling leaves it in none of 400 000 sweeps."""
    n, steps, model = 4000, 100, _two_modes()
    start, gibbs = {"x": torch.zeros(n, 6, dtype=F64)}, Gibbs(("h", "x"))
    stuck = _run(gibbs, model, start, steps)
    assert (stuck["x"].sum(1) > 3).sum() == 0
    end = _run(ParallelTempering(gibbs, betas=BETAS), model, start, 2 * steps)
    assert (end["x"].sum(1) > 3).sum() > n / 5
    _assert_law(end["x"], model)
    for k, beta in enumerate(BETAS[1:]):
        _assert_law(end["x_replicas"][:, k], model.tempered(beta))


def test_replicas_of_both_colors_of_an_ising_lattice_reach_its_law_below_the_critical_temperature() -> None:
    """All four spins start up; the lattice of side 2 has each of its bonds twice."""
    n, model = 5000, Ising(2, coupling=0.6, field=0.05).double()
    spins = bits(4, low=-1.0)
    states = {"even": spins[:, :2].view(-1, 2, 1), "odd": spins[:, 2:].view(-1, 2, 1)}
    start = {name: torch.ones(n, 2, 1, dtype=F64) for name in states}
    end = _run(ParallelTempering(Gibbs(("even", "odd")), betas=BETAS), model, start, 60)
    drawn = torch.cat([end["even"].flatten(1), end["odd"].flatten(1)], 1)
    assert_counts(index_of(drawn).bincount(minlength=16), probabilities(model, states))


@pytest.mark.parametrize(
    ("model", "sampler", "start"),
    [
        (_rbm, MeanField(("h", "x")), lambda n: torch.rand(n, 4, dtype=F64)),
        (lambda: DoubleWell(3, tilt=0.4), Langevin(0.03, temperature=0.0), lambda n: torch.randn(n, 3, dtype=F64)),
    ],
    ids=["mean field", "descent"],
)
def test_a_step_on_all_rungs_at_once_is_that_of_a_loop_over_temperatures(model, sampler, start) -> None:
    """Kernels without noise; what swaps permute, the sums over the rungs of x and of its square do not see."""
    model, n, rungs = model(), 7, len(BETAS)
    x = start(n * rungs).view(n, rungs, -1)
    end, info = ParallelTempering(sampler, betas=BETAS).step(model, {"x": x[:, 0], "x_replicas": x[:, 1:]})
    ours = torch.cat([end["x"][:, None], end["x_replicas"]], 1)
    loop = torch.stack([sampler.step(model.tempered(b), {"x": x[:, k]})[0]["x"] for k, b in enumerate(BETAS)], 1)
    for power in (1, 2):
        assert torch.allclose(ours.pow(power).sum(1), loop.pow(power).sum(1), rtol=1e-12)
    assert 0 < info["swap"] < 1


@pytest.mark.parametrize("rungs", [2, 3, 4])
def test_a_swap_leaves_the_product_of_all_laws_invariant(rungs: int) -> None:
    """Exact draws of two units on each rung, swapped once: every combination against the product of their laws."""
    n, model, betas = 50_000, _rbm(2, 3, weight_std=4.0), torch.tensor((1.0, 0.6, 0.3, 0.0)[:rungs], dtype=F64)
    laws = [probabilities(model.tempered(float(beta)), {"x": bits(2)}) for beta in betas]
    cells = torch.stack([torch.multinomial(law, n, replacement=True) for law in laws], 1)
    tempered = model.tempered(betas.repeat(n))

    def energies(ladder: State) -> Tensor:
        return tempered.energy({"x": ladder["x"].flatten(0, 1)}).view(n, rungs)

    swapped, _, acceptance = exchange({"x": bits(2)[cells]}, energies)
    assert ((acceptance > 0.05) & (acceptance < 0.99)).all()
    after = torch.stack([index_of(swapped["x"][:, k]) for k in range(rungs)], 1)
    moved = (after != cells).any(1)
    assert 0.01 < moved.double().mean() < 0.9
    product = laws[0]
    for law in laws[1:]:
        product = torch.outer(product, law).flatten()
    place = (after * 4 ** torch.arange(rungs - 1, -1, -1)).sum(1)
    assert_counts(place.bincount(minlength=4**rungs), product)


def test_even_and_odd_pairs_are_tried_equally_often() -> None:
    ladder = {"x": torch.arange(5.0).view(1, 5)}
    ends = [exchange(ladder, lambda _: torch.zeros(1, 5)) for _ in range(400)]
    even = sum(int(tried[0]) == 0 for _, tried, _ in ends)
    assert abs(even - 200) < SIGMAS * 10
    for swapped, tried, acceptance in ends:
        expected = [1.0, 0.0, 3.0, 2.0, 4.0] if tried[0] == 0 else [0.0, 2.0, 1.0, 4.0, 3.0]
        assert swapped["x"].tolist() == [expected]
        assert acceptance.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["temperatures", "snapshots"])
def test_equal_rungs_always_swap(kind: str) -> None:
    model, x, y = _rbm(), torch.rand(6, 4, dtype=F64), torch.rand(6, 4, dtype=F64)
    sampler = (
        ParallelTempering(Still(), betas=(1.0, 1.0))
        if kind == "temperatures"
        else TrajectoryTempering.of(Still(), [copy.deepcopy(model)])
    )
    end, info = sampler.step(model, {"x": x, "x_replicas": y[:, None]})
    assert info["swap"] == pytest.approx(1)
    assert torch.equal(end["x"], y)
    assert torch.equal(end["x_replicas"][:, 0], x)


def test_clamped_variables_are_the_same_objects_riders_survive_and_labels_condition_every_rung() -> None:
    """With y clamped, the law of x is p(x | y) on the rung of the model."""
    n = 8000
    model = RBM({"x": Bernoulli([3]), "y": Softmax(2)}, 3, weight_std=2.0).double()
    sampler = ParallelTempering(Gibbs(("h", "x")), betas=(1.0, 0.5))
    batch = {"x": torch.zeros(n, 3, dtype=F64), "y": torch.arange(n) % 2, "chain": torch.arange(n)}
    state = sampler.augment_state(batch)
    assert set(state) == {*batch, "x_replicas"}
    with torch.no_grad():
        end, _ = sampler.step(model, state)
        for _ in range(40):
            end, _ = sampler.step(model, end)
    assert end["y"] is batch["y"]
    assert end["chain"] is batch["chain"]
    for label in range(2):
        truth = probabilities(model, {"x": bits(3), "y": torch.full((8,), label)})
        assert_counts(index_of(end["x"][batch["y"] == label]).bincount(minlength=8), truth)


def test_a_free_label_has_replicas_of_its_own_kind() -> None:
    n, model = 8000, RBM({"x": Bernoulli([2]), "y": Softmax(3)}, 3, weight_std=2.0).double()
    sampler = ParallelTempering(Gibbs(("h", "x", "y")), betas=(1.0, 0.5, 0.1))
    end = _run(sampler, model, {"x": torch.zeros(n, 2, dtype=F64), "y": torch.zeros(n, dtype=torch.int64)}, 40)
    assert end["y_replicas"].dtype == torch.int64
    x, y = bits(2).repeat(3, 1), torch.arange(3).repeat_interleave(4)
    counts = (4 * end["y"] + index_of(end["x"])).bincount(minlength=12)
    assert_counts(counts, probabilities(model, {"x": x, "y": y}))


def test_replicas_outlive_the_step_in_a_buffer() -> None:
    n, model, sampler = 5, _rbm(), ParallelTempering(Gibbs(("h", "x")), betas=(1.0, 0.5, 0.2))
    buffer = SampleBuffer(n, noise=BernoulliNoise())
    pos = sampler.augment_state({"x": torch.zeros(n, 4, dtype=F64)})
    assert sampler.free == ("h", "x", "h_replicas", "x_replicas")
    end, info = run(sampler, model, buffer.start(pos, sampler.free), 3)
    assert {"drift_x", "drift_x_replicas", "swap"} == set(info)
    buffer.finish(end)
    again = buffer.start(pos, sampler.free)
    order = end["chain"].argsort()[again["chain"]]
    assert torch.equal(again["x_replicas"], end["x_replicas"][order])
    assert torch.equal(again["x"], end["x"][order])


# Trajectory tempering.


def test_snapshots_carry_chains_between_modes_and_their_replicas_tell_log_z() -> None:
    """Models of rising strength, all chains in one mode: the last model's law, and every log Z, by enumeration.

    The log of a mean of n weights w has the standard error std(w) / mean(w) / sqrt(n); the steps' variances add up.
    """
    n, start = 4000, {"x": torch.zeros(4000, 6, dtype=F64)}
    models = [_two_modes(strength) for strength in (0.0, 0.25, 0.5, 0.75, 1.0)]
    sampler = TrajectoryTempering.of(Gibbs(("h", "x")), models[:-1])
    end = _run(sampler, models[-1], start, 200)
    _assert_law(end["x"], models[-1])
    chains = [{"x": end["x_replicas"][:, -1 - t]} for t in range(4)]
    estimate = log_partition_along(models, chains, 9 * math.log(2))
    truth = torch.stack([log_partition(model, {"x": bits(6)}) for model in models])
    variance = torch.zeros(())
    for t, chain in enumerate(chains):
        with torch.no_grad():
            weights = (models[t].energy(chain) - models[t + 1].energy(chain)).exp()
        variance = variance + weights.var() / weights.mean().square() / n
        assert abs(estimate[t + 1] - truth[t + 1]) < SIGMAS * variance.sqrt()
    assert variance.sqrt() < 0.1
    assert estimate[0] == pytest.approx(float(truth[0]))


def test_snapshots_are_taken_at_the_first_step_and_where_swaps_become_rare() -> None:
    model, sampler = _rbm(), TrajectoryTempering(Gibbs(("h", "x")), rungs=3, threshold=0.5)
    state = sampler.augment_state({"x": torch.ones(50, 4, dtype=F64)})
    assert sampler.memory() == {}
    with torch.no_grad():
        state, info = sampler.step(model, state)
        assert info["snapshots"] == 0
        assert info["swap"] == pytest.approx(1)
        sampler.follow(model)
        first = copy.deepcopy(model)
        sampler.follow(model)
        assert len(sampler.snapshots) == 1
        model.units("x").bias += 6
        for _ in range(60):
            state, info = sampler.step(model, state)
    assert 0 < info["swap_newest"] < 0.5
    sampler.follow(model)
    newest, earliest = sampler.snapshots
    assert identical(newest.state_dict(), model.state_dict())
    assert identical(earliest.state_dict(), first.state_dict())
    assert not newest.training
    assert not any(parameter.requires_grad for parameter in newest.parameters())
    assert sampler.acceptance[0] == 1
    assert sampler.acceptance[1] < 0.5


def test_where_all_rungs_are_taken_the_snapshot_goes_whose_neighbors_overlap_most() -> None:
    """The products of the acceptances on both sides are 0.09 and 0.72: the second goes. The earliest always stays."""
    model, models = _rbm(), [_rbm() for _ in range(3)]
    sampler = TrajectoryTempering.of(Gibbs(("h", "x")), models)
    third, second, first = sampler.snapshots
    sampler.threshold, sampler.acceptance = 0.25, torch.tensor([0.1, 0.9, 0.8])
    sampler.follow(model)
    assert sampler.snapshots[1:] == [third, first]
    assert second not in sampler.snapshots
    assert torch.allclose(sampler.acceptance, torch.tensor([1.0, 0.1, 0.72]))
    alone = TrajectoryTempering.of(Gibbs(("h", "x")), models[:1])
    alone.threshold, alone.acceptance = 0.25, torch.tensor([0.1])
    alone.follow(model)
    assert alone.snapshots == models[:1]


def test_the_memory_of_a_trajectory_comes_back_whole() -> None:
    model = _rbm()
    sampler = TrajectoryTempering.of(Gibbs(("h", "x")), [_rbm(), _rbm()])
    state = sampler.augment_state({"x": torch.ones(50, 4, dtype=F64)})
    sampler.step(model, state)
    other = TrajectoryTempering(Gibbs(("h", "x")), rungs=2)
    other.recall(sampler.memory())
    assert identical(other.memory(), sampler.memory())
    ends = []
    for one in (sampler, other):
        torch.manual_seed(1)
        ends.append(one.step(model, state))
    assert identical(*ends)
    assert identical(other.memory(), sampler.memory())


# Fast weights.


def _gradients(model: EnergyModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, dtype=F64, generator=generator)


def test_fast_weights_of_rate_zero_change_nothing() -> None:
    model, start, gibbs = _rbm(), {"x": torch.zeros(100, 4, dtype=F64)}, Gibbs(("h", "x"))
    sampler = FastWeights(gibbs, rate=0.0)
    _gradients(model, 1)
    sampler.follow(model)
    ends = []
    for kernel in (gibbs, sampler):
        torch.manual_seed(1)
        ends.append(run(kernel, model, start, 5)[0])
    assert identical(*ends)


@pytest.mark.parametrize("centering", [None, 0.1])
def test_chains_move_under_theta_plus_fast_weights_by_the_rule_written_out(centering: float | None) -> None:
    """fast_1 = -rate g_1, fast_2 = -decay rate g_1 - rate g_2; a parameter without a gradient has none."""
    rate, decay, model = 0.3, 0.9, _rbm(centering=centering)
    sampler, gibbs, grads = FastWeights(Gibbs(("h", "x")), rate=rate, decay=decay), Gibbs(("h", "x")), []
    start = {"x": torch.zeros(200, 4, dtype=F64)}
    for seed in (1, 2):
        _gradients(model, seed)
        model.hidden_bias.grad = None
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        sampler.follow(model)
    fast = {name: -decay * rate * g - rate * grads[1][name] for name, g in grads[0].items()}
    assert fast.keys() == {"weight", "visible.x.bias"} == sampler.memory().keys()
    assert all(torch.allclose(sampler.fast[name], value) for name, value in fast.items())
    shifted = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in shifted.named_parameters():
            parameter += fast.get(name, 0)
    torch.manual_seed(1)
    ours = run(sampler, model, start, 3)[0]
    torch.manual_seed(1)
    theirs = run(gibbs, shifted, start, 3)[0]
    assert torch.equal(ours["x"], theirs["x"])
    torch.manual_seed(1)
    assert not torch.equal(ours["x"], run(gibbs, model, start, 3)[0]["x"])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inner", [Gibbs(("h", "x")), Failing()], ids=["a step", "a step that fails"])
def test_theta_is_the_same_memory_with_the_same_bits_after_a_step(inner: Sampler, mode) -> None:
    model = _rbm()
    sampler = FastWeights(inner, rate=0.5)
    _gradients(model, 1)
    sampler.follow(model)
    before = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    energy = model.energy({"x": bits(4)}).sum()  # a graph that was begun before the step survives it
    with mode():
        if isinstance(inner, Failing):
            with pytest.raises(RuntimeError, match="the inner sampler fails"):
                sampler.step(model, {"x": torch.zeros(3, 4, dtype=F64)})
        else:
            sampler.step(model, {"x": torch.zeros(3, 4, dtype=F64)})
    for name, parameter in model.named_parameters():
        same, address, value = before[name]
        assert parameter is same
        assert parameter.data_ptr() == address
        assert torch.equal(parameter, value)
        assert parameter.requires_grad
    energy.backward()


def test_fast_weights_come_back_from_their_memory() -> None:
    model, sampler, other = _rbm(), FastWeights(Still(), rate=0.5), FastWeights(Still(), rate=0.5)
    assert sampler.memory() == {}
    _gradients(model, 1)
    sampler.follow(model)
    other.recall(sampler.memory())
    for one in (sampler, other):
        one.follow(model)
    assert identical(other.memory(), sampler.memory())


# Runs.


def _law() -> Tensor:
    """Four bits, two prototypes with noise: the probabilities of the rows of ``bits(4)``."""
    prototypes, share = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=F64), torch.tensor([0.8, 0.2], dtype=F64)
    flips = (bits(4) != prototypes[:, None]).sum(2)
    return share @ (0.1**flips * 0.9 ** (4 - flips)).double()


def _divergence(law: Tensor, model: EnergyModel) -> float:
    """KL(law || model) in nats."""
    return float((law * (law / probabilities(copy.deepcopy(model).double(), {"x": bits(4)})).log()).sum())


GIBBS = Gibbs(("h", "x"))


@pytest.mark.parametrize(
    "sampler",
    [
        ParallelTempering(GIBBS, betas=(1.0, 0.5, 0.0)),
        TrajectoryTempering(GIBBS, rungs=2, threshold=0.9),
        FastWeights(GIBBS, rate=0.05),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_persistent_chains_with_each_of_them_bring_an_rbm_near_to_four_bits(sampler: Sampler) -> None:
    """KL(data || model), enumerated, falls below a tenth of the least that independent units can reach."""
    steps, batch, law = 200, 128, _law()
    on = law @ bits(4)
    independent = float((law * (law / (bits(4) * on + (1 - bits(4)) * (1 - on)).prod(1)).log()).sum())
    model = RBM({"x": Bernoulli([4])}, 6, weight_std=0.5)
    before = _divergence(law, model)
    data = bits(4)[torch.multinomial(law, steps * batch, replacement=True)].float()
    chains = SampleBuffer(batch, noise=BernoulliNoise())
    module = EBM(
        model,
        ContrastiveDivergence(),
        sampler,
        2,
        chains=chains,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, steps),
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=steps, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)
    trainer.fit(module, DataLoader([{"x": x} for x in data.split(batch)], batch_size=None))
    assert before > independent / 2
    assert _divergence(law, model) < independent / 10


CONFIGURATION = """
seed_everything: 3
trainer: {max_steps: 12, accelerator: cpu, devices: 1, log_every_n_steps: 1, val_check_interval: 5,
          enable_progress_bar: false, enable_model_summary: false}
model:
  class_path: EBM
  init_args:
    model:
      class_path: RBM
      init_args:
        visible: {x: {class_path: Bernoulli, init_args: {shape: [1, 3, 3]}}}
        hidden: 5
        weight_std: 1.0
        centering: 0.1
    objective: ContrastiveDivergence
    sampler: %s
    steps: 2
    chains: {class_path: SampleBuffer, init_args: {size: 32, reinit_prob: 0.1, noise: BernoulliNoise}}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.5}}
data: {class_path: BarsAndStripes, init_args: {side: 3, batch_size: 16, samples: 64}}
checkpoint: {every_n_steps: 6}
samples: {every_n_steps: 4, num_chains: 4, steps: 3}
"""
INNER = "{class_path: Gibbs, init_args: {free: [h, x]}}"
SAMPLERS = {
    "replicas": f"{{class_path: ParallelTempering, init_args: {{sampler: {INNER}, betas: [1.0, 0.5, 0.1]}}}}",
    "snapshots": f"{{class_path: TrajectoryTempering, init_args: {{sampler: {INNER}, rungs: 2, threshold: 1.0}}}}",
    "fast weights": f"{{class_path: FastWeights, init_args: {{sampler: {INNER}, rate: 0.5}}}}",
}


def _final(folder: Path) -> dict:
    newest = RunFolder(folder).checkpoints()[-1]
    sides = [torch.load(file, weights_only=True) for file in checkpoints.side_files(newest)]
    return {"side files": sides, **torch.load(newest, weights_only=True)}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_run_cut_in_the_middle_ends_as_if_nothing_had_happened_and_pictures_move_no_chain(
    kind: str, ebm, tmp_path: Path
) -> None:
    """Bit for bit: weights, optimizer, chains with replicas, snapshots and fast weights, random streams."""
    file = tmp_path / "run.yaml"
    file.write_text(CONFIGURATION % SAMPLERS[kind])
    straight, cut, blind = (tmp_path / "x" / name for name in ("straight", "cut", "blind"))
    assert ebm("fit", "-c", file, "--run", straight)[0] == 0
    assert ebm("fit", "-c", file, "--run", cut, "--trainer.max_steps", 6)[0] == 0
    assert ebm("fit", "-c", file, "--run", cut)[0] == 0
    assert ebm("fit", "-c", file, "--run", blind, "--samples.every_n_steps", 0)[0] == 0
    truth = _final(straight)
    (side,) = truth["side files"]
    assert any("SamplerState" in key for key in side) == (kind != "replicas")
    assert all(bool(value) for value in side.values())
    for other in (cut, blind):
        ours = _final(other)
        for key in ("state_dict", "optimizer_states", "side files", "global_step"):
            assert identical(ours[key], truth[key]), key
    drawn = {path.parent.relative_to(straight).as_posix() for path in straight.glob("samples/*/*/*.png")}
    assert drawn == {"samples/fresh/x", "samples/chains/x", "samples/chains/age"}


# Mistakes.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ParallelTempering(GIBBS, betas=(1.0,)), r"ParallelTempering\(betas=\(1.0,\)\): expected at least two"),
        (lambda: ParallelTempering(GIBBS, betas=(0.9, 0.5)), "from 1 downwards"),
        (lambda: ParallelTempering(GIBBS, betas=(1.0, 0.5, 0.6)), "from 1 downwards"),
        (lambda: ParallelTempering(GIBBS, betas=(1.0, -0.5)), "all >= 0"),
        (
            lambda: ParallelTempering(FastWeights(GIBBS, rate=0.1), betas=(1.0, 0.5)),
            r"ParallelTempering\(FastWeights\): an adaptive sampler has to be the outermost one",
        ),
        (
            lambda: ParallelTempering(GIBBS, betas=(1.0, 0.5)).step(_rbm(), {"x": bits(4)}),
            r"expected 1 replicas of \['h', 'x'\] in the state.*start from sampler.extend\(state\)",
        ),
        (
            lambda: TrajectoryTempering(GIBBS, rungs=3).step(_rbm(), {"x": bits(4), "x_replicas": bits(4)[:, None]}),
            r"expected 3 replicas of \['x'\] in the state",
        ),
        (
            lambda: TrajectoryTempering(GIBBS, rungs=0),
            r"TrajectoryTempering\(rungs=0, threshold=0.25\): expected",
        ),
        (lambda: TrajectoryTempering(GIBBS, rungs=2, threshold=1.5), r"threshold in \[0, 1\]"),
        (lambda: TrajectoryTempering(FastWeights(GIBBS, rate=0.1), rungs=2), "choose between the two"),
        (lambda: FastWeights(GIBBS, rate=-0.1), r"FastWeights\(rate=-0.1, decay=0.95\): expected rate >= 0"),
        (lambda: FastWeights(GIBBS, rate=0.1, decay=1.0), r"decay in \[0, 1\)"),
        (lambda: FastWeights(TrajectoryTempering(GIBBS, rungs=2), rate=0.1), "only one sampler can follow the model"),
        (
            lambda: FastWeights(GIBBS, rate=0.1).step(_rbm(), {"x": bits(4)}),
            "FastWeights cannot move chains inside an autograd graph.*set backprop: 0",
        ),
        (lambda: log_partition_along([_rbm(), _rbm()], [], 0.0), "got 0 sets of samples for 2 models"),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
