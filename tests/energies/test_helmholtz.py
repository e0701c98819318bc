"""The Helmholtz machine against enumeration: its energy, its draws, and what wake-sleep and its reweighted form learn.

Statistical checks fail by chance once in a million.
"""

import copy
import math

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, assert_counts, assert_means, bits, identical, index_of, perturbed
from torch import Tensor

from ebm_lightning import EBM, Trainer
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import EnergyModel, State, run
from ebm_lightning.data import Bars, Digits, Gray, Threshold
from ebm_lightning.distributions import UniformNoise
from ebm_lightning.energies import RBM, HelmholtzMachine, PerClass
from ebm_lightning.energies.boltzmann.units import Bernoulli, Gaussian, Softmax
from ebm_lightning.evaluation import DescriptionLengthClassifier, ExactDivergence, ImportanceSampledLikelihood
from ebm_lightning.evaluation.metrics.importance import log_weights
from ebm_lightning.evaluation.protocols.exact_divergence import exact_log_prob
from ebm_lightning.evaluation.protocols.importance_sampling import chosen
from ebm_lightning.generation.samples import empty_batch, fresh_chains, save_samples
from ebm_lightning.objectives import ReweightedWakeSleep, WakeSleep
from ebm_lightning.samplers import Ancestral, Gibbs

F64 = torch.float64
SIGMAS = float(stats.norm.isf(FALSE_ALARM / 2))
WIDTHS = {"x": 3, "h1": 3, "h2": 2}


def machine(visible: int = 3, hidden: tuple[int, ...] = (3, 2)) -> HelmholtzMachine:
    """A net small enough to enumerate, float64, with every parameter away from 0."""
    model = perturbed(HelmholtzMachine({"x": Bernoulli([visible])}, list(hidden), weight_std=0.7))
    assert isinstance(model, HelmholtzMachine)
    return model


def every_state(widths: dict[str, int]) -> State:
    """All states of binary variables, the last unit of the last one changing fastest."""
    codes = torch.split(bits(sum(widths.values())), list(widths.values()), 1)
    return dict(zip(widths, codes, strict=True))


