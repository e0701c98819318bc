"""Samplers against closed forms, quadrature, enumeration and loops written out.

Statistical checks fail by chance once in a million (five standard errors, or the chi-square quantile).
"""

import itertools
import math

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, assert_counts, bits, index_of, probabilities
from torch import Tensor, nn

from ebm_lightning.core import Conditional, EnergyModel, Sampler, State, energy_grad, run
from ebm_lightning.distributions import BernoulliConditional
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.samplers import (
    HMC,
    MALA,
    SGLD,
    Annealed,
    Descent,
    FastWeights,
    Gibbs,
    Langevin,
    Masked,
    MeanField,
    ParallelTempering,
    Tempered,
    TrajectoryTempering,
)
from ebm_lightning.samplers.hmc import velocity_verlet

SIGMAS = float(stats.norm.isf(FALSE_ALARM / 2))
F64 = torch.float64


class Tilted(EnergyModel):
    """E(x, context) = sum(scale x^4 / 4 + context x), with a parameter and a clamped variable."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return (self.scale * x.pow(4) / 4 + context * x).flatten(1).sum(1)


class Normal(EnergyModel):
    """N(mean, 1/precision) in every coordinate; counts how often it is evaluated."""

    def __init__(self, mean: float = 0.0, precision: float = 1.0) -> None:
        super().__init__()
        self.mean, self.precision, self.calls = mean, precision, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.precision * (x - self.mean).square().sum(1) / 2


class Flat(EnergyModel):
    """An energy without slope."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.sum(1)


class Well(EnergyModel):
    """A one-dimensional double well, height (x^2 - 1)^2 + tilt x, and its law by quadrature."""

    def __init__(self, height: float = 1.0, tilt: float = 0.3) -> None:
        super().__init__()
        self.height, self.tilt = height, tilt
        self.grid = torch.linspace(-4, 4, 40_001, dtype=F64)
        density = (-self(self.grid[:, None])).exp()
        self.cdf = torch.cumulative_trapezoid(density, self.grid)
        self.cdf = torch.cat([torch.zeros(1, dtype=F64), self.cdf / self.cdf[-1]])

    def forward(self, x: Tensor) -> Tensor:
        return (self.height * (x.square() - 1).square() + self.tilt * x).sum(1)

    def quantile(self, share: Tensor) -> Tensor:
        right = torch.searchsorted(self.cdf, share).clamp(1, len(self.cdf) - 1)
        low, high = self.cdf[right - 1], self.cdf[right]
        return self.grid[right - 1] + (share - low) / (high - low) * (self.grid[1] - self.grid[0])

    def bins(self, x: Tensor, number: int) -> Tensor:
        """Which of ``number`` equally likely intervals each x (B, 1) lies in."""
        edges = self.quantile(torch.arange(1, number, dtype=F64) / number)
        return torch.bucketize(x[:, 0], edges)


