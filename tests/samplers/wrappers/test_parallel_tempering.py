"""Replicas at other temperatures and at earlier weights against enumeration and loops written out."""

import copy
import math

import pytest
import torch
from support.boltzmann import tiny_rbm
from support.oracles import Z, assert_counts, bits, identical, index_of, log_partition, probabilities
from support.targets import Still
from torch import Tensor

from ebm_lightning.chains import SampleBuffer
from ebm_lightning.core import EnergyModel, Sampler, State, run_chain, tempered
from ebm_lightning.distributions import BernoulliNoise
from ebm_lightning.energies import RBM, DoubleWell, Ising
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax
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


BETAS = (1.0, 0.75, 0.5, 0.25, 0.0)


def _two_modes(strength: float = 1.0) -> RBM:
    """Six units that are nearly all off, with probability about 0.7, or nearly all on, for strength 1."""
    model = RBM({"x": Bernoulli([6])}, 3).double()
    with torch.no_grad():
        model.weight.fill_(5.0 * strength)
        model.hidden_bias.fill_(-15.0 * strength)
        model.units("x").bias.fill_((-7.5 - 0.14) * strength)
    return model


def _run(sampler: Sampler, model: EnergyModel, state: State, steps: int) -> State:
    return run_chain(sampler, model, sampler.augment_state(state), steps)[0]


def _assert_law(x: Tensor, model: EnergyModel) -> None:
    """Draws (n, units) of one variable x against the enumerated law of an energy over it."""
    units = x.shape[1]
    assert_counts(index_of(x).bincount(minlength=2**units), probabilities(model, {"x": bits(units)}))


def test_ParallelTempering_crosses_between_modes_that_hold_gibbs_and_reaches_the_enumerated_law() -> None:
    """All chains start in the mode of all off: Gibbs sampling leaves it in none of 400 000 sweeps."""
    n, steps, model = 4000, 100, _two_modes()
    start, gibbs = {"x": torch.zeros(n, 6, dtype=F64)}, Gibbs(("h", "x"))
    stuck = _run(gibbs, model, start, steps)
    assert (stuck["x"].sum(1) > 3).sum() == 0
    end = _run(ParallelTempering(gibbs, betas=BETAS), model, start, 2 * steps)
    assert (end["x"].sum(1) > 3).sum() > n / 5
    _assert_law(end["x"], model)
    for k, beta in enumerate(BETAS[1:]):
        _assert_law(end["x.replicas"][:, k], model.tempered(beta))


def test_ParallelTempering_of_an_ising_lattice_reaches_its_law_below_the_critical_temperature() -> None:
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
        (tiny_rbm, MeanField(("h", "x")), lambda n: torch.rand(n, 4, dtype=F64)),
        (lambda: DoubleWell(3, tilt=0.4), Langevin(0.03, temperature=0.0), lambda n: torch.randn(n, 3, dtype=F64)),
    ],
    ids=["mean field", "descent"],
)
def test_ParallelTempering_on_all_rungs_at_once_is_a_loop_over_temperatures(model, sampler, start) -> None:
    """Kernels without noise; what swaps permute, the sums over the rungs of x and of its square do not see."""
    model, n, rungs = model(), 7, len(BETAS)
    x = start(n * rungs).view(n, rungs, -1)
    end, info = ParallelTempering(sampler, betas=BETAS).step(model, {"x": x[:, 0], "x.replicas": x[:, 1:]})
    ours = torch.cat([end["x"][:, None], end["x.replicas"]], 1)
    loop = torch.stack([sampler.step(tempered(model, b), {"x": x[:, k]})[0]["x"] for k, b in enumerate(BETAS)], 1)
    for power in (1, 2):
        assert torch.allclose(ours.pow(power).sum(1), loop.pow(power).sum(1), rtol=1e-12)
    assert 0 < info["swap"] < 1


@pytest.mark.parametrize("rungs", [2, 3, 4])
def test_ParallelTempering_swaps_leave_the_product_of_all_laws_invariant(rungs: int) -> None:
    """Exact draws of two units on each rung, swapped once: every combination against the product of their laws."""
    n, model, betas = 50_000, tiny_rbm(2, 3, weight_std=4.0), torch.tensor((1.0, 0.6, 0.3, 0.0)[:rungs], dtype=F64)
    laws = [probabilities(model.tempered(float(beta)), {"x": bits(2)}) for beta in betas]
    cells = torch.stack([torch.multinomial(law, n, replacement=True) for law in laws], 1)
    joint = model.tempered(betas.repeat(n))

    def energies(ladder: State) -> Tensor:
        return joint.energy({"x": ladder["x"].flatten(0, 1)}).view(n, rungs)

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