def gradients(model: EnergyModel, loss: Tensor) -> dict[str, Tensor]:
    """By parameter; zeros where the loss does not depend on it."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def log_marginal(model: EnergyModel, x: Tensor, widths: dict[str, int]) -> Tensor:
    """log p(x) by enumeration of the causes, with its graph: (B,)."""
    causes = every_state(widths)
    n = len(next(iter(causes.values())))
    copies = {name: value.repeat(len(x), 1) for name, value in causes.items()}
    energy = model.energy({"x": x.repeat_interleave(n, 0), **copies})
    return torch.logsumexp(-energy.view(len(x), n), 1)


# The model.


@pytest.mark.parametrize("hidden", [(3,), (3, 2), (2, 2, 1)])
def test_the_probabilities_of_all_states_sum_to_one(hidden: tuple[int, ...]) -> None:
    model = machine(hidden=hidden)
    widths = {"x": 3} | {f"h{level + 1}": width for level, width in enumerate(hidden)}
    assert model.variables == tuple(widths)
    total = torch.logsumexp(-model.energy(every_state(widths)), 0)
    torch.testing.assert_close(total, torch.zeros((), dtype=F64), rtol=0, atol=1e-12)
    assert model.log_partition() == 0
    assert model.log_partition().dtype == F64


def test_the_recognition_network_is_a_distribution_of_the_causes_for_every_example() -> None:
    model, causes = machine(), every_state({"h1": 3, "h2": 2})
    for x in bits(3):
        energy = model.recognition_energy({"x": x.expand(32, -1), **causes})
        torch.testing.assert_close(torch.logsumexp(-energy, 0), torch.zeros((), dtype=F64), rtol=0, atol=1e-12)


def test_energies_are_the_log_probabilities_written_out() -> None:
    """Unit by unit, with weights of their own for the two directions."""
    model, state = machine(), every_state(WIDTHS)
    weights = dict(model.named_parameters())

    def log_p(targets: Tensor, logits: Tensor) -> Tensor:
        p = 1 / (1 + torch.exp(-logits))
        return (targets * p.log() + (1 - targets) * (1 - p).log()).sum(1)

    x, h1, h2 = state.values()
    energy = -log_p(h2, weights["prior"]) - log_p(
        h1, h2 @ weights["generative.1.weight"].T + weights["generative.1.bias"]
    )
    energy = energy - log_p(x, h1 @ weights["generative.0.weight"].T + weights["visible.x.bias"])
    torch.testing.assert_close(model.energy(state), energy)
    recognized = -log_p(h1, x @ weights["recognition.0.weight"].T + weights["recognition.0.bias"])
    recognized = recognized - log_p(h2, h1 @ weights["recognition.1.weight"].T + weights["recognition.1.bias"])
    torch.testing.assert_close(model.recognition_energy(state), recognized)


def test_complete_draws_from_the_recognition_network() -> None:
    model, x = machine(), torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    state = model.positive_phase({"x": x.expand(5_000, -1), "y": torch.zeros(5_000)})
    p = (-model.recognition_energy({"x": x.expand(32, -1), **every_state({"h1": 3, "h2": 2})})).exp()
    draws = torch.cat([state["h1"], state["h2"]], 1)
    assert_counts(torch.bincount(index_of(draws), minlength=32), p.detach())
    assert not draws.requires_grad
    assert set(state) == {"x", "y", "h1", "h2"}


def test_groups_of_other_units_share_the_causes() -> None:
    """A normal variable and a label beside the binary one: the energy integrates to 1."""
    groups = {"x": Bernoulli([2]), "v": Gaussian([1], std=0.5), "y": Softmax(3)}
    model = perturbed(HelmholtzMachine(groups, [2], weight_std=0.7))
    v = torch.arange(-12, 12, 0.01, dtype=F64)[:, None]
    total = 0.0
    for code in every_state({"x": 2, "h1": 2})["x"].unique(dim=0):
        for h1 in bits(2):
            for label in range(3):
                n = len(v)
                state = {"x": code.expand(n, -1), "h1": h1.expand(n, -1), "v": v, "y": torch.full((n,), label)}
                total += float((-model.energy(state)).exp().sum().detach()) * 0.01
    assert total == pytest.approx(1, abs=1e-9)
    assert model.positive_phase({"x": code[None], "v": v[:1], "y": torch.zeros(1, dtype=torch.int64)})["h1"].shape == (
        1,
        2,
    )


def test_the_visible_bias_begins_at_the_logits_of_the_data() -> None:
    data = Bars(samples=2000, batch_size=100)
    model = HelmholtzMachine({"x": Bernoulli([1, 4, 4])}, [3, 1])
    model.initialize(data.eval_loader("train"))
    mean = data.tensors("train")["x"].flatten(1).mean(0)
    torch.testing.assert_close(torch.sigmoid(model.units("x").bias), mean)
    untouched = HelmholtzMachine({"x": Bernoulli([1, 4, 4])}, [3, 1], data_bias=False)
    untouched.initialize(iter(()))
    assert not untouched.units("x").bias.any()


# Dreams.


def test_dreams_follow_the_enumeration() -> None:
    model, start = machine(), {name: torch.zeros(5_000, width) for name, width in WIDTHS.items()}
    end, _ = run(Ancestral(("x", "h1", "h2")), model, start, steps=1)
    draws = torch.cat([end[name] for name in WIDTHS], 1)
    p = (-model.energy(every_state(WIDTHS))).exp().detach()
    assert_counts(torch.bincount(index_of(draws), minlength=len(p)), p)
    assert draws.dtype == F64
    assert not draws.requires_grad


def test_dreams_under_a_clamped_cause_follow_the_conditional() -> None:
    model, states = machine(), every_state(WIDTHS)
    cause = torch.tensor([0.0, 1.0], dtype=F64)
    start = {"x": torch.zeros(5_000, 3), "h1": torch.zeros(5_000, 3), "h2": cause.expand(5_000, -1)}
    end, _ = Ancestral(("x", "h1")).step(model, start)
    assert end["h2"] is start["h2"]
    draws = torch.cat([end["x"], end["h1"]], 1)
    log_p = -model.energy({**every_state({"x": 3, "h1": 3}), "h2": cause.expand(64, -1)}).detach()
    assert_counts(torch.bincount(index_of(draws), minlength=64), log_p.softmax(0))
    assert len(states["x"]) == 256


def test_where_a_dream_starts_does_not_matter() -> None:
    model = machine()
    dreams = []
    for start in (torch.zeros, torch.rand):
        state = {name: start(50, width, dtype=F64) for name, width in WIDTHS.items()}
        torch.manual_seed(1)
        dreams.append(Ancestral(("x", "h1", "h2")).step(model, state)[0])
    assert identical(*dreams)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_dream_leaves_no_graph_no_gradient_and_the_clamped_object(context) -> None:
    model, sampler = machine(), Ancestral(("x", "h1", "h2"))
    with context():
        state = {**every_state(WIDTHS), "y": torch.zeros(256)}
        end, info = run(sampler, model, state, steps=2)
    assert end["y"] is state["y"]
    assert not any(end[name].requires_grad for name in WIDTHS)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert set(info) == {"drift_x", "drift_h1", "drift_h2"}


def test_fresh_chains_and_their_files_are_dreams(tmp_path) -> None:
    """Layers that are no images are left out of the pictures, and kept in the arrays."""
    model = HelmholtzMachine({"x": Bernoulli([1, 4, 4])}, [5, 1])
    module = EBM(model, WakeSleep(), Ancestral(("x", "h1", "h2")), chains=NoiseChains(UniformNoise()))
    state = fresh_chains(module, empty_batch(Bars(), 9, torch.device("cpu")), steps=2)
    assert set(state["x"].unique().tolist()) <= {0.0, 1.0}
    files = [file.name for file in save_samples(module, state, tmp_path, "dreams")]
    assert "dreams.png" in files
    assert "dreams.npz" in files
    assert "dreams-h1.png" not in files


def test_one_machine_for_each_class_dreams_and_recognizes_its_own() -> None:
    model = PerClass(HelmholtzMachine({"x": Bernoulli([3])}, [2]), 3).double()
    perturbed(model)
    y = torch.tensor([2, 0, 0, 1, 2])
    state = model.positive_phase({"x": bits(3)[:5], "y": y})
    for energy in ("energy", "recognition_energy"):
        whole = getattr(model, energy)(state)
        for label in range(3):
            rows = y == label
            part = {name: value[rows] for name, value in state.items() if name != "y"}
            torch.testing.assert_close(whole[rows], getattr(model.of_class(label), energy)(part))
    n = 5_000
    start = {"x": torch.zeros(n, 3), "h1": torch.zeros(n, 2), "y": torch.arange(n) % 2}
    dream, _ = Ancestral(("x", "h1")).step(model, start)
    assert dream["y"] is start["y"]
    for label in (0, 1):
        p = log_marginal(model.of_class(label), bits(3), {"h1": 2}).detach().exp()
        assert_counts(torch.bincount(index_of(dream["x"][start["y"] == label]), minlength=8), p)


# What the objectives descend.


@pytest.mark.parametrize("hidden", [(3,), (3, 2), (3, 2, 2)])
def test_wake_sleep_gives_the_delta_rules(hidden: tuple[int, ...]) -> None:
    """Hinton et al. (1995): (state) x (target - prediction), by the other phase's states; its negative is descended."""
    model, n = machine(hidden=hidden), 7
    pos = model.positive_phase({"x": torch.randint(0, 2, (n, 3)).double()})
    neg = model.ancestral_sample(pos, model.variables)
    ours = gradients(model, WakeSleep()(model, pos, neg)["loss"])
    rules = {"prior": -(pos[f"h{len(hidden)}"] - torch.sigmoid(model.prior)).mean(0)}
    for level in range(len(hidden)):
        below, above = ("x" if level == 0 else f"h{level}"), f"h{level + 1}"
        bias = "visible.x.bias" if level == 0 else f"generative.{level}.bias"
        weight = f"generative.{level}.weight"
        logits = pos[above] @ model.get_parameter(weight).T + model.get_parameter(bias)
        error = pos[below] - torch.sigmoid(logits)
        rules |= {weight: -error.T @ pos[above] / n, bias: -error.mean(0)}
        weight, bias = f"recognition.{level}.weight", f"recognition.{level}.bias"
        error = neg[above] - torch.sigmoid(neg[below] @ model.get_parameter(weight).T + model.get_parameter(bias))
        rules |= {weight: -error.T @ neg[below] / n, bias: -error.mean(0)}
    assert set(rules) == set(ours)
    for name, rule in rules.items():
        torch.testing.assert_close(ours[name], rule, rtol=1e-10, atol=1e-12)