class SmallRBM(EnergyModel):
    """E(v, h) = -v.W h - b.v - c.h with both layers as variables, small enough to enumerate."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(visible, hidden, dtype=F64))
        self.b, self.c = nn.Parameter(torch.randn(visible, dtype=F64)), nn.Parameter(torch.randn(hidden, dtype=F64))

    def forward(self, v: Tensor, h: Tensor) -> Tensor:
        return -((v @ self.weight) * h).sum(1) - v @ self.b - h @ self.c

    def conditional(self, block: str, state: State) -> Conditional:
        if block == "h":
            return BernoulliConditional(self.c + state["v"] @ self.weight)
        return BernoulliConditional(self.b + state["h"] @ self.weight.T)


KERNELS = {
    "Langevin": Langevin(0.05),
    "SGLD like IGEBM": SGLD(0.2, noise=0.05, clip=0.6, bounds=(-1.0, 1.0), noise_first=True),
    "SGLD like JEM": SGLD(0.1, noise=0.05),
    "SGLD without noise": SGLD(0.1, noise=0.0, clip=1.0),
    "Descent": Descent(0.1, free=("x",)),
    "Descent like System 2": Descent(0.1, free=("x",), learned=True, noise=0.1, normalize=True, clip=0.05, spread=2.0),
    "MALA": MALA(0.05),
    "HMC": HMC(0.1, leapfrog=3),
    "Tempered": Tempered(MALA(0.05), temperature=2.0),
    "Annealed": Annealed(HMC(0.1, leapfrog=2), temperatures=(3.0, 1.0)),
    "Masked": Masked(HMC(0.1, leapfrog=2)),
    "ParallelTempering": ParallelTempering(MALA(0.05), betas=(1.0, 0.5, 0.2)),
    "TrajectoryTempering": TrajectoryTempering(MALA(0.05), rungs=2),
}
kernels = pytest.mark.parametrize("sampler", KERNELS.values(), ids=KERNELS.keys())
WITHOUT_GRAPH = {"FastWeights": FastWeights(MALA(0.05), rate=0.1)}
"""Kernels that cannot stay in the autograd graph."""


def _state(n: int = 6) -> State:
    known = torch.arange(6).view(2, 3).expand(n, 2, 3) == 0  # which only Masked looks at
    return {"x": torch.randn(n, 2, 3, dtype=F64), "context": torch.randn(n, 2, 3, dtype=F64), "x_known": known}


def _assert_normal(x: Tensor, mean: float, variance: float) -> None:
    """Mean and second moment of independent draws of a normal."""
    n = x.numel()
    assert abs(x.mean() - mean) < SIGMAS * math.sqrt(variance / n)
    assert abs((x - mean).square().mean() - variance) < SIGMAS * variance * math.sqrt(2 / n)


@pytest.mark.parametrize("sampler", [*KERNELS.values(), *WITHOUT_GRAPH.values()], ids=[*KERNELS, *WITHOUT_GRAPH])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_chain_leaves_no_graph_no_gradient_and_the_clamped_object(sampler: Sampler, context) -> None:
    model = Tilted()
    with context():
        state = sampler.augment_state(_state())
        end, info = run(sampler, model, state, steps=3)
    assert end["context"] is state["context"]
    assert end["x"].shape == state["x"].shape
    assert not torch.equal(end["x"], state["x"])
    assert not end["x"].requires_grad
    assert model.scale.grad is None
    assert all(value.ndim == 0 and not value.requires_grad for value in info.values())


@kernels
def test_backprop_gives_the_derivative_of_the_end_in_a_parameter(sampler: Sampler) -> None:
    """Autograd through all steps equals central differences of the same walk with the same random numbers."""
    model, state = Tilted(), sampler.augment_state(_state())

    def end() -> Tensor:
        torch.manual_seed(1)
        return run(sampler, model, state, steps=3, backprop=3)[0]["x"].square().sum()

    (ours,) = torch.autograd.grad(end(), model.scale)
    sides = []
    for shift in (1e-6, -1e-6):
        with torch.no_grad():
            model.scale += shift
            sides.append(end())
            model.scale -= shift
    assert ours != 0
    assert torch.allclose(ours, (sides[0] - sides[1]) / 2e-6, rtol=1e-6)


def test_backprop_of_the_last_step_is_that_of_a_loop_written_out() -> None:
    """SGLD in the order of JEM, two steps, the first detached."""
    model, state = Tilted(), _state()
    torch.manual_seed(1)
    end, _ = run(SGLD(0.1, noise=0.05), model, state, steps=2, backprop=1)
    (ours,) = torch.autograd.grad(end["x"].sum(), model.scale)
    torch.manual_seed(1)
    x = state["x"]
    for _ in range(2):
        x = x.detach() - 0.1 * (model.scale * x.detach() ** 3 + state["context"]) + 0.05 * torch.randn_like(x)
    (theirs,) = torch.autograd.grad(x.sum(), model.scale)
    assert torch.allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("noise_first", [True, False])
def test_sgld_is_the_published_loop_bit_for_bit(noise_first: bool) -> None:
    """IGEBM adds noise, then takes the clipped gradient there; JEM takes the gradient, then adds noise."""
    model, state = Tilted(), _state(64)
    sampler = SGLD(0.5, noise=0.1, clip=0.3, bounds=(-1.0, 1.0), noise_first=noise_first)
    torch.manual_seed(1)
    end, info = run(sampler, model, state, steps=5)
    torch.manual_seed(1)
    x, shares = state["x"], []
    for _ in range(5):
        if noise_first:
            x = x + 0.1 * torch.randn_like(x)
        x.requires_grad_()
        (grad,) = torch.autograd.grad(model(x, state["context"]).sum(), x)
        shares.append((grad.abs() > 0.3).double().mean())
        x = x.detach() - 0.5 * grad.clamp(-0.3, 0.3)
        if not noise_first:
            x = x + 0.1 * torch.randn_like(x)
        x = x.clamp(-1, 1)
    assert torch.equal(end["x"], x)
    assert 0 < info["clip_share"] < 1
    assert torch.equal(info["clip_share"], torch.stack(shares).mean())


@pytest.mark.parametrize(
    ("sampler", "temperature"),
    [
        (SGLD(10, noise=0.005, clip=0.01, bounds=(0, 1), noise_first=True), 1.25e-6),
        (SGLD(1, noise=0.01), 5e-5),
        (SGLD(1, noise=0, clip=1, bounds=(-1, 1)), 0),
        (SGLD(100, noise=0.001, bounds=(0, 1), noise_first=True), 5e-9),
    ],
)
def test_sgld_says_its_temperature(sampler: SGLD, temperature: float) -> None:
    assert sampler.temperature == pytest.approx(temperature)


def test_sgld_at_its_temperature_is_langevin() -> None:
    model, state = Tilted(), _state()
    sgld = SGLD(0.1, noise=0.3)
    torch.manual_seed(1)
    decoupled, _ = run(sgld, model, state, steps=3)
    torch.manual_seed(1)
    coupled, _ = run(Langevin(0.1, temperature=sgld.temperature), model, state, steps=3)
    assert torch.allclose(decoupled["x"], coupled["x"], rtol=1e-13)


@pytest.mark.parametrize(
    "sampler",
    [Langevin(0.5, temperature=0.0), SGLD(0.5, noise=0.0, noise_first=True), Descent(0.5, free=("x",), clip=10.0)],
)
def test_without_noise_a_step_descends_and_without_slope_it_moves_nothing(sampler: Sampler) -> None:
    x = torch.randn(5, 2, dtype=F64)
    still, _ = run(sampler, Flat(), {"x": x}, steps=3)
    assert torch.equal(still["x"], x)
    moved, _ = run(sampler, Normal(), {"x": x}, steps=3)
    assert torch.allclose(moved["x"], x * 0.5**3)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_unadjusted_langevin_has_its_own_law(temperature: float) -> None:
    """On N(0, 1) with step s the variance is T / (1 - s/2): at s = 1/2 it exceeds the target's by a third."""
    step = 0.5
    end, _ = run(Langevin(step, temperature=temperature), Normal(), {"x": torch.randn(100_000, 1)}, steps=30)
    _assert_normal(end["x"], 0, temperature / (1 - step / 2))


