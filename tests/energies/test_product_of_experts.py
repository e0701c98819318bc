"""The product of Student-t experts against closed forms, quadrature and the t distribution of scipy."""

import math

import pytest
import torch
from scipy import integrate, stats
from support.oracles import FALSE_ALARM, perturbed
from torch import Tensor
from torch.utils.data import DataLoader

from ebm_lightning import EBM, Trainer
from ebm_lightning.core import run_chain
from ebm_lightning.energies import StudentTPoE
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import HMC, Gibbs

F64 = torch.float64


def _poe(weight: list[list[float]], bias: list[float], alpha: list[float], containment: float = 0.0) -> StudentTPoE:
    """A model with these filters over vectors, float64."""
    model = StudentTPoE([len(weight[0])], len(weight), containment).double()
    with torch.no_grad():
        for parameter, value in ((model.weight, weight), (model.bias, bias)):
            parameter.copy_(torch.tensor(value, dtype=F64))
        model.log_alpha.copy_(torch.tensor(alpha, dtype=F64).log())
    return model


def _grid(half: float, spacing: float) -> Tensor:
    axis = torch.arange(-half, half, spacing, dtype=F64)
    return torch.cartesian_prod(axis, axis)


@pytest.mark.parametrize("containment", [0.0, 0.7])
def test_StudentTPoE_the_energy_is_the_sum_over_experts(containment: float) -> None:
    model = perturbed(StudentTPoE([2, 3], 4, containment))
    x = torch.randn(5, 2, 3, dtype=F64)
    filters, exponents = model.filters("x").flatten(1).tolist(), model.alpha.tolist()
    for image, energy in zip(x.flatten(1).tolist(), model(x).tolist(), strict=True):
        expected = containment / 2 * sum(v**2 for v in image)
        for w, b, alpha in zip(filters, model.bias.tolist(), exponents, strict=True):
            s = b + sum(a * v for a, v in zip(w, image, strict=True))
            expected += alpha * math.log(1 + s**2 / 2)
        assert energy == pytest.approx(expected, rel=1e-12)


def test_StudentTPoE_one_expert_on_one_coordinate_is_students_t_with_its_log_z() -> None:
    """(w x + b) sqrt(nu / 2) is t with nu = 2 alpha - 1 degrees of freedom."""
    w, b, alpha = -1.7, 0.4, 2.3
    model, nu = _poe([[w]], [b], [alpha]), 2 * alpha - 1
    x = torch.linspace(-9, 9, 50, dtype=F64)
    law = stats.t(nu, loc=-b / w, scale=math.sqrt(2 / nu) / abs(w))
    log_p = -model(x[:, None]).detach()
    differences = torch.from_numpy(law.logpdf(x.numpy()) - law.logpdf(x[0].item()))
    torch.testing.assert_close(log_p - log_p[0], differences, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_p - model.log_partition(), torch.from_numpy(law.logpdf(x.numpy())))
    z, _ = integrate.quad(lambda t: math.exp(-model(torch.tensor([[t]], dtype=F64)).item()), -math.inf, math.inf)
    assert float(model.log_partition()) == pytest.approx(math.log(z), abs=1e-7)


def test_StudentTPoE_the_marginal_along_a_filter_is_students_t() -> None:
    """In a complete product the filters respond independently: integrate along a line of constant w_0 . x."""
    model, nu = _poe([[1.0, 0.5], [-0.3, 0.8]], [0.2, -0.1], [3.0, 4.0]), 5.0
    w = model.weight[0].detach()
    across = torch.stack([-w[1], w[0]]) / w.norm()
    line = torch.arange(-400.0, 400.0, 0.05, dtype=F64)
    responses = torch.linspace(-4, 4, 9, dtype=F64)
    marginal = []
    for s in responses:
        x = (s - model.bias[0].detach()) * w / w.square().sum() + line[:, None] * across
        marginal.append(torch.logsumexp(-model(x), 0))
    log_p = torch.stack(marginal).detach()
    expected = torch.from_numpy(stats.t(nu, scale=math.sqrt(2 / nu)).logpdf(responses.numpy()))
    torch.testing.assert_close(log_p - log_p[0], expected - expected[0], rtol=0, atol=1e-8)


