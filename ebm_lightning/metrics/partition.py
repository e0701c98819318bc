"""log Z and what it makes known: annealed importance sampling in both directions, RAISE, pseudo-likelihoods."""

import abc
import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.functional import logsigmoid
from tqdm import tqdm  # type: ignore[import-untyped]

from ebm_lightning.core import AnnealingPath, EnergyModel, State, evaluating

LARGEST_STD, SMALLEST_ESS = 1.5, 10
"""Where the alarms of an estimate ring: nats, and chains."""

LONG = 1000
"""Temperatures from which a walk shows its progress."""


@dataclass(frozen=True)
class LogPartition:
    """log Z in nats, estimated as log(Z_0 mean(w)) from importance weights w, or known: LogPartition(z, z, z).

    Z_0 mean(w) is unbiased, so that its logarithm is biased low by Jensen's inequality, and log-probabilities computed
    with it are biased high: optimistic. The interval is log(Z_0 mean(w) -+ 3 sd), where sd is the standard deviation
    of the mean of w itself; that of log w says nothing about it. Neal (2001); Salakhutdinov & Murray (2008).

    Args:
        log_z: the estimate.
        low: lower end of the interval; -inf where 3 sd reach beyond mean(w).
        high: upper end of the interval.
        log_weight_std: standard deviation of log w, in nats.
        ess: the effective sample size (sum w)^2 / sum w^2, at most ``chains``; infinite for a known value.
        chains: how many weights there were; 0 for a known value.
    """

    log_z: float
    low: float
    high: float
    log_weight_std: float = 0.0
    ess: float = math.inf
    chains: int = 0

    @classmethod
    def from_weights(cls, log_base: float, log_weights: Tensor) -> "LogPartition":
        """From log Z_0 and the log weights (chains,). Raises ValueError where there are fewer than two."""
        log_mean, error = _mean_weight(log_weights)
        log_z = log_base + log_mean
        low, high = (log_z + _log1p(sign * 3 * error) for sign in (-1, 1))
        return cls(log_z, low, high, float(log_weights.double().std()), _ess(log_weights), len(log_weights))

    @property
    def standard_error(self) -> float:
        """Of log Z in nats, to first order: the relative standard deviation of mean(w)."""
        return math.expm1(self.high - self.log_z) / 3

    @property
    def warning(self) -> str:
        """What is wrong with the estimate, in one sentence; empty where nothing is known to be.

        It rings where the standard deviation of log w exceeds 1.5 nats, the effective sample size is below 10 or the
        lower end of the interval is -inf, and where any of them is not a number.
        """
        wrong = []
        if not self.log_weight_std <= LARGEST_STD:
            wrong.append(f"log w has a standard deviation of {self.log_weight_std:.2f} nats, more than {LARGEST_STD}")
        if not self.ess >= SMALLEST_ESS:
            wrong.append(f"{self.chains} chains count as {self.ess:.1f}, fewer than {SMALLEST_ESS}")
        if not self.low > -math.inf:
            wrong.append("the interval of three standard deviations has no lower end")
        if not wrong:
            return ""
        return (
            f"{' and '.join(wrong)}: log Z is not to be trusted, since AIS errs on the low side, so that "
            "log-probabilities look better than they are; anneal over more temperatures, with more chains"
        )


@dataclass(frozen=True)
class UpperBound:
    """What annealing backwards from exact samples says about log Z, in nats: estimates that err on the high side.

    With w ~ Z_0 / Z in expectation, log Z_0 - log mean(w) lies above log Z in expectation, and the looser form
    log Z_0 - mean(log w) further above. Grosse, Ghahramani & Adams (2015): bidirectional Monte Carlo.

    Args:
        log_z: log Z_0 - log mean(w).
        low: log Z_0 - log(mean(w) + 3 sd), with the standard deviation of the mean of w.
        high: log Z_0 - log(mean(w) - 3 sd), inf where that is not positive.
        jensen: log Z_0 - mean(log w).
        log_weight_std: standard deviation of log w.
        ess: the effective sample size (sum w)^2 / sum w^2.
        chains: how many weights there were.
    """

    log_z: float
    low: float
    high: float
    jensen: float
    log_weight_std: float
    ess: float
    chains: int