@pytest.mark.parametrize(
    ("sampler", "temperature"),
    [
        (MALA(0.2), 1.0),
        (HMC(0.3, leapfrog=4), 1.0),
        (Tempered(MALA(0.4), temperature=2.0), 2.0),
        (Tempered(HMC(0.2, leapfrog=4), temperature=0.5), 0.5),
    ],
    ids=["MALA", "HMC", "hot MALA", "cold HMC"],
)
def test_adjusted_samplers_reach_a_normal_law_from_afar(sampler: Sampler, temperature: float) -> None:
    model = Normal(mean=1.5, precision=2.0)
    end, info = run(sampler, model, {"x": 2 * torch.randn(40_000, 1)}, steps=60)
    _assert_normal(end["x"], 1.5, temperature / 2)
    assert 0.3 < info["accept"] < 0.999


@pytest.mark.parametrize("sampler", [MALA(0.15), HMC(0.35, leapfrog=3)], ids=["MALA", "HMC"])
def test_adjusted_samplers_keep_the_law_and_balance_every_flow(sampler: Sampler) -> None:
    """From exact draws of a tilted double well, ends follow p, and as many go from bin i to j as from j to i."""
    n, number, model = 50_000, 12, Well()
    start = model.quantile(torch.rand(n, dtype=F64))[:, None]
    before, _ = run(sampler, model, {"x": start}, steps=10)
    after, info = run(sampler, model, before, steps=1)
    assert 0.3 < info["accept"] < 0.99
    i, j = model.bins(before["x"], number), model.bins(after["x"], number)
    for visited in (i, j):
        assert_counts(visited.bincount(minlength=number), torch.full((number,), 1 / number))
    flow = (i * number + j).bincount(minlength=number**2).view(number, number).double()
    there, back = flow[*torch.triu_indices(number, number, 1)], flow.T[*torch.triu_indices(number, number, 1)]
    both = there + back
    enough = both >= 20
    statistic = ((there - back).square() / both)[enough].sum()
    assert enough.sum() > number
    assert statistic < stats.chi2.isf(FALSE_ALARM, int(enough.sum()))