def test_the_description_length_of_wake_sleep_is_the_bound() -> None:
    model = machine()
    pos = model.positive_phase({"x": bits(3)})
    terms = WakeSleep()(model, pos, model.ancestral_sample(pos, model.variables))
    torch.testing.assert_close(terms["description_length"], (model.energy(pos) - model.recognition_energy(pos)).mean())
    torch.testing.assert_close(terms["loss"], terms["wake"] + terms["sleep"])


class Fixed(HelmholtzMachine):
    """Completes K copies of an example with all causes in turn, where K is the number of their states."""

    def positive_phase(self, batch: State) -> State:
        causes = every_state({"h1": 3, "h2": 2})
        return {**batch, **{name: value.repeat(len(batch["x"]) // 32, 1) for name, value in causes.items()}}


def test_the_reweighted_gradient_over_all_causes_is_the_rule_written_out() -> None:
    """Every cause once: shares are the normalized p / q, constants, alike in both wake phases."""
    model = perturbed(Fixed({"x": Bernoulli([3])}, [3, 2], weight_std=0.7))
    x = bits(3)[[1, 6]]
    terms = ReweightedWakeSleep(32, wake=0.5, sleep=0)(model, {"x": x}, None)
    loss = torch.zeros((), dtype=F64)
    for example in x:
        state = {"x": example.expand(32, -1), **every_state({"h1": 3, "h2": 2})}
        e, r = model.energy(state), model.recognition_energy(state)
        w = torch.exp(r - e).detach()
        loss = loss + (w / w.sum() * (e + 0.5 * r)).sum() / 2
    torch.testing.assert_close(terms["loss"], loss)
    ours, theirs = gradients(model, terms["loss"]), gradients(model, loss)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-11)


def test_the_reweighted_gradient_is_that_of_log_p_where_recognition_is_exact() -> None:
    """One cause: q(h | x) can be the posterior, then all shares are equal and the mean over draws has no bias."""
    model = machine(visible=2, hidden=(1,))
    with torch.no_grad():  # p(h | x) = sigmoid(prior + sum_i x_i w_i - softplus differences): the posterior of one unit
        weight, bias = model.generative[0].weight[:, 0], model.units("x").bias
        model.recognition[0].weight.copy_(weight[None])
        both = torch.nn.functional.softplus(weight + bias) - torch.nn.functional.softplus(bias)
        model.recognition[0].bias.copy_(model.prior - both.sum())
    x = torch.tensor([[1.0, 0.0]], dtype=F64)
    exact = gradients(model, -log_marginal(model, x, {"h1": 1}).mean())
    draws = [
        gradients(model, ReweightedWakeSleep(4, wake=0, sleep=0)(model, {"x": x}, None)["loss"]) for _ in range(400)
    ]
    for name in (name for name in exact if not name.startswith("recognition")):
        seen = torch.stack([found[name] for found in draws])
        if bool((seen.std(0) > 1e-9).all()):
            assert_means(seen, exact[name])


def test_the_reweighted_gradient_comes_to_that_of_log_p_with_many_draws() -> None:
    """At K = 1800 the bias, about the weights' variance over K, is far below the standard error over 60 repetitions."""
    model, x = machine(), bits(3)[[2, 5, 7]]
    exact = gradients(model, -log_marginal(model, x, {"h1": 3, "h2": 2}).mean())
    objective = ReweightedWakeSleep(1800, wake=0, sleep=0)
    draws = [gradients(model, objective(model, {"x": x}, None)["loss"]) for _ in range(60)]
    compared = [name for name in exact if not name.startswith("recognition")]
    seen = torch.cat([torch.stack([found[name] for found in draws]).flatten(1) for name in compared], 1)
    truth = torch.cat([exact[name].flatten() for name in compared])
    t = float(stats.t.isf(FALSE_ALARM / (2 * len(truth)), len(draws) - 1))
    error = seen.std(0) / math.sqrt(len(draws))
    assert float(((seen.mean(0) - truth).abs() / error).max()) < t
    assert float(error.max()) < 0.05 * float(truth.abs().max())  # the check can see a wrong gradient


def test_with_one_draw_and_no_wake_phase_of_recognition_it_is_wake_sleep() -> None:
    model = machine()
    pos = model.positive_phase({"x": bits(3)})
    neg = model.ancestral_sample(pos, model.variables)
    torch.manual_seed(1)
    ours = ReweightedWakeSleep(1, wake=0)(model, pos, neg)
    torch.manual_seed(1)
    theirs = WakeSleep()(model, model.positive_phase(pos), neg)
    assert identical(gradients(model, ours["loss"]), gradients(model, theirs["loss"]))
    assert ours["ess"] == 1
    torch.testing.assert_close(ours["log_prob"], -theirs["description_length"])


@pytest.mark.parametrize("objective", [WakeSleep(), ReweightedWakeSleep(3, wake=0.5)])
def test_only_the_loss_carries_a_graph_and_no_grad_gives_the_same_numbers(objective) -> None:
    model = machine()
    pos = model.positive_phase({"x": bits(3)})
    neg = model.ancestral_sample(pos, model.variables)
    torch.manual_seed(1)
    terms = objective(model, pos, neg)
    assert all(value.ndim == 0 and value.requires_grad == (name == "loss") for name, value in terms.items())
    for context in (torch.no_grad, torch.inference_mode):
        torch.manual_seed(1)
        with context():
            same = objective(model, pos, neg)
        assert set(same) == set(terms)
        assert all(torch.allclose(value, terms[name]) and not value.requires_grad for name, value in same.items())


@pytest.mark.parametrize("objective", [WakeSleep(), ReweightedWakeSleep(5)])
def test_training_lowers_the_exact_divergence_below_that_of_independent_pixels(objective) -> None:
    """Bars of 2x2 pixels: of all products of independent pixels, that of the data's means is the closest."""
    data = Bars(2, batch_size=100, samples=10_000)
    patterns, p = data.exact()
    on = (p @ patterns.flatten(1).double()).clamp(1e-6, 1 - 1e-6)
    independent = (patterns.flatten(1) * on.log() + (1 - patterns.flatten(1)) * (1 - on).log()).sum(1)
    model = HelmholtzMachine({"x": Bernoulli([1, 2, 2])}, [4, 1])
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.02)  # noqa: E731
    module = EBM(model, objective, Ancestral(model.variables), optimizer=adam)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=600, accelerator="cpu", devices=1, enable_model_summary=False, **quiet).fit(module, data)
    found = ExactDivergence().measure(module, data).measurements["KL(data || model), nats"].value
    assert found < float((p * (p.log() - independent)).sum())


