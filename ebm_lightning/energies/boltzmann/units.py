"""Groups of units of a Boltzmann machine: binary, Gaussian and softmax.

A group is an exponential family: the conditional of its units given their input is known. It encodes its variable as
rows, which are multiplied by a weight matrix, and adds its own energy. The bias is an argument, so that an annealing
path between two biases uses the same code.
"""

import abc
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebm_lightning.core import Conditional, State
from ebm_lightning.distributions.conditionals import BernoulliConditional, CategoricalConditional, GaussianConditional
from ebm_lightning.utils import fused_ops


class Units(nn.Module, abc.ABC):
    """A group of units; ``bias`` (rows,) is its parameter, ``shape`` the shape of one value.

    Args:
        shape: the shape of the variable, without the batch axis.
        rows: the length of an encoded value.
    """

    bias: Tensor

    def __init__(self, shape: tuple[int, ...], rows: int) -> None:
        super().__init__()
        if rows < 1 or any(side < 1 for side in shape):
            raise ValueError(f"{type(self).__name__}: expected at least one unit, got the shape {shape}")
        self.shape, self.rows = tuple(shape), rows
        self.bias = nn.Parameter(torch.zeros(rows))

    @abc.abstractmethod
    def encode(self, v: Tensor) -> Tensor:
        """The encoded values (B, rows), which the weights multiply, of values (B, *shape)."""

    @abc.abstractmethod
    def energy(self, v: Tensor, bias: Tensor) -> Tensor:
        """The energy (B,) of the units without their input."""

    @abc.abstractmethod
    def conditional(self, input: Tensor, bias: Tensor) -> Conditional:
        """p(v | hidden), proportional to exp(encode(v) . input - energy(v)), for ``input`` (B, rows)."""

    @abc.abstractmethod
    def log_normalizer(self, input: Tensor, bias: Tensor) -> Tensor:
        """The log of the sum or integral over v of exp(encode(v) . input - energy(v)), shape (B,)."""

    def log_normalizer_change(self, input: Tensor, begin: tuple[float, Tensor], end: tuple[float, Tensor]) -> Tensor:
        """log_normalizer(e input, b) - log_normalizer(f input, a) for begin = (f, a), end = (e, b); float64 (B,)."""
        first, last = (self.log_normalizer(beta * input, bias) for beta, bias in (begin, end))
        return last.double() - first.double()

    def entropy(self, mean: Tensor) -> Tensor:
        """The entropy in nats (B,) of independent units with the mean of a conditional.

        Raises ValueError if the mean does not determine it.
        """
        raise ValueError(f"the entropy of {type(self).__name__} units does not follow from their mean")

    @abc.abstractmethod
    def fitted_bias(self, mean: Tensor, smoothing: float) -> Tensor:
        """The maximum-likelihood bias of independent units for data whose rows have the mean ``mean`` (rows,).

        ``smoothing`` >= 0 keeps it finite: pseudo-counts per example of the data.
        """

    def check(self, v: Tensor) -> None:
        """Raise ValueError if a batch of values is not in the domain of the group."""
        if v.shape[1:] != self.shape:
            raise ValueError(
                f"{type(self).__name__} holds values of shape {self.shape}, got {tuple(v.shape[1:])}: "
                "give the units the shape of the data"
            )


class Bernoulli(Units):
    """Binary units: energy -b . v with v in {0, 1}.

    Args:
        shape: the shape of the variable, such as [1, 28, 28].
        probabilities: whether values between 0 and 1 are accepted, as probabilities of being on: a common use of gray
            levels, for which no log-probability is defined.

    >>> import torch
    >>> units = Bernoulli([3])
    >>> units.conditional(torch.zeros(1, 3), units.bias).mean.tolist()
    [[0.5, 0.5, 0.5]]
    """

    def __init__(self, shape: list[int], probabilities: bool = False) -> None:
        super().__init__(tuple(shape), math.prod(shape))
        self.probabilities = probabilities

    def encode(self, v: Tensor) -> Tensor:
        return v.flatten(1)

    def energy(self, v: Tensor, bias: Tensor) -> Tensor:
        return -(v.flatten(1) @ bias)

    def conditional(self, input: Tensor, bias: Tensor) -> BernoulliConditional:
        return BernoulliConditional((input + bias).view(-1, *self.shape))

    def log_normalizer(self, input: Tensor, bias: Tensor) -> Tensor:
        return F.softplus(input + bias).sum(1)

    def log_normalizer_change(self, input: Tensor, begin: tuple[float, Tensor], end: tuple[float, Tensor]) -> Tensor:
        return fused_ops.softplus_difference(input, begin, end)

    def entropy(self, mean: Tensor) -> Tensor:
        return (torch.special.entr(mean) + torch.special.entr(1 - mean)).flatten(1).sum(1)

    def fitted_bias(self, mean: Tensor, smoothing: float) -> Tensor:
        """logit((mean + smoothing) / (1 + smoothing)), as Salakhutdinov & Murray (2008), kept finite at mean 1."""
        return torch.logit((mean + smoothing) / (1 + smoothing), eps=1e-3)

    def check(self, v: Tensor) -> None:
        super().check(v)
        inside = ((v >= 0) & (v <= 1)) if self.probabilities else ((v == 0) | (v == 1))
        if not bool(inside.all()):
            raise ValueError(
                f"Bernoulli units take values {'in [0, 1]' if self.probabilities else '0 and 1'}, got values from "
                f"{float(v.min()):.4g} to {float(v.max()):.4g}: binarize the data, for example by "
                "pixels: DynamicBinarization, or scale gray levels to [0, 1] and set probabilities: true"
            )