@pytest.mark.parametrize(("tiny", "coarse"), [(MALA(1e-5), MALA(1.0)), (HMC(1e-3), HMC(1.5))], ids=["MALA", "HMC"])
def test_acceptance_is_near_one_for_tiny_steps_alone(tiny: Sampler, coarse: Sampler) -> None:
    state = _state(500)
    assert run(tiny, Tilted(), state, steps=2)[1]["accept"] > 0.999
    assert run(coarse, Tilted(), state, steps=2)[1]["accept"] < 0.5


def test_info_speaks_of_where_an_adjusted_step_ends() -> None:
    model, state = Tilted(), _state()
    end, info = MALA(0.3).step(model, state)
    moved = (end["x"] != state["x"]).flatten(1).any(1)
    assert torch.allclose(info["energy"], model.energy(end).mean())
    assert torch.allclose(info["accept"], moved.double().mean())
    grad, _ = energy_grad(model, state, "x")
    assert torch.allclose(info["grad_norm"], grad.flatten(1).norm(dim=1).mean())


def test_the_leapfrog_error_falls_by_four_when_the_step_halves() -> None:
    """On the harmonic oscillator x(t) = x cos t + p sin t; over a fixed time the error is O(step^2)."""
    model, x, p = Normal(), torch.randn(8, 3, dtype=F64), torch.randn(8, 3, dtype=F64)
    errors = []
    for steps in (20, 40, 80):
        end, *_ = velocity_verlet(model, {"x": x}, "x", p, x, 1.0 / steps, steps)
        errors.append((end - (x * math.cos(1) + p * math.sin(1))).detach().norm())
    for coarse, fine in itertools.pairwise(errors):
        assert float(coarse / fine) == pytest.approx(4, rel=0.01)


def test_the_leapfrog_runs_backwards_and_nearly_keeps_the_energy() -> None:
    model, state = Tilted(), _state()
    p = torch.randn_like(state["x"])
    grad, energy = energy_grad(model, state, "x")
    x, q, slope, end_energy = velocity_verlet(model, state, "x", p, grad, 0.01, 50)
    assert torch.allclose(end_energy, model.energy({**state, "x": x}))
    assert torch.allclose(
        end_energy + q.square().flatten(1).sum(1) / 2, energy + p.square().flatten(1).sum(1) / 2, rtol=1e-2
    )
    back, momentum, *_ = velocity_verlet(model, {**state, "x": x}, "x", -q, slope, 0.01, 50)
    assert torch.allclose(back, state["x"], rtol=1e-10)
    assert torch.allclose(momentum, -p, rtol=1e-10)


@pytest.mark.parametrize(("sampler", "calls"), [(Langevin(0.1), 1), (MALA(0.1), 2), (HMC(0.1, leapfrog=7), 8)])
def test_a_step_takes_no_more_gradients_than_it_must(sampler: Sampler, calls: int) -> None:
    model = Normal()
    sampler.step(model, {"x": torch.randn(4, 2)})
    assert model.calls == calls


def test_tempered_langevin_is_langevin_at_that_temperature() -> None:
    """x - s dE/T + sqrt(2 s) z is the coupled step of size s/T at temperature T."""
    model, state = Tilted(), _state()
    torch.manual_seed(1)
    wrapped, _ = run(Tempered(Langevin(0.3), temperature=3.0), model, state, steps=4)
    torch.manual_seed(1)
    plain, _ = run(Langevin(0.1, temperature=3.0), model, state, steps=4)
    assert torch.allclose(wrapped["x"], plain["x"], rtol=1e-12)


def test_annealed_langevin_has_the_variance_of_its_recursion() -> None:
    """On N(0, 1) a step at temperature T takes the variance v to (1 - s/T)^2 v + 2 s."""
    temperatures, step = (4.0, 2.0, 1.0), 0.3
    sampler = Annealed(Langevin(step), temperatures=temperatures)
    end, _ = run(sampler, Normal(), {"x": torch.zeros(100_000, 1)}, steps=2)
    variance = 0.0
    for temperature in temperatures * 2:
        variance = (1 - step / temperature) ** 2 * variance + 2 * step
    _assert_normal(end["x"], 0, variance)


