"""Whole training runs against the truth: enumeration, closed forms and quadrature."""

import copy
import math

import pytest
import torch
from support.densities import MEAN, STD, Bell, normal_draws
from support.fits import fit, sgd, to_zero
from support.four_bits import divergence, divergence_without_hidden_units, four_bits_law
from support.oracles import Z, bits
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.chains import DataChains, NoiseChains, SampleBuffer
from ebm_lightning.core import Chains
from ebm_lightning.distributions import BernoulliNoise, GaussianNoise, UniformNoise
from ebm_lightning.energies import DBM, RBM, DeepEnergy, GaussianMixture
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.energies.networks import MLP
from ebm_lightning.objectives import ContrastiveDivergence, DenoisingScoreMatching, NoiseContrastive
from ebm_lightning.samplers import MALA, SGLD, Gibbs, Tempered

F64 = torch.float64


def _adam(lr: float):
    return lambda parameters: torch.optim.Adam(parameters, lr=lr)


def _follow_the_likelihood(model: RBM, law: Tensor, steps: int, lr: float) -> RBM:
    """The model after gradient ascent on the exact likelihood: what CD and PCD approximate."""
    model = copy.deepcopy(model).double()
    optimizer = sgd(lr)(model.parameters())
    schedule = to_zero(steps)(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        energy = model.energy({"x": bits(4)})
        ((law * energy).sum() + torch.logsumexp(-energy, 0)).backward()
        optimizer.step()
        schedule.step()
    return model


@pytest.mark.parametrize(
    ("chains", "k"),
    [
        (DataChains(), 1),
        (DataChains(), 10),
        (SampleBuffer(256, init=BernoulliNoise()), 5),
        (SampleBuffer(1024, reinit_prob=0.05, init=BernoulliNoise()), 5),
        (NoiseChains(BernoulliNoise()), 20),
    ],
    ids=["cd-1", "cd-10", "pcd", "pcd-reinit_prob", "short-run"],
)
def test_an_rbm_comes_as_near_to_four_bits_as_the_exact_likelihood_takes_it(chains: Chains, k: int) -> None:
    """KL(data || model), enumerated, exceeds that of exact ascent from the same start by no more than the noise costs.

    Near the optimum both phases are means of B statistics whose covariance is the Fisher matrix F, so that SGD of rate
    lr jitters with covariance (lr / B) I, at a cost of lr tr(F) / 2B <= lr P / 8B nats for P parameters with statistics
    in [0, 1]. The rate falls to 0, so that the cost of its first value, 0.017 nats, is a ceiling. It takes in the bias
    of k sweeps instead of endless ones, for these modes are near enough to mix.
    """
    steps, batch, lr, law = 400, 256, 1.0, four_bits_law()
    model = RBM({"x": Bernoulli([4])}, 6, weight_std=0.5)
    exact = divergence(law, _follow_the_likelihood(model, law, steps, lr))
    jitter = lr * sum(parameter.numel() for parameter in model.parameters()) / (8 * batch)
    data = bits(4)[torch.multinomial(law, steps * batch, replacement=True)].float()
    module = EBM(
        model,
        ContrastiveDivergence(),
        Gibbs(("h", "x")),
        k,
        chains=chains,
        optimizer=sgd(lr),
        scheduler=to_zero(steps),
    )
    fit(module, data, steps, batch)
    assert exact + jitter < divergence_without_hidden_units(law) / 15
    assert divergence(law, model) < exact + jitter


def _grid(low: float, high: float) -> tuple[Tensor, float]:
    """4001 equidistant points (4001, 1), float64, and their distance."""
    x = torch.linspace(low, high, 4001, dtype=F64)
    return x[:, None], float(x[1] - x[0])


def _errors_of_nce(noise: GaussianNoise, n: int) -> Tensor:
    """Asymptotic standard errors of (mean, precision, log_z) from n data and as many noise draws.

    With g = dlog p/dtheta, P = q / (p + q), I = int g g^T P p and m = int g P p, by quadrature, the covariance of the
    estimate is (I^-1 - 2 I^-1 m m^T I^-1) / n (Gutmann & Hyvarinen 2012, theorem 3, ratio 1).
    """
    x, width = _grid(MEAN - 10 * STD, MEAN + 10 * STD)
    p = torch.distributions.Normal(MEAN, STD).log_prob(x).exp()
    z = (x - MEAN) / STD
    g = torch.cat([z / STD, -(STD**2) * z.square() / 2, -torch.ones_like(z)], 1)
    weight = p * width * torch.sigmoid(noise.log_prob(x)[:, None] - p.log())
    information, m = g.T @ (weight * g), (weight * g).sum(0)
    inverse = torch.linalg.inv(information)
    covariance = inverse - 2 * torch.outer(inverse @ m, inverse @ m)
    return (covariance.diagonal() / n).sqrt()


def test_a_centered_deep_machine_learns_four_bits_from_random_weights() -> None:
    """KL(data || model), enumerated, falls far below the least that independent units can reach.

    There is no pretraining. Mean field costs what separates it from exact inference, so no closer bound is known
    beforehand: a quarter of the divergence without hidden units takes in that both layers have to be of use.
    """
    steps, batch, law = 600, 256, four_bits_law()
    model = DBM({"x": Bernoulli([4])}, [6, 4], weight_std=0.1, centering=0.05)
    data = bits(4)[torch.multinomial(law, steps * batch, replacement=True)].float()
    chains = SampleBuffer(256, init=BernoulliNoise())
    module = EBM(
        model,
        ContrastiveDivergence(),
        Gibbs(("h1", "x", "h2")),
        5,
        chains=chains,
        optimizer=sgd(0.3),
        scheduler=to_zero(steps),
    )
    fit(module, data, steps, batch)
    rows = torch.cartesian_prod(torch.arange(16), torch.arange(64), torch.arange(16)).T
    states = {"x": bits(4)[rows[0]], "h1": bits(6)[rows[1]], "h2": bits(4)[rows[2]]}
    energies = copy.deepcopy(model).double().energy(states).detach()
    log_p = torch.logsumexp(-energies.view(16, -1), 1).log_softmax(0)
    assert float((law * (law.log() - log_p)).sum()) < divergence_without_hidden_units(law) / 4


def test_noise_contrastive_estimation_finds_the_normal_and_its_log_z() -> None:
    """Within the asymptotic standard errors of the estimate, from one sample; the noise is drawn anew in every step."""
    n, steps, noise = 20_000, 400, GaussianNoise(0.5, 1.0)
    model = Bell(log_z=0.0)
    module = EBM(model, NoiseContrastive(noise), optimizer=_adam(0.05), scheduler=to_zero(steps))
    fit(module, normal_draws(n), steps)
    found = torch.stack([model.mean, model.precision, model.log_z]).detach()
    truth = torch.tensor([MEAN, 1 / STD**2, math.log(2 * math.pi * STD**2) / 2], dtype=F64)
    assert (((found - truth) / _errors_of_nce(noise, n)).abs() < Z).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_chains_at_temperature_t_teach_the_energy_of_the_data_times_t(temperature: float) -> None:
    """Chains of law exp(-E/T) match the data where E = T (x - m)^2 / 2 s^2: exactly, for MALA has that law.

    The learning rate falls to 0, so that at least the last third of the steps is averaged over. Where k <= 10 of them
    amount to one draw of each of B chains, the relative standard error of the precision is sqrt(2 k / (B steps / 3)).
    """
    steps, chains = 400, 800
    x = normal_draws(chains)
    x = (x - x.mean()) / x.std(correction=0) * STD + MEAN
    model = Bell(log_z=0.0)
    module = EBM(
        model,
        ContrastiveDivergence(),
        Tempered(MALA(0.1), temperature=temperature),
        steps=4,
        chains=SampleBuffer(chains, init=GaussianNoise()),
        optimizer=_adam(0.2),
        scheduler=to_zero(steps),
    )
    fit(module, x, steps)
    error = math.sqrt(2 * 10 / (chains * steps / 3))
    mean, precision, shift = (parameter.item() for parameter in model.parameters())
    assert abs(precision * STD**2 / temperature - 1) < Z * error
    assert abs(mean - MEAN) / STD < Z * error
    assert shift == 0  # the contrast is blind to a shift of the energy


def test_denoising_score_matching_teaches_a_network_the_score_of_the_blurred_data() -> None:
    """N(m, s^2) blurred by sigma has the score -(x - m) / (s^2 + sigma^2), in the plane one coordinate like the other.

    The mean squared error of the score under the blurred density is below 1 % of its mean square: 1200 parameters that
    are fitted to 1.5 10^5 points take up no more than 0.8 % of the noise in them.
    """
    sigma, steps, batch = 0.3, 600, 256
    mean, variance = torch.tensor([MEAN, -MEAN]), STD**2 + sigma**2
    model = DeepEnergy(MLP(2, [32, 32]))
    module = EBM(model, DenoisingScoreMatching(sigma), optimizer=_adam(1e-2), scheduler=to_zero(steps))
    fit(module, mean + STD * torch.randn(steps * batch, 2), steps, batch)
    x = (mean + math.sqrt(variance) * torch.randn(20_000, 2)).requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x)
    score = -(x.detach() - mean) / variance
    assert (-slope - score).square().sum(1).mean() < 0.01 * score.square().sum(1).mean()