def test_StudentTPoE_log_z_of_a_complete_product_equals_the_integral() -> None:
    """Trapezoids on a smooth integrand are exact; the tails beyond the square fall as |x|^-8."""
    model = _poe([[1.0, 0.5], [-0.3, 0.8]], [0.2, -0.1], [4.0, 5.0])
    with torch.no_grad():
        total = torch.logsumexp(-model(_grid(60, 0.1)), 0) + 2 * math.log(0.1)
    torch.testing.assert_close(model.log_partition(), total, rtol=0, atol=1e-9)


def test_StudentTPoE_containment_makes_a_product_proper_that_leaves_a_direction_free() -> None:
    """One expert along the first coordinate: the other one is N(0, 1 / containment)."""
    model = _poe([[1.3, 0.0]], [0.0], [1.0], containment=0.25)
    x = torch.tensor([[0.4, 0.0]], dtype=F64)
    for free in (0.5, -2.0, 7.0):
        moved = x + torch.tensor([0.0, free], dtype=F64)
        assert (model(moved) - model(x)).item() == pytest.approx(0.25 * free**2 / 2)


def test_StudentTPoE_contrastive_divergence_with_hmc_lowers_the_exact_divergence() -> None:
    """The truth is a product of two experts; KL(truth || model) is a sum over a grid, log Z of both is known.

    A constant learning rate leaves a floor; a tenth of the start is far above it.
    """
    truth = _poe([[1.0, 1.0], [-0.5, 1.0]], [0.0, 0.0], [3.0, 3.0])
    s = torch.from_numpy(stats.t(5.0, scale=math.sqrt(2 / 5)).rvs((4000, 2), random_state=0))
    x = torch.linalg.solve(truth.weight.detach(), s.T).T.float()
    grid = _grid(30, 0.1)
    p = torch.softmax(-truth(grid).detach(), 0)

    def divergence(model: StudentTPoE) -> float:
        model = model.double()
        with torch.no_grad():
            energies = model(grid) - truth(grid)
            found = float(p @ energies + model.log_partition() - truth.log_partition())
        model.float()
        return found

    model = StudentTPoE([2], 2, weight_std=0.5, exponent=2.0)
    start = divergence(model)
    module = EBM(
        model,
        ContrastiveDivergence(),
        HMC(0.4, leapfrog=5),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=400, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)
    trainer.fit(module, DataLoader([{"x": part} for part in x.split(200)], batch_size=None))
    end = divergence(model)
    assert 0 <= end < start / 10, (start, end)


def test_StudentTPoE_hmc_draws_from_a_single_expert() -> None:
    """4000 independent chains from the law itself stay in it: Kolmogorov-Smirnov against Student's t."""
    model, law = _poe([[1.0]], [0.5], [3.0]), stats.t(5.0, loc=-0.5, scale=math.sqrt(2 / 5))
    start = {"x": torch.from_numpy(law.rvs((4000, 1), random_state=0))}
    end, info = run_chain(HMC(0.5, leapfrog=4), model, start, 20)
    assert 0.5 < float(info["accept"]) < 1
    assert stats.kstest(end["x"].flatten().numpy(), law.cdf).pvalue > FALSE_ALARM


def test_StudentTPoE_filters_are_the_weights_in_the_shape_of_the_data() -> None:
    model = StudentTPoE([1, 2, 3], 4)
    assert model.filters("x").shape == (4, 1, 2, 3)
    assert torch.equal(model.filters("x").flatten(1), model.weight)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StudentTPoE([2], 0), "expected at least one of each"),
        (lambda: StudentTPoE([2], 1, containment=-1.0), "expected containment >= 0"),
        (lambda: StudentTPoE([2], 1, exponent=0.0), "and exponent > 0"),
        (lambda: StudentTPoE([2], 3).log_partition(), "3 experts on 2 coordinates"),
        (lambda: StudentTPoE([2], 2, 0.1).log_partition(), "containment is 0.1"),
        (lambda: StudentTPoE([2], 2, exponent=0.5).log_partition(), "smallest alpha is 0.5"),
        (lambda: StudentTPoE([2], 3).check({"x": torch.zeros(1, 3)}), r"got \(3,\): give the model the shape"),
        (lambda: StudentTPoE([1], 3).check({"x": torch.tensor([[math.nan]])}), "remove infinite values and NaN"),
        (lambda: StudentTPoE([2], 3).filters("y"), "StudentTPoE has filters on 'x', got 'y'"),
        (lambda: Gibbs(("x",)).step(StudentTPoE([2], 3), {}), "use a gradient sampler such as Langevin or HMC"),
    ],
)
def test_StudentTPoE_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