def test_annealing_carries_chains_over_a_barrier() -> None:
    """A barrier of 12 holds chains in one well; a pass from T = 20 leaves them in either with equal chances."""
    n, model = 4000, Well(height=12.0, tilt=0.0)
    start, kernel = torch.ones(n, 1), HMC(0.15, leapfrog=5)
    pass_ = Annealed(kernel, temperatures=(20.0,) * 40 + (5.0,) * 5 + (1.0,) * 5)
    stuck, _ = run(kernel, model, {"x": start}, steps=20)
    spread, _ = run(pass_, model, {"x": start}, steps=1)
    assert (stuck["x"] > 0).float().mean() > 0.99
    assert abs((spread["x"] > 0).float().mean() - 0.5) < SIGMAS * 0.5 / math.sqrt(n)


def test_wrappers_show_the_free_variables_and_bounds_of_what_they_wrap() -> None:
    inner = SGLD(0.1, noise=0.1, bounds=(-1.0, 1.0), free=("y",))
    for sampler in (Tempered(inner, temperature=2.0), Annealed(inner, temperatures=(2.0, 1.0)), Masked(inner)):
        assert (sampler.free, sampler.bounds) == (("y",), (-1.0, 1.0))
    assert Tempered(Annealed(MALA(0.1), temperatures=(2.0,)), temperature=2.0).bounds is None
    replicas = ParallelTempering(inner, betas=(1.0, 0.5))
    hot = Tempered(replicas, temperature=2.0)
    assert hot.free == replicas.free == ("y", "y_replicas")
    assert hot.extend({"y": torch.zeros(3, 2)})["y_replicas"].shape == (3, 1, 2)


def test_gibbs_reaches_the_enumerated_law() -> None:
    n, model = 20_000, SmallRBM(3, 2)
    state = {"v": torch.zeros(n, 3, dtype=F64), "h": torch.zeros(n, 2, dtype=F64)}
    end, _ = run(Gibbs(("h", "v")), model, state, steps=40)
    units = bits(5)
    truth = (-model(units[:, :3], units[:, 3:])).softmax(0).detach()
    assert_counts(index_of(torch.cat([end["v"], end["h"]], 1)).bincount(minlength=32), truth)


def test_gibbs_on_the_restricted_boltzmann_machine_reaches_its_enumerated_law() -> None:
    """Hidden units are drawn from v, so that the chain may start without them."""
    model, state = RBM({"v": Bernoulli([4])}, 3, weight_std=1.0).double(), {"v": torch.zeros(20_000, 4, dtype=F64)}
    sampler = Gibbs(("h", "v"))
    with torch.no_grad():
        for _ in range(40):
            state, _ = sampler.step(model, state)
    assert_counts(index_of(state["v"]).bincount(minlength=16), probabilities(model, {"v": bits(4)}))


@pytest.mark.parametrize("wrap", [lambda k, t: Tempered(k, temperature=t), lambda k, t: Annealed(k, temperatures=(t,))])
def test_tempered_gibbs_reaches_the_enumerated_law_of_the_joint_energy_at_that_temperature(wrap) -> None:
    """p(v) ~ sum over h of exp(-E(v, h) / T): not the free energy over T, which the same counts refuse."""
    temperature, v, h = 2.5, bits(4), bits(3)
    model, state = RBM({"v": Bernoulli([4])}, 3, weight_std=3.0).double(), {"v": torch.zeros(20_000, 4, dtype=F64)}
    sampler = wrap(Gibbs(("h", "v")), temperature)
    with torch.no_grad():
        model.hidden_bias.uniform_(-2, 2)
        joint = torch.stack([model.joint({"v": v, "h": unit.expand(len(v), -1)}) for unit in h], 1)
        truth = (-joint / temperature).flatten().softmax(0).view_as(joint).sum(1)
        free = (-model.energy({"v": v}) / temperature).softmax(0)
        for _ in range(60):
            state, _ = sampler.step(model, state)
    counts = index_of(state["v"]).bincount(minlength=16)
    assert_counts(counts, truth)
    with pytest.raises(AssertionError, match="chi-square"):
        assert_counts(counts, free)


def test_tempered_gibbs_on_an_energy_over_both_layers_is_gibbs_with_all_parameters_divided() -> None:
    model, state = SmallRBM(3, 2), {"v": torch.ones(50, 3, dtype=F64)}
    divided = SmallRBM(3, 2)
    divided.load_state_dict({name: value / 2 for name, value in model.state_dict().items()})
    torch.manual_seed(1)
    ours, _ = Tempered(Gibbs(("h", "v")), temperature=2.0).step(model, state)
    torch.manual_seed(1)
    theirs, _ = Gibbs(("h", "v")).step(divided, state)
    assert torch.equal(ours["v"], theirs["v"])