def _total_variation(p: Tensor, q: Tensor) -> float:
    """Half the L1 distance of two laws over the cells of a grid."""
    return float((p - q).abs().sum() / 2)


def test_langevin_at_temperature_1_teaches_a_network_two_modes_and_their_weights() -> None:
    """The total variation from the data, by quadrature over the bounds, is below a quarter of that of a normal law.

    That law has the mean and the variance of the data; its distance is 0.32. No set, such as the half line of one mode,
    can differ in probability by more than the total variation.
    """
    steps, batch, bounds, step_size = 400, 512, (-3.5, 3.5), 0.02
    data = GaussianMixture([[-1.2], [1.2]], 0.5, [0.7, 0.3])
    model = DeepEnergy(MLP(1, [32, 32]))
    sampler = SGLD(step_size, noise=math.sqrt(2 * step_size), bounds=bounds)
    module = EBM(
        model,
        ContrastiveDivergence(),
        sampler,
        steps=10,
        chains=SampleBuffer(1000, init=UniformNoise(*bounds)),
        optimizer=_adam(1e-2),
        scheduler=to_zero(steps),
    )
    assert sampler.temperature == pytest.approx(1)
    fit(module, data.sample(50 * batch), steps, batch)
    x = torch.linspace(*bounds, 4001)[:, None]
    with torch.no_grad():
        truth, learned = (-data(x)).softmax(0), (-model(x)).softmax(0)
    mean = (truth * x[:, 0]).sum()
    variance = (truth * (x[:, 0] - mean).square()).sum()
    normal = (-(x[:, 0] - mean).square() / (2 * variance)).softmax(0)
    assert _total_variation(learned, truth) < _total_variation(normal, truth) / 4
