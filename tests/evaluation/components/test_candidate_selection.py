"""The best of several predictions, against the choice made by hand among the same draws."""

import math

import pytest
import torch
from support.oracles import perturbed
from support.predictions import Pairs, TowardsHalf, random_tokens
from torch import Tensor, nn
from torch.nn import functional as F

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains
from ebm_lightning.core import EnergyModel, State
from ebm_lightning.distributions import GaussianNoise
from ebm_lightning.energies import NextToken, StepToken, TextEBT
from ebm_lightning.evaluation import InferenceBudget, Perplexity, PredictionError
from ebm_lightning.objectives import ImagePrediction, TokenPrediction
from ebm_lightning.samplers import Annealed, Descent, Tempered

F64 = torch.float64


class Bowls(EnergyModel):
    """E(x, y) = sum over positions of |y_t|^2 / 2 + table[x_t] . y_t: k steps end at (1 - alpha)^k (y + c) - c."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.local_energies({"x": x, "y": y}).sum(1)

    def local_energies(self, state: State) -> Tensor:
        return (state["y"].square() / 2 + self.table[state["x"]] * state["y"]).sum(-1)

    def positive_phase(self, batch: State) -> State:
        return {"y": torch.zeros(*batch["x"].shape, len(self.table)), **batch}


def _errors(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropies (..., S) of logits (..., S, V)."""
    shape = logits.shape[:-1]
    return F.cross_entropy(logits.flatten(0, -2), target.expand(shape).flatten(), reduction="none").view(shape)


