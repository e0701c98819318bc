"""Have chains forgotten where they began, and how many independent draws are they worth?

Both read one number of every state, such as its energy, along several chains: draws (steps, chains), from all of which
the beginning has been left out. Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), without their rank
normalization: a number of infinite variance has no such diagnostics.
"""

import math

import torch
from torch import Tensor


def split_r_hat(draws: Tensor) -> float:
    """The potential scale reduction of split chains: about 1 where all halves of all chains have one law, else larger.

    sqrt(((n - 1) W + B) / (n W)) with B / n the variance of the means of the 2 m half chains of n steps and W the mean
    of their variances (Gelman et al. 2013, equations 11.1 to 11.4). Vehtari et al. ask for less than 1.01.
    Raises ValueError where there are fewer than 4 steps.
    """
    halves = _halves(draws)
    n, within = len(halves), halves.var(0).mean()
    return float((((n - 1) / n * within + halves.mean(0).var()) / within).sqrt())


def chain_ess(draws: Tensor) -> float:
    """The effective sample size of the mean over all chains: how many independent draws have its variance.

    N / (1 + 2 sum_t rho_t) over the 2 m half chains of n steps, N draws in all, with rho_t = (c_t + v) / (c_0 + v).
    Here c_t is the mean of their autocovariances, each a mean over n - t products, and v the variance of their means,
    so that chains that lie apart count for less. To order 1 / n this is equation 10 of Vehtari et al. (2021), whose
    bias of -1/n at every lag adds up where there are many short chains. The rho_t are summed in pairs as long as these
    are positive, and made to decrease (Geyer 1992). It is at most N log10 N.
    Raises ValueError where there are fewer than 4 steps.
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
