"""Estimates of log Z from importance weights: their intervals, and warnings of unreliable ones."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_WEIGHT_STD, MIN_ESS = 1.5, 10
"""Limits of a reliable estimate: standard deviation of log w in nats, and effective number of chains."""


@dataclass(frozen=True)
class LogPartition:
    """log Z in nats, estimated as log(Z_0 mean(w)) from importance weights w, or known: LogPartition(z, z, z).

    Z_0 mean(w) is unbiased, so that its logarithm is biased low by Jensen's inequality, and log-probabilities computed
    with it are biased high: optimistic. The interval is log(Z_0 (mean(w) -+ 3 sd)), with sd the standard deviation of
    the mean of w itself, for which that of log w is no substitute. Neal (2001); Salakhutdinov & Murray (2008).

    Args:
        log_z: the estimate.
        low: lower end of the interval; -inf if 3 sd exceed mean(w).
        high: upper end of the interval.
        log_weight_std: standard deviation of log w, in nats.
        ess: the effective sample size (sum w)^2 / sum w^2, at most ``chains``; infinite for a known value.
        chains: number of weights; 0 for a known value.
    """

    log_z: float
    low: float
    high: float
    log_weight_std: float = 0.0
    ess: float = math.inf
    chains: int = 0

    @classmethod
    def from_weights(cls, log_base: float, log_weights: Tensor) -> "LogPartition":
        """The estimate from log Z_0 and the log weights (chains,).

        Raises:
            ValueError: if there are fewer than two.
        """
        log_mean, error = mean_weight(log_weights)
        log_z = log_base + log_mean
        low, high = (log_z + log1p(sign * 3 * error) for sign in (-1, 1))
        return cls(
            log_z, low, high, float(log_weights.double().std()), effective_sample_size(log_weights), len(log_weights)
        )

    @property
    def standard_error(self) -> float:
        """The standard error of log Z in nats, to first order: the relative standard deviation of mean(w)."""
        return math.expm1(self.high - self.log_z) / 3

    @property
    def warning(self) -> str:
        """The reasons why the estimate is unreliable, in one sentence; empty if none is known.

        They are a standard deviation of log w above 1.5 nats, an effective sample size below 10, a lower end of the
        interval at -inf, and any of them that is not a number.
        """
        wrong = []
        if not self.log_weight_std <= MAX_LOG_WEIGHT_STD:
            wrong.append(
                f"log w has a standard deviation of {self.log_weight_std:.2f} nats, more than {MAX_LOG_WEIGHT_STD}"
            )
        if not self.ess >= MIN_ESS:
            wrong.append(f"the effective sample size of {self.chains} chains is {self.ess:.1f}, less than {MIN_ESS}")
        if not self.low > -math.inf:
            wrong.append("the interval of three standard deviations has no lower end")
        if not wrong:
            return ""
        return (
            f"{' and '.join(wrong)}: log Z is unreliable, since AIS errs on the low side, so that "
            "log-probabilities look better than they are; anneal over more temperatures, with more chains"
        )


@dataclass(frozen=True)
class UpperBound:
    """Upper bounds on log Z in nats, in expectation, by reverse annealing from exact samples.

    With w ~ Z_0 / Z in expectation, log Z_0 - log mean(w) is above log Z in expectation, and the looser form log Z_0 -
    mean(log w) further above. Grosse, Ghahramani & Adams (2015): bidirectional Monte Carlo.

    Args:
        log_z: log Z_0 - log mean(w).
        low: log Z_0 - log(mean(w) + 3 sd), with the standard deviation of the mean of w.
        high: log Z_0 - log(mean(w) - 3 sd), inf if that is not positive.
        jensen: log Z_0 - mean(log w).
        log_weight_std: standard deviation of log w.
        ess: the effective sample size (sum w)^2 / sum w^2.
        chains: number of weights.
    """

    log_z: float
    low: float
    high: float
    jensen: float
    log_weight_std: float
    ess: float
    chains: int


def mean_weight(log_weights: Tensor) -> tuple[float, float]:
    """(log mean(w), standard deviation of mean(w) over mean(w)), stabilized: w is divided by its mean first."""
    n = len(log_weights)
    if n < 2:
        raise ValueError(f"an estimate from {n} weight(s) has no spread: use at least 2 chains")
    log_weights = log_weights.double()
    log_mean = torch.logsumexp(log_weights, 0) - math.log(n)
    return float(log_mean), float((log_weights - log_mean).exp().std()) / math.sqrt(n)


def effective_sample_size(log_weights: Tensor) -> float:
    log_weights = log_weights.double()
    return float((2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0)).exp())


def log1p(x: float) -> float:
    """log(1 + x); -inf if 1 + x is not positive, NaN if x is."""
    return -math.inf if x <= -1 else math.log1p(x)