class Betas(abc.ABC):
    """A schedule of inverse temperatures. Final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def __call__(self) -> Tensor:
        """The inverse temperatures, float64 (transitions + 1,), increasing from 0 to 1."""


@dataclass(frozen=True)
class Linear(Betas):
    """k / number for k = 0..number.

    Args:
        number: of inverse temperatures above 0, and so of a chain's transitions; at least 1.
    """

    number: int

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"Linear(number={self.number}): expected at least 1 temperature above 0")

    def __call__(self) -> Tensor:
        return torch.linspace(0, 1, self.number + 1, dtype=torch.float64)


@dataclass(frozen=True)
class SalakhutdinovMurray(Betas):
    """14,500 inverse temperatures above 0: 500 up to 0.5, 4,000 up to 0.9 and 10,000 up to 1, each evenly spaced.

    The end of the path is where the variance of the weights comes from. Salakhutdinov & Murray (2008).
    """

    def __call__(self) -> Tensor:
        ends, numbers = (0.0, 0.5, 0.9, 1.0), (500, 4_000, 10_000)
        pieces = [
            torch.linspace(first, last, number + 1, dtype=torch.float64)[1:]
            for (first, last), number in zip(pairwise(ends), numbers, strict=True)
        ]
        return torch.cat([torch.zeros(1, dtype=torch.float64), *pieces])


def anneal(path: AnnealingPath, betas: Tensor, chains: int) -> tuple[Tensor, State]:
    """(log weights float64 (chains,), where the chains end): importance samples of the path's end.

    Chain by chain x_0 ~ p_0, log w = sum_k log p*_k(x_{k-1}) - log p*_{k-1}(x_{k-1}), and x_k ~ T_k(x_{k-1}) leaves
    p_k invariant; E[w] = Z / Z_0 (Neal 2001). Long walks show their progress.

    Args:
        path: from p_0, whose log Z is known.
        betas: inverse temperatures from 0 to 1, increasing, (transitions + 1,).
        chains: how many, at least 1.

    Raises:
        ValueError: where the betas do not increase from 0 to 1, or there is no chain.
    """
    if chains < 1:
        raise ValueError(f"anneal(chains={chains}): expected at least 1 chain")
    return _walk(path, path.start(chains), _checked(betas), "AIS")


def ais(path: AnnealingPath, betas: Tensor, chains: int) -> LogPartition:
    """log Z of the path's end by annealed importance sampling (Neal 2001; Salakhutdinov & Murray 2008).

    Where torch.distributed is initialised every rank calls this, runs an equal share of the chains, rounded up, and
    gets the estimate from all of them; the ranks' random streams must differ.

    Args:
        path: from a distribution whose log Z is known.
        betas: inverse temperatures from 0 to 1, increasing, (transitions + 1,).
        chains: how many in all, at least 2.

    Raises:
        ValueError: where the betas do not increase from 0 to 1, or there are fewer than two chains.
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

    Chain by chain x_K is a sample of p, log w = sum_{k=K}^1 log p*_{k-1}(x_k) - log p*_k(x_k), and x_{k-1} ~
    T_{k-1}(x_k); E[w] = Z_0 / Z. With :func:`ais` it brackets log Z: bidirectional Monte Carlo (Grosse, Ghahramani &
    Adams 2015).

    That holds for exact samples of the model alone, as of synthetic data drawn from it by enumeration. Started from
    data the bound is off by the model's misfit and bounds nothing: call such a number a "sandwich from data".

    Args:
        path: from a distribution whose log Z is known; it is walked from its end.
        betas: inverse temperatures from 0 to 1, increasing, (transitions + 1,).
        exact_samples: independent draws from the model, at least 2, one for each chain.

    Raises:
        ValueError: where the betas do not increase from 0 to 1, or there are fewer than two samples.
    """
    log_weights, _ = _walk(path, exact_samples, _checked(betas).flip(0), "reverse AIS")
    log_mean, error = _mean_weight(log_weights)
    log_z = path.log_partition - log_mean
    return UpperBound(
        log_z=log_z,
        low=log_z - _log1p(3 * error),
        high=log_z - _log1p(-3 * error),
        jensen=path.log_partition - float(log_weights.mean()),
        log_weight_std=float(log_weights.std()),
        ess=_ess(log_weights),
        chains=len(log_weights),
    )


@torch.no_grad()
def raise_log_prob(path: AnnealingPath, model: EnergyModel, betas: Tensor, state: State, chains: int = 1) -> Tensor:
    """log of an unbiased estimate of the probability p_ann(v) of every v, (B,) float64, without knowing Z.

    p_ann is the law of where an annealed chain ends: x_0 ~ p_0, x_k ~ T_k(x_{k-1}) for k = 1..K, v = x_K. Reversible
    transitions take a chain back from v, x_{k-1} ~ T_k(x_k), and the ratio of both ways' probabilities is

        w = p_0(x_0) prod_k T_k(x_k | x_{k-1}) / T_k(x_{k-1} | x_k) = p_0(x_0) prod_k p*_k(x_k) / p*_k(x_{k-1})
          = exp(-E(v)) / Z_0 prod_k p*_{k-1}(x_{k-1}) / p*_k(x_{k-1}),

    so E[w] = p_ann(v). The logarithm is biased low: it is conservative where AIS is optimistic. With ever more
    temperatures p_ann becomes the model's own p. Burda, Grosse & Salakhutdinov (2015): reverse AIS estimator.

    Args:
        path: whose end is the model.
        model: the energy E.
        betas: inverse temperatures from 0 to 1, increasing, (transitions + 1,); they are walked backwards.
        state: B examples of the model's variables.
        chains: for each example; their estimates are averaged as probabilities.

    Raises:
        ValueError: where the betas do not increase from 0 to 1, or there is no chain.
    """
    if chains < 1:
        raise ValueError(f"raise_log_prob(chains={chains}): expected at least 1 chain for each example")
    betas = _checked(betas)
    x = {name: model.value(state, name).repeat_interleave(chains, 0) for name in model.variables}
    x, _ = path.move(x, 1.0, 1.0)
    log_weights, _ = _walk(path, x, betas.flip(0), "RAISE")
    log_mean = torch.logsumexp(log_weights.view(-1, chains), 1) - math.log(chains)
    return log_mean - model.energy(state).double() - path.log_partition


@torch.no_grad()
def pseudo_log_likelihood(model: EnergyModel, name: str, state: State) -> Tensor:
    """An unbiased estimate of sum_i log p(v_i | all else) of every example, (B,) float64, from one unit of each.

    units * log sigmoid(E(v with unit i flipped) - E(v)), i uniform for every example. Defined for a variable of binary
    units, whose values are 0 and 1. Besag (1975).
    """
    v = model.value(state, name)
    units = v[0].numel()
    unit = torch.randint(units, (len(v), 1), device=v.device)
    return units * _unit_log_prob(model, name, state, unit)


@torch.no_grad()
def exact_pseudo_log_likelihood(model: EnergyModel, name: str, state: State) -> Tensor:
    """sum_i log p(v_i | all else) of every example, (B,) float64: as many energies as there are binary units."""
    v = model.value(state, name)
    every = [torch.full((len(v), 1), unit, device=v.device) for unit in range(v[0].numel())]
    return torch.stack([_unit_log_prob(model, name, state, unit) for unit in every]).sum(0)


class PartitionEstimator(abc.ABC):
    """A way to log Z of a model. Final subclasses are frozen dataclasses; ``kind`` is their name in results."""

    kind: str

    @abc.abstractmethod
    def __call__(self, model: EnergyModel, batches: Iterable[State]) -> LogPartition:
        """log Z of the model. ``batches`` is a pass over the training data on its device, read only where needed.

        Under torch.distributed every rank calls it, each with a random stream of its own.
        """


@dataclass(frozen=True)
class Exact(PartitionEstimator):
    """log Z by the model's own closed form or enumeration.

    Args:
        largest: units whose 2^n states may be enumerated, for models that enumerate; beyond it ValueError.
    """

    kind = "exact"
    largest: int = 25

    @torch.no_grad()
    def __call__(self, model: EnergyModel, batches: Iterable[State]) -> LogPartition:
        limits: dict[str, Any] = {"largest": self.largest}
        enumerates = "largest" in inspect.signature(model.log_partition).parameters  # a closed form has no limit
        log_z = float(model.log_partition(**(limits if enumerates else {})))
        return LogPartition(log_z, log_z, log_z)


@dataclass(frozen=True)
class AIS(PartitionEstimator):
    """log Z by annealed importance sampling; see :func:`ais`.

    Args:
        betas: the schedule of inverse temperatures.
        chains: how many in all, at least 2; 100 are customary.
        data_base: whether the path begins at a distribution fitted to the training data (Salakhutdinov & Murray 2008)
            rather than to the model's own parameters.
    """

    kind = "AIS"
    betas: Betas
    chains: int = 100
    data_base: bool = True

    def __post_init__(self) -> None:
        if self.chains < 2:
            raise ValueError(f"{self}: expected at least 2 chains")

    def path(self, model: EnergyModel, batches: Iterable[State]) -> AnnealingPath:
        """The path to the model that is annealed along."""
        with evaluating(model), torch.no_grad():
            return model.annealing_path(map(model.complete, batches) if self.data_base else None)

    def __call__(self, model: EnergyModel, batches: Iterable[State]) -> LogPartition:
        return ais(self.path(model, batches), self.betas(), self.chains)


@torch.no_grad()
def data_energies(model: EnergyModel, batches: Iterable[State], number: int | None = None) -> Tensor:
    """E of the first ``number`` examples of batches of data, of all where None: (N,), float64, on the CPU.

    The model completes the batches, in eval mode.
    """
    parts: list[Tensor] = []
    missing = math.inf if number is None else number
    with evaluating(model):
        for batch in batches:
            parts.append(model.energy(model.complete(batch)).double().cpu())
            missing -= len(parts[-1])
            if missing <= 0:
                break
    return torch.cat(parts)[:number]


@torch.no_grad()
def has_binary_units(model: EnergyModel, state: State, name: str) -> bool:
    """Whether a variable's units are binary: whether Gibbs draws of it, given draws of h, are made of 0.0 and 1.0.

    A few draws tell. No for a model without these conditionals, and for whole numbers, such as a label's.
    """
    state = {key: value[:8] for key, value in state.items()}
    for block in ("h", name):
        try:
            law = model.conditional(block, state)
        except ValueError:
            return False
        state = {**state, block: law.sample()}
    return state[name].is_floating_point() and _is_binary(state[name])


def refuse_grey(model: EnergyModel, state: State, binary: bool | None, convention: str | None) -> None:
    """Raises ValueError where binary units are to give the log-probability of data that are not binary.

    Args:
        model: whose log-probabilities are asked for.
        state: some of the data, complete.
        binary: whether the data are meant to be binary; None where that is not known.
        convention: how the data came about, for the message.
    """
    for name in [name for name in model.variables if has_binary_units(model, state, name)]:
        v = state[name]
        if binary is False or not _is_binary(v):
            got = convention or f"values from {float(v.min()):.4g} to {float(v.max()):.4g}"
            raise ValueError(
                f"no log-probability is defined for grey values of binary units ({name!r}): expected data under "
                f"DynamicBinarisation, FixedBinarisation or Threshold, got {got}"
            )


def _is_binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _unit_log_prob(model: EnergyModel, name: str, state: State, unit: Tensor) -> Tensor:
    """log p(v_i | all else) = log sigmoid(E(v with unit i flipped) - E(v)), (B,), for unit numbers (B, 1)."""
    v = state[name].flatten(1)
    flipped = v.scatter(1, unit, 1 - v.gather(1, unit)).view_as(state[name])
    return logsigmoid((model.energy({**state, name: flipped}) - model.energy(state)).double())


@torch.no_grad()
def _walk(path: AnnealingPath, state: State, betas: Tensor, name: str) -> tuple[Tensor, State]:
    """Moves from beta to beta in the order given; the summed log weights, float64, and the last state."""
    start = next(iter(state.values()))
    log_weights = torch.zeros(len(start), dtype=torch.float64, device=start.device)
    pairs = list(pairwise(betas.tolist()))
    silent = True if len(pairs) < LONG or _rank()[0] > 0 else None  # None: silent unless a person looks on
    for begin, end in tqdm(pairs, desc=name, unit=" temperatures", disable=silent, leave=False):
        state, weight = path.move(state, begin, end)
        log_weights += weight
    return log_weights, state


def _checked(betas: Tensor) -> Tensor:
    if betas.ndim != 1 or len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or not bool((betas.diff() > 0).all()):
        raise ValueError(f"expected inverse temperatures that increase from 0 to 1, got {len(betas)}: {betas}")
    return betas


def _mean_weight(log_weights: Tensor) -> tuple[float, float]:
    """(log mean(w), standard deviation of mean(w) over mean(w)), stabilised: w is divided by its mean first."""
    n = len(log_weights)
    if n < 2:
        raise ValueError(f"an estimate from {n} weight(s) has no spread: use at least 2 chains")
    log_weights = log_weights.double()
    log_mean = torch.logsumexp(log_weights, 0) - math.log(n)
    return float(log_mean), float((log_weights - log_mean).exp().std()) / math.sqrt(n)


def _ess(log_weights: Tensor) -> float:
    log_weights = log_weights.double()
    return float((2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0)).exp())


def _log1p(x: float) -> float:
    """log(1 + x), -inf where 1 + x is not positive, NaN where x is."""
    return -math.inf if x <= -1 else math.log1p(x)


def _rank() -> tuple[int, int]:
    """(This process's number, how many there are)."""
    together = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