def test_reweighted_wake_sleep_comes_closer_to_the_data_than_wake_sleep() -> None:
    """Explaining away: causes that share pixels are dependent given the pixels, which a factorial q cannot say.

    Wake-sleep pays for it. Four seeds, the same starts and steps for both, the data in every batch with their exact
    shares: each seed has the reweighted form closer, and the mean paired difference exceeds three standard errors.
    """
    p = torch.tensor([0.3, 0.05, 0.05, 0.6], dtype=F64)
    x = bits(2).repeat_interleave((20 * p).round().long(), 0).float()

    def divergence(objective: WakeSleep | ReweightedWakeSleep, seed: int) -> float:
        torch.manual_seed(seed)
        model = HelmholtzMachine({"x": Bernoulli([2])}, [3], weight_std=0.5)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        dreaming = Ancestral(model.variables)
        for _ in range(300):
            pos = model.positive_phase({"x": x})
            optimizer.zero_grad()
            objective(model, pos, dreaming.step(model, pos)[0])["loss"].backward()
            optimizer.step()
        log_q = exact_log_prob(model.double(), {"x": bits(2)})
        return float((p * (p.log() - log_q)).sum())

    lead = [divergence(WakeSleep(), seed) - divergence(ReweightedWakeSleep(10), seed) for seed in range(4)]
    difference = torch.tensor(lead, dtype=F64)
    assert bool((difference > 0).all())
    assert float(difference.mean()) > 3 * float(difference.std()) / math.sqrt(len(lead))