def test_ParallelTempering_tries_even_and_odd_pairs_equally_often() -> None:
    ladder = {"x": torch.arange(5.0).view(1, 5)}
    ends = [exchange(ladder, lambda _: torch.zeros(1, 5)) for _ in range(400)]
    even = sum(int(tried[0]) == 0 for _, tried, _ in ends)
    assert abs(even - 200) < Z * 10
    for swapped, tried, acceptance in ends:
        expected = [1.0, 0.0, 3.0, 2.0, 4.0] if tried[0] == 0 else [0.0, 2.0, 1.0, 4.0, 3.0]
        assert swapped["x"].tolist() == [expected]
        assert acceptance.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["temperatures", "snapshots"])
def test_ParallelTempering_and_TrajectoryTempering_always_swap_equal_rungs(kind: str) -> None:
    model, x, y = tiny_rbm(), torch.rand(6, 4, dtype=F64), torch.rand(6, 4, dtype=F64)
    sampler = (
        ParallelTempering(Still(), betas=(1.0, 1.0))
        if kind == "temperatures"
        else TrajectoryTempering.of(Still(), [copy.deepcopy(model)])
    )
    end, info = sampler.step(model, {"x": x, "x.replicas": y[:, None]})
    assert info["swap"] == pytest.approx(1)
    assert torch.equal(end["x"], y)
    assert torch.equal(end["x.replicas"][:, 0], x)


def test_ParallelTempering_keeps_clamped_variables_and_metadata_and_labels_condition_every_rung() -> None:
    """With y clamped, the law of x is p(x | y) on the rung of the model."""
    n = 8000
    model = RBM({"x": Bernoulli([3]), "y": Softmax(2)}, 3, weight_std=2.0).double()
    sampler = ParallelTempering(Gibbs(("h", "x")), betas=(1.0, 0.5))
    batch = {"x": torch.zeros(n, 3, dtype=F64), "y": torch.arange(n) % 2, "chain.slot": torch.arange(n)}
    state = sampler.augment_state(batch)
    assert set(state) == {*batch, "x.replicas"}
    with torch.no_grad():
        end, _ = sampler.step(model, state)
        for _ in range(40):
            end, _ = sampler.step(model, end)
    assert end["y"] is batch["y"]
    assert end["chain.slot"] is batch["chain.slot"]
    for label in range(2):
        truth = probabilities(model, {"x": bits(3), "y": torch.full((8,), label)})
        assert_counts(index_of(end["x"][batch["y"] == label]).bincount(minlength=8), truth)


def test_ParallelTempering_has_replicas_of_a_free_label() -> None:
    n, model = 8000, RBM({"x": Bernoulli([2]), "y": Softmax(3)}, 3, weight_std=2.0).double()
    sampler = ParallelTempering(Gibbs(("h", "x", "y")), betas=(1.0, 0.5, 0.1))
    end = _run(sampler, model, {"x": torch.zeros(n, 2, dtype=F64), "y": torch.zeros(n, dtype=torch.int64)}, 40)
    assert end["y.replicas"].dtype == torch.int64
    x, y = bits(2).repeat(3, 1), torch.arange(3).repeat_interleave(4)
    counts = (4 * end["y"] + index_of(end["x"])).bincount(minlength=12)
    assert_counts(counts, probabilities(model, {"x": x, "y": y}))


def test_ParallelTempering_replicas_outlive_the_step_in_a_buffer() -> None:
    n, model, sampler = 5, tiny_rbm(), ParallelTempering(Gibbs(("h", "x")), betas=(1.0, 0.5, 0.2))
    buffer = SampleBuffer(n, init=BernoulliNoise())
    pos = sampler.augment_state({"x": torch.zeros(n, 4, dtype=F64)})
    assert sampler.free == ("h", "x", "h.replicas", "x.replicas")
    end, info = run_chain(sampler, model, buffer.start(pos, sampler.free), 3)
    assert {"drift_x", "drift_x.replicas", "swap"} == set(info)
    buffer.finish(end)
    again = buffer.start(pos, sampler.free)
    order = end["chain.slot"].argsort()[again["chain.slot"]]
    assert torch.equal(again["x.replicas"], end["x.replicas"][order])
    assert torch.equal(again["x"], end["x"][order])


def test_TrajectoryTempering_carries_chains_between_modes_and_log_partition_along_tells_log_z() -> None:
    """Models of rising strength, all chains in one mode: the last model's law, and every log Z, by enumeration.

    The log of a mean of n weights w has the standard error std(w) / mean(w) / sqrt(n); the steps' variances add up.
    """
    n, start = 4000, {"x": torch.zeros(4000, 6, dtype=F64)}
    models = [_two_modes(strength) for strength in (0.0, 0.25, 0.5, 0.75, 1.0)]
    sampler = TrajectoryTempering.of(Gibbs(("h", "x")), models[:-1])
    end = _run(sampler, models[-1], start, 200)
    _assert_law(end["x"], models[-1])
    chains = [{"x": end["x.replicas"][:, -1 - t]} for t in range(4)]
    estimate = log_partition_along(models, chains, 9 * math.log(2))
    truth = torch.stack([log_partition(model, {"x": bits(6)}) for model in models])
    variance = torch.zeros(())
    for t, chain in enumerate(chains):
        with torch.no_grad():
            weights = (models[t].energy(chain) - models[t + 1].energy(chain)).exp()
        variance = variance + weights.var() / weights.mean().square() / n
        assert abs(estimate[t + 1] - truth[t + 1]) < Z * variance.sqrt()
    assert variance.sqrt() < 0.1
    assert estimate[0] == pytest.approx(float(truth[0]))


