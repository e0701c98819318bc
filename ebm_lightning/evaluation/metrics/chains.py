"""Convergence diagnostics of Markov chains: the R-hat of split chains, and the effective sample size.

Both take one number of every state, such as its energy, along several chains: draws (steps, chains), without those of
the burn-in. Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), without their rank normalization: not defined
for a number of infinite variance.
"""

import math

import torch
from torch import Tensor


def split_r_hat(draws: Tensor) -> float:
    """The potential scale reduction of split chains: about 1 if all half chains have one distribution, else larger.

    sqrt(((n - 1) W + B) / (n W)) with B / n the variance of the means of the 2 m half chains of n steps and W the mean
    of their variances (Gelman et al. 2013, equations 11.1 to 11.4). Vehtari et al. recommend less than 1.01.

    Raises:
        ValueError: if there are fewer than 4 steps.
    """
    halves = _halves(draws)
    n, within = len(halves), halves.var(0).mean()
    return float((((n - 1) / n * within + halves.mean(0).var()) / within).sqrt())


def chain_ess(draws: Tensor) -> float:
    """The effective sample size of the mean over all chains: the number of independent draws with the same variance.

    N / (1 + 2 sum_t rho_t) over the 2 m half chains of n steps, N draws in total, with rho_t = (c_t + v) / (c_0 + v).
    Here c_t is the mean of their autocovariances, each a mean over n - t products, and v the variance of their means,
    so that chains in different modes count for less. To order 1 / n this is equation 10 of Vehtari et al. (2021), whose
    bias of -1/n at every lag adds up for many short chains. The rho_t are summed in pairs as long as these are
    positive, and made to decrease (Geyer 1992). It is at most N log10 N.

    Raises:
        ValueError: if there are fewer than 4 steps.
    """
    halves = _halves(draws)
    n, total = len(halves), halves.numel()
    spectrum = torch.fft.rfft(halves - halves.mean(0), n=2 * n, dim=0)
    products = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n].mean(1)
    c = products / torch.arange(n, 0, -1, device=products.device) + halves.mean(0).var()
    pairs = (c / c[0])[: n // 2 * 2].view(-1, 2).sum(1)
    positive = (pairs > 0).cumprod(0).bool()
    time = float(2 * pairs[positive].cummin(0).values.sum() - 1)
    return total / max(time, 1 / math.log10(total))


def _halves(draws: Tensor) -> Tensor:
    """The first and the second half of every chain as chains, float64 (steps // 2, 2 chains)."""
    if draws.ndim != 2 or len(draws) < 4:
        raise ValueError(f"expected draws (steps, chains) of at least 4 steps, got {tuple(draws.shape)}")
    n = len(draws) // 2
    return torch.cat([draws[:n], draws[-n:]], 1).double()
