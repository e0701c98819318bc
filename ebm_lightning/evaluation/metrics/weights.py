"""What importance weights say about log Z: an estimate with its interval, and when not to trust it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_STD, SMALLEST_ESS = 1.5, 10
"""Where the alarms of an estimate ring: nats, and chains."""


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
        log_mean, error = mean_weight(log_weights)
        log_z = log_base + log_mean
        low, high = (log_z + log1p(sign * 3 * error) for sign in (-1, 1))
        return cls(
            log_z, low, high, float(log_weights.double().std()), effective_sample_size(log_weights), len(log_weights)
        )

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
            f"{' and '.join(wrong)}: log Z is unreliable, since AIS errs on the low side, so that "
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


def mean_weight(log_weights: Tensor) -> tuple[float, float]:
    """(log mean(w), standard deviation of mean(w) over mean(w)), stabilised: w is divided by its mean first."""
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
    """log(1 + x), -inf where 1 + x is not positive, NaN where x is."""
    return -math.inf if x <= -1 else math.log1p(x)
