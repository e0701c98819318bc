"""Wake-sleep and its reweighted form against the delta rules, the enumerated likelihood and each other."""

import math

import pytest
import torch
from scipy import stats
from support.helmholtz import WIDTHS, every_state, log_marginal, machine
from support.oracles import FALSE_ALARM, assert_means, bits, gradients, identical, perturbed

from ebm_lightning import EBM, Trainer
from ebm_lightning.core import State
from ebm_lightning.data import Bars
from ebm_lightning.energies import RBM, HelmholtzMachine
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.evaluation import ExactDivergence
from ebm_lightning.evaluation.protocols.exact_divergence import exact_log_prob
from ebm_lightning.objectives import ReweightedWakeSleep, WakeSleep
from ebm_lightning.samplers import Ancestral

F64 = torch.float64


@pytest.mark.parametrize("hidden", [(3,), (3, 2), (3, 2, 2)])
def test_WakeSleep_gives_the_delta_rules(hidden: tuple[int, ...]) -> None:
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


def test_WakeSleep_description_length_is_the_bound() -> None:
    model = machine()
    pos = model.positive_phase({"x": bits(3)})
    terms = WakeSleep()(model, pos, model.ancestral_sample(pos, model.variables))
    torch.testing.assert_close(terms["description_length"], (model.energy(pos) - model.recognition_energy(pos)).mean())
    torch.testing.assert_close(terms["loss"], terms["wake"] + terms["sleep"])


class Fixed(HelmholtzMachine):
    """Completes K copies of an example with all latents in turn, where K is the number of their states."""

    def positive_phase(self, batch: State) -> State:
        latents = every_state({"h1": 3, "h2": 2})
        return {**batch, **{name: value.repeat(len(batch["x"]) // 32, 1) for name, value in latents.items()}}


def test_ReweightedWakeSleep_over_all_causes_is_the_rule_written_out() -> None:
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


def test_ReweightedWakeSleep_is_the_gradient_of_log_p_where_recognition_is_exact() -> None:
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


def test_ReweightedWakeSleep_comes_to_the_gradient_of_log_p_with_many_draws() -> None:
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


def test_ReweightedWakeSleep_with_one_draw_and_no_wake_phase_of_recognition_is_WakeSleep() -> None:
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
def test_WakeSleep_and_ReweightedWakeSleep_carry_a_graph_in_the_loss_only(objective) -> None:
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
def test_WakeSleep_and_ReweightedWakeSleep_lower_the_exact_divergence_below_that_of_independent_pixels(
    objective,
) -> None:
    """Bars of 2x2 pixels: of all products of independent pixels, that of the data's means is the closest."""
    data = Bars(2, batch_size=100, samples=10_000)
    patterns, p = data.true_distribution()
    on = (p @ patterns.flatten(1).double()).clamp(1e-6, 1 - 1e-6)
    independent = (patterns.flatten(1) * on.log() + (1 - patterns.flatten(1)) * (1 - on).log()).sum(1)
    model = HelmholtzMachine({"x": Bernoulli([1, 2, 2])}, [4, 1])
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.02)  # noqa: E731
    module = EBM(model, objective, Ancestral(model.variables), optimizer=adam)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=600, accelerator="cpu", devices=1, enable_model_summary=False, **quiet).fit(module, data)
    found = ExactDivergence().measure(module, data).measurements["kl_nats"].value
    assert found < float((p * (p.log() - independent)).sum())


def test_ReweightedWakeSleep_comes_closer_to_the_data_than_WakeSleep() -> None:
    """Explaining away: latents that share pixels are dependent given the pixels, which a factorial q cannot say.

    Wake-sleep pays for it. Four seeds, the same starts and steps for both, the data in every batch with their exact
    shares: each seed has the reweighted form closer, and the mean paired difference exceeds three standard errors.
    """
    p = torch.tensor([0.3, 0.05, 0.05, 0.6], dtype=F64)
    x = bits(2).repeat_interleave((20 * p).round().long(), 0).float()

    def divergence(objective: WakeSleep | ReweightedWakeSleep, seed: int) -> float:
        torch.manual_seed(seed)
        model = HelmholtzMachine({"x": Bernoulli([2])}, [3], weight_std=0.5)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        sampler = Ancestral(model.variables)
        for _ in range(300):
            pos = model.positive_phase({"x": x})
            optimizer.zero_grad()
            objective(model, pos, sampler.step(model, pos)[0])["loss"].backward()
            optimizer.step()
        log_q = exact_log_prob(model.double(), {"x": bits(2)})
        return float((p * (p.log() - log_q)).sum())

    lead = [divergence(WakeSleep(), seed) - divergence(ReweightedWakeSleep(10), seed) for seed in range(4)]
    difference = torch.tensor(lead, dtype=F64)
    assert bool((difference > 0).all())
    assert float(difference.mean()) > 3 * float(difference.std()) / math.sqrt(len(lead))


BITS = {"x": Bernoulli([3])}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WakeSleep()(machine(), every_state(WIDTHS), None), "give EBM the sampler Ancestral"),
        (
            lambda: WakeSleep()(RBM(BITS, 2), {"x": bits(3).float()}, {"x": bits(3).float()}),
            "RBM is not HasRecognition",
        ),
        (lambda: ReweightedWakeSleep(0), r"samples=0"),
        (lambda: ReweightedWakeSleep(2, wake=-1), "weights >= 0"),
        (lambda: ReweightedWakeSleep(2)(machine(), {"x": bits(3)}, None), "give EBM the sampler Ancestral"),
    ],
)
def test_WakeSleep_and_ReweightedWakeSleep_refuse_what_cannot_work_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
