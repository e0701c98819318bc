"""Annealed importance sampling along a path of distributions, in both directions, and RAISE."""

import abc
import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, distributed
from tqdm import tqdm  # type: ignore[import-untyped]

from ebm_lightning.core import AnnealingPath, EnergyModel, State, select_variable
from ebm_lightning.evaluation.metrics.weights import LogPartition, UpperBound, effective_sample_size, log1p, mean_weight

MIN_TEMPERATURES_FOR_PROGRESS = 1000
"""Number of temperatures from which a chain shows its progress."""


class Betas(abc.ABC):
    """A schedule of inverse temperatures. Final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def __call__(self) -> Tensor:
        """The inverse temperatures, float64 (transitions + 1,), increasing from 0 to 1."""


@dataclass(frozen=True)
class Linear(Betas):
    """Evenly spaced inverse temperatures k / n for k = 0..n.

    Args:
        num_temperatures: n, of inverse temperatures above 0 and of transitions of a chain; at least 1.
    """

    num_temperatures: int

    def __post_init__(self) -> None:
        if self.num_temperatures < 1:
            raise ValueError(f"{self}: expected at least 1 temperature above 0")

    def __call__(self) -> Tensor:
        return torch.linspace(0, 1, self.num_temperatures + 1, dtype=torch.float64)


@dataclass(frozen=True)
class PiecewiseLinear(Betas):
    """Evenly spaced inverse temperatures within each of several intervals from 0 to 1.

    ``num_temperatures[0]`` of them are up to ``ends[0]``, and so on. A short run shows at which many are needed: the
    variance of log w increases most at the temperatures at which the chains do not equilibrate.

    Args:
        ends: of the intervals, increasing, above 0; the last one is 1.
        num_temperatures: of each interval, at least 1.

    Raises:
        ValueError: if the two lists differ in length, or a value is out of range.
    """

    ends: list[float]
    num_temperatures: list[int]

    def __post_init__(self) -> None:
        rising = all(first < last for first, last in pairwise([0.0, *self.ends])) and self.ends[-1:] == [1.0]
        if not rising or len(self.ends) != len(self.num_temperatures) or min(self.num_temperatures) < 1:
            raise ValueError(
                f"{self}: expected as many ends, increasing from above 0 to 1, as numbers of temperatures, each at "
                "least 1"
            )

    def __call__(self) -> Tensor:
        pieces = [
            torch.linspace(first, last, n + 1, dtype=torch.float64)[1:]
            for (first, last), n in zip(pairwise([0.0, *self.ends]), self.num_temperatures, strict=True)
        ]
        return torch.cat([torch.zeros(1, dtype=torch.float64), *pieces])


@dataclass(frozen=True)
class SalakhutdinovMurray(Betas):
    """14,500 inverse temperatures above 0: 500 up to 0.5, 4,000 up to 0.9 and 10,000 up to 1, each evenly spaced.

    Most of the variance of the weights arises at the end of the path. Salakhutdinov & Murray (2008).
    """

    def __call__(self) -> Tensor:
        return PiecewiseLinear([0.5, 0.9, 1.0], [500, 4_000, 10_000])()


def anneal(path: AnnealingPath, betas: Tensor, chains: int) -> tuple[Tensor, State]:
    """(log weights float64 (chains,), final state of the chains): importance samples of the path's end.

    For each chain x_0 ~ p_0, log w = sum_k log p*_k(x_{k-1}) - log p*_{k-1}(x_{k-1}), and x_k ~ T_k(x_{k-1}) leaves p_k
    invariant; E[w] = Z / Z_0 (Neal 2001). Long chains show their progress.

    Args:
        path: from p_0, whose log Z is known.
        betas: inverse temperatures from 0 to 1, increasing, (transitions + 1,).
        chains: number of chains, at least 1.

    Raises:
        ValueError: if the betas do not increase from 0 to 1, or there is no chain.
    """
    if chains < 1:
        raise ValueError(f"anneal(chains={chains}): expected at least 1 chain")
    return _anneal(path, path.start(chains), _checked(betas), "AIS")


def ais(path: AnnealingPath, betas: Tensor, chains: int) -> LogPartition:
    """log Z of the path's end by annealed importance sampling (Neal 2001; Salakhutdinov & Murray 2008).

    If torch.distributed is initialized, every rank calls this, runs an equal share of the chains, rounded up, and gets
    the estimate from all of them; the ranks' random streams must differ.

    Args:
        path: from a distribution whose log Z is known.
        betas: inverse temperatures from 0 to 1, increasing, (transitions + 1,).
        chains: number of chains in total, at least 2.

    Raises:
        ValueError: if the betas do not increase from 0 to 1, or there are fewer than two chains.
    """
    if chains < 2:
        raise ValueError(f"ais(chains={chains}): expected at least 2 chains, so that their weights have a spread")
    _, ranks = _rank()
    log_weights, _ = anneal(path, betas, math.ceil(chains / ranks))
    if ranks > 1:
        shares = [torch.empty_like(log_weights) for _ in range(ranks)]
        distributed.all_gather(shares, log_weights)
        log_weights = torch.cat(shares)
    return LogPartition.from_weights(path.log_partition, log_weights)


def reverse_ais(path: AnnealingPath, betas: Tensor, exact_samples: State) -> UpperBound:
    """An upper bound on log Z, in expectation: annealing from samples of the path's end back to its beginning.

    For each chain x_K is a sample of p, log w = sum_{k=K}^1 log p*_{k-1}(x_k) - log p*_k(x_k), and x_{k-1} ~
    T_{k-1}(x_k); E[w] = Z_0 / Z. With :func:`ais` it brackets log Z: bidirectional Monte Carlo (Grosse, Ghahramani &
    Adams 2015).

    This holds only for exact samples of the model, such as synthetic data drawn by enumeration. From real data the
    result differs by the misfit of the model and is no bound: call such a number a "sandwich from data".

    Args:
        path: from a distribution whose log Z is known; it is annealed from its end.
        betas: inverse temperatures from 0 to 1, increasing, (transitions + 1,).
        exact_samples: independent draws from the model, at least 2, one for each chain.

    Raises:
        ValueError: if the betas do not increase from 0 to 1, or there are fewer than two samples.
    """
    log_weights, _ = _anneal(path, exact_samples, _checked(betas).flip(0), "reverse AIS")
    log_mean, error = mean_weight(log_weights)
    log_z = path.log_partition - log_mean
    return UpperBound(
        log_z=log_z,
        low=log_z - log1p(3 * error),
        high=log_z - log1p(-3 * error),
        jensen=path.log_partition - float(log_weights.mean()),
        log_weight_std=float(log_weights.std()),
        ess=effective_sample_size(log_weights),
        chains=len(log_weights),
    )


@torch.no_grad()
def raise_log_prob(path: AnnealingPath, model: EnergyModel, betas: Tensor, state: State, chains: int = 1) -> Tensor:
    """log of an unbiased estimate of the probability p_ann(v) of every v, (B,) float64, without knowing Z.

    p_ann is the distribution of the end of an annealed chain: x_0 ~ p_0, x_k ~ T_k(x_{k-1}) for k = 1..K, v = x_K.
    Reversible transitions move a chain back from v, x_{k-1} ~ T_k(x_k), and the ratio of the probabilities is

        w = p_0(x_0) prod_k T_k(x_k | x_{k-1}) / T_k(x_{k-1} | x_k) = p_0(x_0) prod_k p*_k(x_k) / p*_k(x_{k-1})
          = exp(-E(v)) / Z_0 prod_k p*_{k-1}(x_{k-1}) / p*_k(x_{k-1}),

    so E[w] = p_ann(v). The logarithm is biased low: it is conservative, while AIS is optimistic. With more and more
    temperatures p_ann becomes the model's own p. Burda, Grosse & Salakhutdinov (2015): reverse AIS estimator.

    Args:
        path: to the model.
        model: the energy E.
        betas: inverse temperatures from 0 to 1, increasing, (transitions + 1,); they are used in reverse.
        state: B examples of the model's variables.
        chains: for each example; their estimates are averaged as probabilities.

    Raises:
        ValueError: if the betas do not increase from 0 to 1, or there is no chain.
    """
    if chains < 1:
        raise ValueError(f"raise_log_prob(chains={chains}): expected at least 1 chain for each example")
    betas = _checked(betas)
    x = {name: select_variable(model, state, name).repeat_interleave(chains, 0) for name in model.variables}
    x, _ = path.move(x, 1.0, 1.0)
    log_weights, _ = _anneal(path, x, betas.flip(0), "RAISE")
    log_mean = torch.logsumexp(log_weights.view(-1, chains), 1) - math.log(chains)
    return log_mean - model.energy(state).double() - path.log_partition


@torch.no_grad()
def _anneal(path: AnnealingPath, state: State, betas: Tensor, name: str) -> tuple[Tensor, State]:
    """Move from beta to beta in the given order; returns the summed log weights, float64, and the final state."""
    start = next(iter(state.values()))
    log_weights = torch.zeros(len(start), dtype=torch.float64, device=start.device)
    pairs = list(pairwise(betas.tolist()))
    short = len(pairs) < MIN_TEMPERATURES_FOR_PROGRESS
    silent = True if short or _rank()[0] > 0 else None  # None: silent unless in a terminal
    for begin, end in tqdm(pairs, desc=name, unit=" temperatures", disable=silent, leave=False):
        state, weight = path.move(state, begin, end)
        log_weights += weight
    return log_weights, state


def _checked(betas: Tensor) -> Tensor:
    if betas.ndim != 1 or len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or not bool((betas.diff() > 0).all()):
        raise ValueError(f"expected inverse temperatures that increase from 0 to 1, got {len(betas)}: {betas}")
    return betas


def _rank() -> tuple[int, int]:
    """(The rank of this process, the number of ranks)."""
    together = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
