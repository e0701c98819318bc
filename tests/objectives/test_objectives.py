"""Objectives against rules written by hand, enumeration and closed forms.

Statistical checks fail by chance once in a million.
"""

import math

import pytest
import torch
from support.oracles import assert_means, bits, log_partition, probabilities
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, Noise, Objective, State, Terms
from ebm_lightning.distributions import GaussianNoise, UniformNoise
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.objectives import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    NoiseContrastive,
    SlicedScoreMatching,
    Sum,
)

F64 = torch.float64


class Bell(EnergyModel):
    """E(x) = precision (x - mean)^2 / 2 + log_z in one dimension: exp(-E) is normalized where log_z fits."""

    def __init__(self, mean: float = 0.0, precision: float = 1.0) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=F64))
        self.precision = nn.Parameter(torch.tensor(precision, dtype=F64))
        self.log_z = nn.Parameter(torch.tensor(math.log(2 * math.pi / precision) / 2, dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return self.precision * (x[:, 0] - self.mean).square() / 2 + self.log_z


class Quadratic(EnergyModel):
    """E(x) = x.A x / 2 with A symmetric."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.a * x).sum(1) / 2


class Quartic(EnergyModel):
    """E(x, context) = sum(scale x^4 / 4 + context x): its Hessian in x is diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return (self.scale * x.pow(4) / 4 + context * x).flatten(1).sum(1)


class Slope(EnergyModel):
    """E(x) = weight . x, without curvature."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Table(EnergyModel):
    """E(x) = table[x] over a handful of states."""

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(-counts.double().log())

    def forward(self, x: Tensor) -> Tensor:
        return self.table[x]


def _rbm() -> RBM:
    model = RBM({"v": Bernoulli([4])}, 3, weight_std=1.0).double()
    with torch.no_grad():
        for bias in (model.units("v").bias, model.hidden_bias):
            bias.normal_()
    return model


def _gradients(model: EnergyModel, terms: Terms) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(terms["loss"], parameters), strict=True))


def _quartic_state(n: int = 7) -> State:
    return {"x": torch.randn(n, 2, 3, dtype=F64), "context": torch.randn(n, 2, 3, dtype=F64)}


def test_the_contrast_of_an_rbm_descends_by_hintons_rule() -> None:
    """-dloss/dW = <v p(h|v)>_data - <v p(h|v)>_chains, and likewise for the biases; the phases differ in size."""
    model, data, chains = _rbm(), bits(4)[3:9], bits(4)[6:16]
    ours = _gradients(model, ContrastiveDivergence()(model, {"v": data}, {"v": chains}))

    def statistics(v: Tensor) -> dict[str, Tensor]:
        h = torch.sigmoid(model.hidden_bias + v @ model.weight)
        return {"weight": v.T @ h / len(v), "visible.v.bias": v.mean(0), "hidden_bias": h.mean(0)}

    for name, value in statistics(data).items():
        assert torch.allclose(-ours[name], value - statistics(chains)[name], atol=1e-14)


def test_the_contrast_with_exact_samples_is_the_gradient_of_the_likelihood() -> None:
    """p = counts / 15 is drawn exactly by taking every state as often as it counts."""
    counts = torch.tensor([1, 2, 3, 4, 5])
    model, data = Table(counts), torch.tensor([0, 0, 3, 1])
    chains = torch.arange(5).repeat_interleave(counts)
    ours = _gradients(model, ContrastiveDivergence()(model, {"x": data}, {"x": chains}))["table"]
    (exact,) = torch.autograd.grad(-(-model.table).log_softmax(0)[data].mean(), model.table)
    assert torch.allclose(ours, exact, atol=1e-14)


def test_the_contrast_with_draws_from_an_rbm_estimates_its_likelihood_gradient() -> None:
    """Hidden units summed out by the model, visible ones enumerated: dlog p/dW from autograd of -F - log Z."""
    model, data, n = _rbm(), bits(4)[[3, 3, 12, 5]], 50_000
    log_p = -model(v=data) - torch.logsumexp(-model(v=bits(4)), 0)
    exact = torch.autograd.grad(-log_p.mean(), model.weight)[0]
    assert torch.allclose(torch.logsumexp(-model(v=bits(4)), 0), log_partition(model, {"v": bits(4)}))
    chains = bits(4)[torch.multinomial(probabilities(model, {"v": bits(4)}), n, replacement=True)]
    ours = _gradients(model, ContrastiveDivergence()(model, {"v": data}, {"v": chains}))["weight"]
    hidden = torch.sigmoid(model.hidden_bias + chains @ model.weight).detach()
    of_each = chains[:, :, None] * hidden[:, None, :]
    assert_means(of_each, (of_each.mean(0) - (ours - exact)).detach())


def test_the_terms_of_the_contrast_and_its_penalty() -> None:
    model = Bell(precision=2.0)
    data, chains = torch.randn(5, 1, dtype=F64), torch.randn(8, 1, dtype=F64)
    terms = ContrastiveDivergence(l2=0.3)(model, {"x": data}, {"x": chains})
    high, low = model(data), model(chains)
    assert torch.allclose(terms["gap"], high.mean() - low.mean())
    assert torch.allclose(terms["l2"], 0.3 * (high.square().mean() + low.square().mean()))
    assert torch.allclose(terms["loss"], terms["gap"] + terms["l2"])
    assert torch.allclose(terms["energy_data_std"], high.std(correction=0))
    assert torch.allclose(terms["energy_chains_std"], low.std(correction=0))
    assert torch.allclose(terms["energy_data"] - terms["energy_chains"], terms["gap"])
    assert "l2" not in ContrastiveDivergence()(model, {"x": data}, {"x": chains})


def test_the_contrast_is_not_differentiated_through_the_sampler() -> None:
    model, data = Bell(), torch.randn(5, 1, dtype=F64)
    chains = model.precision * torch.randn(5, 1, dtype=F64)
    attached = _gradients(model, ContrastiveDivergence()(model, {"x": data}, {"x": chains}))
    constant = _gradients(model, ContrastiveDivergence()(model, {"x": data}, {"x": chains.detach()}))
    assert all(torch.equal(attached[name], constant[name]) for name in constant)


@pytest.mark.parametrize("precision", [0.4, 1 / (1 + 0.8**2), 1.0])
def test_denoising_score_matching_of_a_normal_is_its_closed_form(precision: float) -> None:
    """With data N(0, 1), noise s and E = a x^2 / 2, the loss is u^2 / 2 of a normal u of variance
    (s a)^2 + (s^2 a - 1)^2, and its slope in a is s^2 ((1 + s^2) a - 1), zero at the variance 1 + s^2."""
    s, batches, size = 0.8, 400, 500
    model, losses, slopes = Bell(precision=precision), [], []
    for _ in range(batches):
        terms = DenoisingScoreMatching(s)(model, {"x": torch.randn(size, 1, dtype=F64)}, None)
        losses.append(terms["loss"].detach())
        slopes.append(torch.autograd.grad(terms["loss"], model.precision)[0])
    variance = (s * precision) ** 2 + (s**2 * precision - 1) ** 2
    expected = torch.tensor([variance / 2, s**2 * ((1 + s**2) * precision - 1)], dtype=F64)
    assert_means(torch.stack([torch.stack(losses), torch.stack(slopes)], 1), expected)


def test_denoising_score_matching_noises_its_block_alone() -> None:
    """The loss is that of the formula with the noise drawn again."""
    model, pos, s = Quartic(), _quartic_state(), 0.5
    torch.manual_seed(1)
    terms = DenoisingScoreMatching(s)(model, pos, None)
    torch.manual_seed(1)
    e = torch.randn_like(pos["x"])
    noised = pos["x"] + s * e
    slope = model.scale * noised**3 + pos["context"]
    assert torch.allclose(terms["loss"], (s * slope - e).square().sum() / 2 / len(e))
    assert torch.allclose(terms["energy_data"], model(noised, pos["context"]).mean())


def test_sliced_score_matching_is_exact_where_the_hessian_is_diagonal() -> None:
    """|dE/dx|^2 / 2 - tr H, loss and gradient, by the closed forms of the slope and the curvature."""
    model, pos = Quartic(), _quartic_state()
    terms = SlicedScoreMatching()(model, pos, None)
    slope, curvature = model.scale * pos["x"] ** 3 + pos["context"], 3 * model.scale * pos["x"] ** 2
    exact = (slope.square() / 2 - curvature).flatten(1).sum(1).mean()
    assert torch.allclose(terms["loss"], exact)
    assert torch.allclose(terms["curvature"], curvature.flatten(1).sum(1).mean())
    ours, theirs = (torch.autograd.grad(loss, model.scale)[0] for loss in (terms["loss"], exact))
    assert torch.allclose(ours, theirs)


def test_sliced_score_matching_has_the_trace_of_a_full_hessian_as_its_mean() -> None:
    """On E = x.A x / 2: mean |A x|^2 / 2 - tr A, and its gradient in A. An independent batch of directions per draw."""
    factor = torch.randn(3, 3, dtype=F64)
    model, x = Quadratic(factor @ factor.T), torch.randn(50, 3, dtype=F64)
    exact = (x @ model.a).square().sum(1).mean() / 2 - model.a.trace()
    (exact_slope,) = torch.autograd.grad(exact, model.a)
    draws = []
    for _ in range(400):
        terms = SlicedScoreMatching(2)(model, {"x": x}, None)
        slope = torch.autograd.grad(terms["loss"], model.a)[0]
        slope = (slope + slope.T) / 2
        draws.append(torch.cat([terms["loss"].detach()[None], slope[*torch.triu_indices(3, 3, 1)]]))
        assert torch.allclose(slope.diagonal(), exact_slope.diagonal())
    exact_slope = (exact_slope + exact_slope.T) / 2
    expected = torch.cat([exact.detach()[None], exact_slope[*torch.triu_indices(3, 3, 1)]])
    assert_means(torch.stack(draws), expected)


def test_sliced_score_matching_has_its_minimum_at_the_data_variance() -> None:
    """For E = a x^2 / 2 the loss is a^2 <x^2> / 2 - a, least at a = 1 / <x^2>."""
    x = 1.7 * torch.randn(100, 1, dtype=F64)
    model = Bell(precision=float(1 / x.square().mean()))
    slope = torch.autograd.grad(SlicedScoreMatching()(model, {"x": x}, None)["loss"], model.precision)[0]
    assert abs(slope) < 1e-12


def test_an_energy_without_curvature_is_matched_by_its_slope_alone() -> None:
    terms = SlicedScoreMatching()(Slope(), {"x": torch.randn(4, 2, dtype=F64)}, None)
    assert terms["curvature"] == 0
    assert torch.allclose(terms["loss"], torch.tensor(2.5, dtype=F64))


@pytest.mark.parametrize("ratio", [1, 4])
def test_noise_contrastive_estimation_cannot_tell_the_noise_from_itself(ratio: int) -> None:
    """Where exp(-E) = q every posterior is 1 / (1 + ratio): loss = log(1 + ratio) + ratio log(1 + 1/ratio)."""
    model, x = Bell(mean=0.5, precision=1 / 4), torch.randn(6, 1, dtype=F64)
    terms = NoiseContrastive(GaussianNoise(0.5, 2.0), ratio=ratio)(model, {"x": x}, None)
    expected = math.log1p(ratio) + ratio * math.log1p(1 / ratio)
    assert torch.allclose(terms["loss"], torch.tensor(expected, dtype=F64))
    assert torch.allclose(terms["energy_data"], -GaussianNoise(0.5, 2.0).log_prob(x).mean())


@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_noise_contrastive_estimation_has_its_minimum_at_the_truth_with_log_z(ratio: int, shift: float) -> None:
    """The mean gradient in mean, precision and log Z vanishes at the truth, and not where log Z is off."""
    model, batches = Bell(mean=0.4, precision=2.0), []
    with torch.no_grad():
        model.log_z += shift
    objective = NoiseContrastive(GaussianNoise(0.0, 1.5), ratio=ratio)
    for _ in range(400):
        x = 0.4 + torch.randn(300, 1, dtype=F64) / math.sqrt(2)
        batches.append(torch.stack(list(_gradients(model, objective(model, {"x": x}, None)).values())))
    slopes = torch.stack(batches)
    if shift == 0:
        assert_means(slopes, torch.zeros(3, dtype=F64))
    else:
        with pytest.raises(AssertionError):
            assert_means(slopes, torch.zeros(3, dtype=F64))


class Recorded(Noise):
    """Draws that count up from 0, of density 1."""

    def sample(self, like: Tensor) -> Tensor:
        return torch.arange(like.numel(), dtype=like.dtype).view_as(like)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=x.dtype)


def test_noise_contrastive_estimation_repeats_the_clamped_variables() -> None:
    """Three draws for each datum, under that datum's context; the loss is the formula's."""
    model = Quartic()
    pos = {"x": torch.tensor([[0.1], [0.2]], dtype=F64), "context": torch.tensor([[1.0], [-1.0]], dtype=F64)}
    terms = NoiseContrastive(Recorded(), ratio=3)(model, pos, None)
    loss = 0.0
    for x, context in ((0.1, 1.0), (0.2, -1.0)):
        loss += math.log(1 + 3 * math.exp(0.7 * x**4 / 4 + context * x)) / 2
    for k in range(6):
        energy = 0.7 * k**4 / 4 + (1.0 if k < 3 else -1.0) * k
        loss += math.log(1 + math.exp(-energy) / 3) / 2
    assert torch.allclose(terms["loss"], torch.tensor(loss, dtype=F64))


def test_noise_contrastive_accuracy_counts_what_is_told_apart() -> None:
    """E = 50 (x - 5)^2 against noise near 0: nothing is mistaken; data within the noise are all mistaken for it."""
    model = Bell(mean=5.0, precision=100.0)
    objective = NoiseContrastive(GaussianNoise(0.0, 0.1))
    assert objective(model, {"x": torch.full((4, 1), 5.0, dtype=F64)}, None)["accuracy"] == 1.0
    assert objective(model, {"x": torch.zeros(4, 1, dtype=F64)}, None)["accuracy"] == 0.5


def test_a_datum_outside_the_support_of_the_noise_teaches_nothing() -> None:
    model = Bell()
    objective = NoiseContrastive(UniformNoise(0.0, 1.0))
    torch.manual_seed(1)
    inside = _gradients(model, objective(model, {"x": torch.tensor([[3.0], [4.0]], dtype=F64)}, None))
    torch.manual_seed(1)
    moved = _gradients(model, objective(model, {"x": torch.tensor([[-7.0], [2.0]], dtype=F64)}, None))
    assert all(torch.equal(inside[name], moved[name]) and inside[name].isfinite() for name in inside)


def test_sum_adds_losses_by_weight_and_logs_every_part() -> None:
    model, pos = Quartic(), _quartic_state()
    neg = _quartic_state()
    contrast, score = ContrastiveDivergence(l2=0.1), SlicedScoreMatching()
    terms = Sum({"contrast": contrast, "score": score}, weights={"score": 0.25})(model, pos, neg)
    alone = {"contrast": contrast(model, pos, neg), "score": score(model, pos, neg)}
    assert torch.allclose(terms["loss"], alone["contrast"]["loss"] + 0.25 * alone["score"]["loss"])
    expected = {f"{name}/{term}" for name, found in alone.items() for term in found}
    assert set(terms) == expected | {"loss"}
    assert all(torch.allclose(terms[f"{name}/{term}"], value) for name in alone for term, value in alone[name].items())
    slopes = {name: _gradients(model, found)["scale"] for name, found in alone.items()}
    assert torch.allclose(_gradients(model, terms)["scale"], slopes["contrast"] + 0.25 * slopes["score"])


EVERY: dict[str, Objective] = {
    "ContrastiveDivergence": ContrastiveDivergence(l2=0.1),
    "DenoisingScoreMatching": DenoisingScoreMatching(0.3),
    "SlicedScoreMatching": SlicedScoreMatching(2),
    "NoiseContrastive": NoiseContrastive(GaussianNoise(), ratio=2),
    "Sum": Sum({"contrast": ContrastiveDivergence(), "score": DenoisingScoreMatching(0.1)}),
}


@pytest.mark.parametrize("objective", EVERY.values(), ids=EVERY.keys())
def test_only_the_loss_carries_a_graph_and_no_grad_gives_the_same_numbers(objective: Objective) -> None:
    model, pos, neg = Quartic(), _quartic_state(), _quartic_state()
    torch.manual_seed(1)
    terms = objective(model, pos, neg)
    assert all(value.ndim == 0 and value.requires_grad == (name == "loss") for name, value in terms.items())
    assert model.scale.grad is None
    for context in (torch.no_grad, torch.inference_mode):
        torch.manual_seed(1)
        with context():
            inside = [{name: value.clone() for name, value in state.items()} for state in (pos, neg)]
            same = objective(model, *inside)
        assert set(same) == set(terms)
        assert all(torch.allclose(value, terms[name]) and not value.requires_grad for name, value in same.items())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ContrastiveDivergence(l2=-1.0), r"ContrastiveDivergence\(l2=-1.0\)"),
        (lambda: ContrastiveDivergence()(Quartic(), _quartic_state(), None), "give EBM a sampler"),
        (lambda: DenoisingScoreMatching(0.0), r"DenoisingScoreMatching\(sigma=0.0\)"),
        (lambda: SlicedScoreMatching(0), r"SlicedScoreMatching\(projections=0\)"),
        (lambda: NoiseContrastive(GaussianNoise(), ratio=0), r"NoiseContrastive\(ratio=0\)"),
        (lambda: Sum({}), "at least one objective"),
        (
            lambda: Sum({"a": ContrastiveDivergence()}, weights={"b": 1.0}),
            r"names \['b'\], but the parts are \['a'\]",
        ),
        (
            lambda: DenoisingScoreMatching(0.1, block="z")(Quartic(), _quartic_state(), None),
            r"'z' is to be moved or scored, but Quartic is an energy over",
        ),
        (lambda: SlicedScoreMatching(block="z")(Quartic(), _quartic_state(), None), "'z' is to be moved or scored"),
        (
            lambda: NoiseContrastive(GaussianNoise(), block="z")(Quartic(), _quartic_state(), None),
            r"Quartic is an energy over \('x', 'context'\)",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