# What is measured.


def test_importance_sampling_comes_to_the_exact_log_probability() -> None:
    """The bias of log mean w is -var(w) / (2 S mean(w)^2) to first order: it shrinks as 1/S."""
    model, x = machine(), bits(3)[5:6]
    exact = float(log_marginal(model, x, {"h1": 3, "h2": 2}).detach())
    found = {}
    for samples in (1, 5, 500):
        log_w = log_weights(model, {"x": x.expand(2000, -1)}, samples)
        log_p = torch.logsumexp(log_w, 1) - math.log(samples)
        found[samples] = (float(log_p.mean()) - exact, float(log_p.std()) / math.sqrt(2000))
    assert found[1][0] < -SIGMAS * found[1][1]  # the bound, below log p
    assert found[1][0] < found[5][0] - SIGMAS * math.hypot(found[1][1], found[5][1])
    assert found[5][0] < found[500][0] + SIGMAS * found[5][1]
    relative = log_weights(model, {"x": x}, 200_000)[0] - exact
    spread = float(relative.exp().var())
    assert abs(found[500][0] + spread / 1000) < SIGMAS * found[500][1] + spread / 1000
    assert abs(float(relative.exp().mean()) - 1) < SIGMAS * float(relative.exp().std()) / math.sqrt(200_000)