class Gaussian(Units):
    """Real-valued units: energy sum_i (v_i - a_i)^2 / (2 s^2); the weights multiply v / s.

    So p(v_i | h) = N(a_i + s (W h)_i, s^2) and p(h_j = 1 | v) = sigmoid(c_j + sum_i W_ij v_i / s): the convention of
    Hinton (2010, "A practical guide", equation 17) and Krizhevsky (2009), not that of Cho et al. (2011), in which
    the weights multiply v / s^2. Use a learning rate 10 to 100 times smaller than for binary units.

    Args:
        shape: the shape of the variable, such as [3, 32, 32].
        std: s, the same for all units and fixed, > 0; 1 for standardized data.

    >>> import torch
    >>> units = Gaussian([2], std=2.0)
    >>> units.conditional(torch.ones(1, 2), units.bias).mean.tolist()  # a + s input
    [[2.0, 2.0]]
    """

    def __init__(self, shape: list[int], std: float = 1.0) -> None:
        super().__init__(tuple(shape), math.prod(shape))
        if not std > 0:
            raise ValueError(f"Gaussian(std={std}): expected a number > 0")
        self.std = std

    def encode(self, v: Tensor) -> Tensor:
        return v.flatten(1) / self.std

    def energy(self, v: Tensor, bias: Tensor) -> Tensor:
        return ((v.flatten(1) - bias) / self.std).square().sum(1) / 2

    def conditional(self, input: Tensor, bias: Tensor) -> GaussianConditional:
        return GaussianConditional((bias + self.std * input).view(-1, *self.shape), self.std)

    def log_normalizer(self, input: Tensor, bias: Tensor) -> Tensor:
        constant = self.rows * (math.log(2 * math.pi) / 2 + math.log(self.std))
        return (input.square() / 2 + input * bias / self.std).sum(1) + constant

    def fitted_bias(self, mean: Tensor, smoothing: float) -> Tensor:
        """The mean of the data; a Gaussian needs no smoothing."""
        return mean * self.std

    def check(self, v: Tensor) -> None:
        super().check(v)
        if not bool(v.isfinite().all()):
            raise ValueError("Gaussian units take finite values, got infinite values or NaN: remove them from the data")


class Softmax(Units):
    """One-of-K units: energy -sum_i d_i[v_i], for int64 values in 0..K-1: a label, or a vector of categories.

    The learning rule is that of binary units; only the sampling differs.

    Args:
        classes: K, at least 2.
        shape: the shape of the variable; [] is a label (B,), [n] are n categories (B, n).

    >>> import torch
    >>> units = Softmax(3)
    >>> units.encode(torch.tensor([2, 0])).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    def __init__(self, classes: int, shape: list[int] | None = None) -> None:
        if classes < 2:
            raise ValueError(f"Softmax(classes={classes}): expected at least 2")
        super().__init__(tuple(shape or ()), math.prod(shape or ()) * classes)
        self.classes = classes

    def encode(self, v: Tensor) -> Tensor:
        """One-hot rows; mean-field probabilities (B, *shape, classes) are flattened."""
        if v.is_floating_point():
            return v.flatten(1)
        return F.one_hot(v, self.classes).flatten(1).to(self.bias.dtype)

    def energy(self, v: Tensor, bias: Tensor) -> Tensor:
        return -(self.encode(v) @ bias)

    def conditional(self, input: Tensor, bias: Tensor) -> CategoricalConditional:
        return CategoricalConditional((input + bias).view(-1, *self.shape, self.classes))

    def log_normalizer(self, input: Tensor, bias: Tensor) -> Tensor:
        return torch.logsumexp((input + bias).view(len(input), -1, self.classes), -1).sum(1)

    def entropy(self, mean: Tensor) -> Tensor:
        return torch.special.entr(mean).flatten(1).sum(1)

    def fitted_bias(self, mean: Tensor, smoothing: float) -> Tensor:
        return ((mean + smoothing) / (1 + self.classes * smoothing)).clamp_min(1e-6).log()

    def check(self, v: Tensor) -> None:
        super().check(v)
        if v.is_floating_point() or not bool(((v >= 0) & (v < self.classes)).all()):
            raise ValueError(
                f"Softmax(classes={self.classes}) takes whole numbers 0..{self.classes - 1} of dtype int64, got "
                f"{v.dtype} from {float(v.min()):g} to {float(v.max()):g}: give labels, not one-hot vectors"
            )


@torch.no_grad()
def mean_rows(groups: Mapping[str, Units], batches: Iterable[State]) -> dict[str, Tensor]:
    """The mean encoded value of each group that the data contain, over all batches: (rows,) each, float64."""
    total: dict[str, Tensor] = {}
    n = 0
    for batch in batches:
        present = [name for name in groups if name in batch]
        for name in present:
            total[name] = total.get(name, 0) + groups[name].encode(batch[name]).double().sum(0)
        n += len(batch[present[0]])
    return {name: rows / n for name, rows in total.items()}