def test_gibbs_draws_a_block_that_is_not_yet_in_the_state_and_leaves_clamped_ones() -> None:
    model, v = SmallRBM(3, 2), torch.ones(4, 3, dtype=F64)
    end, info = Gibbs(("h",)).step(model, {"v": v})
    assert end["v"] is v
    assert end["h"].shape == (4, 2)
    assert info == {}


def test_a_mean_field_sweep_uses_each_new_mean_at_once() -> None:
    """h = sigmoid(c + v W), then v = sigmoid(b + W h) with that h."""
    model, v = SmallRBM(4, 3), torch.rand(8, 4, dtype=F64)
    end, _ = MeanField(("h", "v")).step(model, {"v": v, "h": torch.rand(8, 3, dtype=F64)})
    h = torch.sigmoid(model.c + v @ model.weight)
    assert torch.allclose(end["h"], h)
    assert torch.allclose(end["v"], torch.sigmoid(model.b + h @ model.weight.T))


def test_mean_field_descends_the_variational_free_energy_to_a_fixed_point() -> None:
    """F = E(means) - entropy of independent units: no sweep raises it, and its slope vanishes at the end."""
    model = SmallRBM(4, 3)
    sampler = MeanField(("h", "v"))
    state: State = {"v": torch.rand(8, 4, dtype=F64), "h": torch.rand(8, 3, dtype=F64)}

    def free_energy(state: State) -> Tensor:
        entropy = sum(torch.special.entr(m).sum(1) + torch.special.entr(1 - m).sum(1) for m in state.values())
        return model.energy(state) - entropy

    before = free_energy(state)
    for _ in range(10):
        state, _ = sampler.step(model, state)
        after = free_energy(state)
        assert (after <= before + 1e-12).all()
        before = after
    state, _ = run(sampler, model, state, steps=2000)
    leaves = {name: value.detach().requires_grad_() for name, value in state.items()}
    slopes = torch.autograd.grad(free_energy(leaves).sum(), list(leaves.values()))
    assert all(slope.abs().max() < 1e-8 for slope in slopes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Langevin(0.0), r"Langevin\(step_size=0.0, temperature=1.0\): expected step_size > 0"),
        (lambda: Langevin(0.1, temperature=-1.0), "temperature >= 0"),
        (lambda: Langevin(0.1, free=("x", "y")), r"Langevin\(free=\('x', 'y'\)\) moves exactly one variable"),
        (lambda: SGLD(0.1, noise=-0.1), "noise >= 0"),
        (lambda: SGLD(0.1, noise=0.1, clip=0.0), r"SGLD\(clip=0.0\): expected a number > 0"),
        (lambda: SGLD(0.1, noise=0.1, bounds=(1.0, -1.0)), "low < high"),
        (lambda: MALA(-1.0), r"MALA\(step_size=-1.0\)"),
        (lambda: HMC(0.1, leapfrog=0), "leapfrog >= 1"),
        (lambda: HMC(0.1, free=()), "moves exactly one variable"),
        (lambda: Gibbs(()), "names of the blocks in the order"),
        (lambda: MeanField(("h", "h")), "each once"),
        (lambda: Tempered(MALA(0.1), temperature=0.0), r"Tempered\(temperature=0.0\)"),
        (lambda: Annealed(MALA(0.1), temperatures=()), "at least one number"),
        (
            lambda: Langevin(0.1).step(Tilted(), {"y": torch.zeros(1, 1)}),
            "'x' is to be moved or scored, but Tilted is an energy over",
        ),
        (lambda: MALA(0.1, free=("y",)).step(Tilted(), {"y": torch.zeros(1, 1)}), "the state holds"),
        (lambda: Gibbs(("x",)).step(Tilted(), _state()), "Tilted has no conditional for 'x'"),
        (
            lambda: Tempered(Gibbs(("x",)), temperature=2.0).step(Tilted(), _state()),
            "Tilted has no conditional for 'x'",
        ),
        (
            lambda: Tempered(FastWeights(MALA(0.1), rate=0.1), temperature=2.0),
            r"Tempered\(FastWeights\): an adaptive sampler has to be the outermost one",
        ),
        (
            lambda: Annealed(TrajectoryTempering(MALA(0.1), rungs=1), temperatures=(1.0,)),
            r"Annealed\(TrajectoryTempering\): an adaptive sampler has to be the outermost one",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