def test_the_bound_is_the_entropy_and_the_energy_of_all_causes() -> None:
    model, x = machine(), bits(3)[4:5]
    state = {"x": x.expand(32, -1), **every_state({"h1": 3, "h2": 2})}
    r, e = model.recognition_energy(state).detach(), model.energy(state).detach()
    bound = ((-r).exp() * (r - e)).sum()
    assert float(bound) < float(log_marginal(model, x, {"h1": 3, "h2": 2}).detach())
    assert_means(log_weights(model, {"x": x}, 20_000)[0], bound)
    assert_means(model.free_energy({"x": x.expand(20_000, -1)}), -bound)


def test_exact_log_probabilities_equal_the_enumeration() -> None:
    model = machine()
    ours = exact_log_prob(model, {"x": bits(3)})
    torch.testing.assert_close(ours, log_marginal(model, bits(3), {"h1": 3, "h2": 2}).detach())
    rbm = perturbed(RBM({"x": Bernoulli([3])}, 2, weight_std=0.7))
    assert float(exact_log_prob(rbm, {"x": bits(3)}).exp().sum()) == pytest.approx(1)


@pytest.mark.parametrize(("vertical", "on"), [(2 / 3, 0.2), (0.5, 0.7), (1.0, 0.5)])
def test_the_probabilities_of_bars_are_those_of_their_story(vertical: float, on: float) -> None:
    patterns, p = Bars(3, vertical=vertical, on=on).exact()
    assert len(patterns.flatten(1).unique(dim=0)) == len(patterns) == 14
    assert float(p.sum()) == pytest.approx(1)
    expected = torch.zeros(2**9, dtype=F64)
    for is_vertical, share in ((True, vertical), (False, 1 - vertical)):
        for bars in bits(3):
            image = bars.expand(3, 3) if is_vertical else bars[:, None].expand(3, 3)
            chance = share * math.prod(on if bar else 1 - on for bar in bars.tolist())
            expected[index_of(image.reshape(1, 9))] += chance
    torch.testing.assert_close(p, expected[index_of(patterns.flatten(1))])