def _initial(candidates: int, n: int, *shape: int) -> Tensor:
    """(candidates, n, ...): the draws in their order, one candidate of a batch of 7 after the other."""
    sizes = [7] * (n // 7) + [n % 7]
    return torch.cat([torch.stack([torch.randn(size, *shape) for _ in range(candidates)]) for size in sizes], 1)


def test_at_every_position_the_candidate_of_the_lowest_final_energy_is_kept() -> None:
    """Perplexities, and the gain over the first candidate with its standard error over sequences."""
    model, data = Bowls(5), random_tokens()
    module = EBM(model, TokenPrediction(), Descent(0.3), chains=NoiseChains(GaussianNoise()))
    torch.manual_seed(5)
    found = Perplexity(steps=[0, 3], candidates=[1, 2, 4], ignore=3).measure(module, data).measurements
    torch.manual_seed(5)
    x, target = data.rows["x"], data.rows["target"]
    initial = _initial(4, 20, 6, 5)
    c, kept = model.table[x].detach(), target != 3
    for k, name in ((0, "0_steps"), (3, "3_steps")):
        ends = 0.7**k * (initial + c) - c
        energies, errors = (ends.square() / 2 + c * ends).sum(-1), _errors(ends, target)
        for n in (1, 2, 4):
            chosen = errors[:n].gather(0, energies[:n].argmin(0, keepdim=True))[0]
            suffix = f"after_{name}" + (f"_best_of_{n}" if n > 1 else "")
            assert found[f"perplexity_{suffix}"].value == pytest.approx(float(chosen[kept].mean().exp()), rel=1e-5)
            if n > 1:
                gain = found[f"choice_gain_nats_{suffix}"]
                difference, tokens = ((errors[0] - chosen) * kept).sum(1), kept.sum(1)
                expected = float(difference.sum() / tokens.sum())
                error = float((difference - expected * tokens).std() * math.sqrt(20) / tokens.sum())
                assert gain.value == pytest.approx(expected, rel=1e-4)
                assert gain.standard_error == pytest.approx(error, rel=1e-4)
    assert not any("gain" in name and "best_of_1" in name for name in found)


def test_a_single_number_of_candidates_is_compared_with_one_that_is_not_reported() -> None:
    module = EBM(Bowls(5), TokenPrediction(), Descent(0.3), chains=NoiseChains(GaussianNoise()))
    found = Perplexity(steps=[2], candidates=[3]).measure(module, random_tokens())
    keys = ["perplexity_after_2_steps_best_of_3", "choice_gain_nats_after_2_steps_best_of_3"]
    labels = ["perplexity after 2 steps, best of 3", "gain by choosing, nats a token, after 2 steps, best of 3"]
    assert {key: one.label for key, one in found.measurements.items()} == dict(zip(keys, labels, strict=True))
    assert list(found.pictures) == ["steps"]


def test_the_energy_that_chooses_is_the_one_of_the_next_step() -> None:
    """Of probabilities where descent normalizes, on the landscape of that step, without the noise of descent."""
    model = perturbed(TextEBT(5, layers=1, heads=1, dim=4, condition=StepToken(2)))
    module = EBM(model, TokenPrediction(), Descent(2.0, softmax=True, noise=0.5).double())
    module.chains = NoiseChains(GaussianNoise())
    data = random_tokens()
    torch.manual_seed(5)
    found = Perplexity(steps=[2], num_examples=7, candidates=[3]).measure(module, data).measurements
    torch.manual_seed(5)
    x, target = data.rows["x"][:7], data.rows["target"][:7]
    ends, energies = [], []
    for _ in range(3):
        y = torch.randn(7, 6, 5, dtype=F64)
        for k in range(2):
            p = (y + 0.5 * torch.randn_like(y)).softmax(-1).requires_grad_()
            (grad,) = torch.autograd.grad(model(x, p, torch.full((7,), k)).sum(), p)
            y = p.detach() - 2.0 * grad
        ends.append(y)
        final = {"x": x, "y": y.softmax(-1), "descent.step": torch.full((7,), 2)}
        energies.append(model.local_energies(final))
    chosen = _errors(torch.stack(ends), target).gather(0, torch.stack(energies).argmin(0, keepdim=True))
    value = found["perplexity_after_2_steps_best_of_3"].value
    assert value == pytest.approx(float(chosen.mean().exp()), rel=1e-9)


def test_what_a_sampler_shows_the_energy_passes_through_its_wrappers() -> None:
    y = torch.randn(3, 4, 5)
    for sampler in (Tempered(Descent(1.0, softmax=True), temperature=2.0), Descent(1.0, softmax=True)):
        assert torch.equal(sampler.energy_input({"y": y})["y"], y.softmax(-1))
    state = {"y": y}
    assert Annealed(Descent(1.0), temperatures=(2.0, 1.0)).energy_input(state) is state


def test_of_images_a_whole_one_is_chosen() -> None:
    """E = |y|^2 / 4, and a step halves y: the candidate that begins nearest to zero."""
    target = torch.rand(9, 1, 4, 4)
    module = EBM(TowardsHalf(), ImagePrediction(), Descent(1.0), chains=NoiseChains(GaussianNoise()))
    torch.manual_seed(5)
    data = Pairs(torch.zeros(9, 1, 4, 4), target, (0.0, 1.0))
    found = PredictionError(steps=[1], candidates=[1, 3]).measure(module, data).measurements
    torch.manual_seed(5)
    initial = _initial(3, 9, 1, 4, 4)
    best = initial.flatten(2).square().sum(2).argmin(0)
    for name, chosen in (("1_step", initial[0]), ("1_step_best_of_3", initial[best, torch.arange(9)])):
        expected = float(((chosen / 2).clamp(0, 1) - target).square().mean())
        assert found[f"mse_after_{name}"].value == pytest.approx(expected, rel=1e-5)


def test_where_there_is_nothing_to_choose_by_it_is_said() -> None:
    images = Pairs(torch.rand(9, 1, 4, 4), torch.rand(9, 1, 4, 4), (0.0, 1.0))
    with pytest.raises(ValueError, match="all candidates of this run are equal, since it starts at one place"):
        PredictionError(candidates=[1, 2]).measure(EBM(TowardsHalf(), ImagePrediction(), Descent(1.0)), images)
    noisy = EBM(TowardsHalf(), ImagePrediction(), Descent(1.0, noise=0.1))
    assert "mse_after_1_step_best_of_2" in PredictionError(candidates=[2]).measure(noisy, images).measurements
    with pytest.raises(ValueError, match="predicts in one pass without a sampler"):
        Perplexity(candidates=[2]).measure(EBM(NextToken(nn.Embedding(5, 5)), TokenPrediction()), random_tokens())
    with pytest.raises(ValueError, match="numbers of candidates, each at least 1"):
        Perplexity(candidates=[0])


def test_InferenceBudget_is_named_by_its_steps_and_candidates() -> None:
    budgets = [InferenceBudget(0), InferenceBudget(1), InferenceBudget(3, candidates=2)]
    assert [str(budget) for budget in budgets] == ["after 0 steps", "after 1 step", "after 3 steps, best of 2"]