def test_TrajectoryTempering_takes_snapshots_at_the_first_step_and_where_swaps_become_rare() -> None:
    model, sampler = tiny_rbm(), TrajectoryTempering(Gibbs(("h", "x")), rungs=3, threshold=0.5)
    state = sampler.augment_state({"x": torch.ones(50, 4, dtype=F64)})
    assert sampler.state_dict() == {}
    with torch.no_grad():
        state, info = sampler.step(model, state)
        assert info["snapshots"] == 0
        assert info["swap"] == pytest.approx(1)
        sampler.update(model)
        first = copy.deepcopy(model)
        sampler.update(model)
        assert len(sampler.snapshots) == 1
        model.units("x").bias += 6
        for _ in range(60):
            state, info = sampler.step(model, state)
    assert 0 < info["swap_newest"] < 0.5
    sampler.update(model)
    newest, earliest = sampler.snapshots
    assert identical(newest.state_dict(), model.state_dict())
    assert identical(earliest.state_dict(), first.state_dict())
    assert not newest.training
    assert not any(parameter.requires_grad for parameter in newest.parameters())
    assert sampler.acceptance[0] == 1
    assert sampler.acceptance[1] < 0.5


def test_TrajectoryTempering_drops_the_snapshot_whose_neighbors_overlap_most() -> None:
    """The products of the acceptances on both sides are 0.09 and 0.72: the second goes. The earliest always stays."""
    model, models = tiny_rbm(), [tiny_rbm() for _ in range(3)]
    sampler = TrajectoryTempering.of(Gibbs(("h", "x")), models)
    third, second, first = sampler.snapshots
    sampler.threshold, sampler.acceptance = 0.25, torch.tensor([0.1, 0.9, 0.8])
    sampler.update(model)
    assert sampler.snapshots[1:] == [third, first]
    assert second not in sampler.snapshots
    assert torch.allclose(sampler.acceptance, torch.tensor([1.0, 0.1, 0.72]))
    alone = TrajectoryTempering.of(Gibbs(("h", "x")), models[:1])
    alone.threshold, alone.acceptance = 0.25, torch.tensor([0.1])
    alone.update(model)
    assert alone.snapshots == models[:1]


def test_TrajectoryTempering_comes_back_whole_from_its_memory() -> None:
    model = tiny_rbm()
    sampler = TrajectoryTempering.of(Gibbs(("h", "x")), [tiny_rbm(), tiny_rbm()])
    state = sampler.augment_state({"x": torch.ones(50, 4, dtype=F64)})
    sampler.step(model, state)
    other = TrajectoryTempering(Gibbs(("h", "x")), rungs=2)
    other.load_state_dict(sampler.state_dict())
    assert identical(other.state_dict(), sampler.state_dict())
    ends = []
    for one in (sampler, other):
        torch.manual_seed(1)
        ends.append(one.step(model, state))
    assert identical(*ends)
    assert identical(other.state_dict(), sampler.state_dict())


GIBBS = Gibbs(("h", "x"))


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
            lambda: ParallelTempering(GIBBS, betas=(1.0, 0.5)).step(tiny_rbm(), {"x": bits(4)}),
            r"expected 1 replicas of \['h', 'x'\] in the state.*start from sampler.augment_state\(state\)",
        ),
        (
            lambda: TrajectoryTempering(GIBBS, rungs=3).step(
                tiny_rbm(), {"x": bits(4), "x.replicas": bits(4)[:, None]}
            ),
            r"expected 3 replicas of \['x'\] in the state",
        ),
        (
            lambda: TrajectoryTempering(GIBBS, rungs=0),
            r"TrajectoryTempering\(rungs=0, threshold=0.25\): expected",
        ),
        (lambda: TrajectoryTempering(GIBBS, rungs=2, threshold=1.5), r"threshold in \[0, 1\]"),
        (lambda: TrajectoryTempering(FastWeights(GIBBS, rate=0.1), rungs=2), "choose between the two"),
        (lambda: log_partition_along([tiny_rbm(), tiny_rbm()], [], 0.0), "got 0 sets of samples for 2 models"),
    ],
)
def test_ParallelTempering_and_TrajectoryTempering_refuse_what_cannot_work_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