def test_the_bars_of_the_paper_have_3_428_bits() -> None:
    data = Bars(samples=20_000)
    patterns, p = data.exact()
    assert float(-(p * p.log2()).sum()) == pytest.approx(3.428, abs=5e-4)
    images = data.tensors("train")["x"]
    which = (images.flatten(1)[:, None] == patterns.flatten(1)).all(2).long().argmax(1)
    assert_counts(torch.bincount(which, minlength=30), p)
    assert torch.equal(data.tensors("test")["x"], patterns)


def _on_cpu(model: EnergyModel) -> EBM:
    return EBM(model, WakeSleep(), Ancestral(model.variables))


def test_the_divergence_from_bars_is_that_of_a_model_written_out() -> None:
    """A machine without weights is independent pixels: the divergence is a sum over the patterns."""
    data = Bars(batch_size=100, samples=20_000)
    model = HelmholtzMachine({"x": Bernoulli([1, 4, 4])}, [3, 1], weight_std=0.0)
    with torch.no_grad():
        model.units("x").bias.fill_(math.log(0.3 / 0.7))
    found = {name: one.value for name, one in ExactDivergence().measure(_on_cpu(model), data).measurements.items()}
    patterns, p = data.exact()
    on = patterns.flatten(1).sum(1).double()
    log_q = on * math.log(0.3) + (16 - on) * math.log(0.7)
    nats = float((p * (p.log() - log_q)).sum())
    assert found["KL(data || model), nats"] == pytest.approx(nats, abs=1e-5)
    assert found["KL(data || model), bits"] == pytest.approx(nats / math.log(2), abs=1e-5)
    assert found["entropy of the data, bits"] == pytest.approx(3.428, abs=5e-4)
    assert found["probability of other images"] == pytest.approx(1 - float(log_q.exp().sum()), abs=1e-5)


def test_the_likelihood_protocol_measures_what_enumeration_says() -> None:
    """The weights are small, so that the bias of 1000 draws is below 1e-3 nats."""
    data, model = Bars(2, samples=100), HelmholtzMachine({"x": Bernoulli([1, 2, 2])}, [3, 2], weight_std=0.5)
    found = ImportanceSampledLikelihood(samples=1000).measure(_on_cpu(model), data).measurements
    exact = exact_log_prob(copy.deepcopy(model), data.tensors("test")).mean()
    gain = found["gain from S/10 to S samples"].value
    assert abs(found["log-probability test"].value - float(exact)) < 0.02
    assert found["variational bound, log-probability test"].value < found["log-probability test"].value
    assert abs(gain) < 0.02
    assert 1 < found["effective samples"].value < 1000
    nats, in_bits = (found[f"description length, {unit}"].value for unit in ("nats", "bits"))
    assert nats == pytest.approx(in_bits * math.log(2))
    assert nats == -found["variational bound, log-probability test"].value


def test_a_subset_for_evaluation_is_drawn_at_random() -> None:
    state = {"x": torch.arange(1000.0)}
    few = chosen("", state, 100)["x"]
    assert len(few.unique()) == 100
    assert abs(float(few.mean()) - 499.5) < SIGMAS * 1000 / math.sqrt(12 * 100)
    assert chosen("", state, None) is state


def test_the_shortest_description_names_the_class_whose_machine_made_the_data() -> None:
    """Ten machines without causes of any weight, that is ten products of independent pixels fitted to their digits."""
    data = Digits(100, valid=0, pixels=Threshold())
    model = PerClass(HelmholtzMachine({"x": Bernoulli([1, 8, 8])}, [1], weight_std=0.0), 10)
    module = _on_cpu(model)
    train, test = data.tensors("train"), data.tensors("test")
    model.initialize(data.eval_loader("train"))
    found = DescriptionLengthClassifier(samples=1).measure(module, data).measurements
    on = torch.stack([train["x"][train["y"] == label].flatten(1).mean(0) for label in range(10)]).clamp(1e-3, 1 - 1e-3)
    x = test["x"].flatten(1)
    log_p = x @ on.log().T + (1 - x) @ (1 - on).log().T
    wrong = 100 * float((log_p.argmax(1) != test["y"]).double().mean())
    assert found["test error, percent"].value == pytest.approx(wrong)
    assert found["test error by importance sampling, percent"].value == pytest.approx(wrong)
    own = -log_p.gather(1, test["y"][:, None]).mean() / math.log(2)
    assert found["description length of own class, bits"].value == pytest.approx(float(own), rel=1e-4)


BITS = {"x": Bernoulli([3])}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HelmholtzMachine({}, [2]), "expected at least one group and one layer"),
        (lambda: HelmholtzMachine(BITS, []), "expected at least one group and one layer"),
        (lambda: HelmholtzMachine(BITS, [2, 0]), r"hidden=\[2, 0\]"),
        (lambda: HelmholtzMachine({"h1": Bernoulli([3])}, [2]), "no group called h1"),
        (lambda: HelmholtzMachine({"x": Bernoulli([3], probabilities=True)}, [2]), "set probabilities: false"),
        (lambda: machine().check({"x": torch.rand(2, 3)}), "take values 0 and 1"),
        (lambda: machine().check({"x": torch.zeros(2, 4)}), r"holds values of shape \(3,\), got \(4,\)"),
        (lambda: machine().positive_phase({"z": torch.zeros(2, 3)}), "'x' is to be moved or scored"),
        (lambda: Ancestral(()), "nothing to draw"),
        (
            lambda: Ancestral(("x", "h2")).step(machine(), {"x": bits(3)}),
            "cannot dream of .*without the topmost layers",
        ),
        (lambda: Ancestral(("x", "h3")).step(machine(), {"x": bits(3)}), "cannot dream of"),
        (lambda: Ancestral(("x",)).step(RBM(BITS, 2), {"x": bits(3)}), "RBM cannot dream of"),
        (
            lambda: Ancestral(("x", "y")).step(PerClass(machine(), 2), {"x": bits(3), "y": torch.zeros(8).long()}),
            "PerClass cannot dream of the label",
        ),
        (
            lambda: PerClass(HelmholtzMachine(BITS, [2]), 2).positive_phase({"x": bits(3).float()}),
            "PerClass needs the label 'y' of every example",
        ),
        (lambda: Gibbs(("h1",)).step(machine(), every_state(WIDTHS)), "has no conditional for 'h1'"),
        (lambda: WakeSleep()(machine(), every_state(WIDTHS), None), "give EBM the sampler Ancestral"),
        (lambda: WakeSleep()(RBM(BITS, 2), {"x": bits(3).float()}, {"x": bits(3).float()}), "no recognition model"),
        (lambda: ReweightedWakeSleep(0), r"samples=0"),
        (lambda: ReweightedWakeSleep(2, wake=-1), "weights >= 0"),
        (lambda: ReweightedWakeSleep(2)(machine(), {"x": bits(3)}, None), "give EBM the sampler Ancestral"),
        (lambda: ImportanceSampledLikelihood(samples=15), "multiple of 10"),
        (lambda: chosen("Protocol", {"x": torch.zeros(3)}, 4), "there are 3 test examples"),
        (lambda: DescriptionLengthClassifier(samples=0), "samples >= 1"),
        (lambda: DescriptionLengthClassifier().measure(_on_cpu(machine()), Bars(2, samples=9)), "needs labels 'y'"),
        (
            lambda: exact_log_prob(machine(), {"x": bits(3)}, largest=4),
            "expected at most 4; use ImportanceSampledLikelihood",
        ),
        (lambda: Digits(pixels=Gray()).exact(), "distribution of Digits is not known"),
        (lambda: Bars(13), "side=13"),
        (lambda: Bars(samples=0), "samples=0"),
        (lambda: Bars(on=1.0), "on=1.0"),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
