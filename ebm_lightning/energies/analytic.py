"""Analytic energies: log Z and samples in closed form, for tests, first steps and checks of samplers."""

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ebm_lightning.core import Conditional, EnergyModel, State
from ebm_lightning.distributions.conditionals import SpinConditional

LARGEST_ENUMERATED_SIDE = 4
"""The side of the largest Ising lattice whose partition function is enumerated."""

NEGLIGIBLE = 800.0
"""An energy above the minimum at which exp(-E) is 0 in float64."""


class Gaussian(EnergyModel):
    """E(x) = (x - mean)^T covariance^-1 (x - mean) / 2 over x (B, d): the normal distribution, without its constant.

    Raises ValueError if the covariance does not fit the mean, or is not symmetric and positive definite.

    Args:
        mean: the d coordinates of the mean.
        covariance: the d variances of independent coordinates, or the d x d covariance matrix.

    >>> import torch
    >>> energy = Gaussian(mean=[0.0, 0.0], covariance=[1.0, 4.0])
    >>> energy(torch.tensor([[1.0, 0.0], [0.0, 2.0]])).tolist()
    [0.5, 0.5]
    """

    mean: Tensor
    precision: Tensor

    def __init__(self, mean: list[float], covariance: list[float] | list[list[float]]) -> None:
        super().__init__()
        matrix = torch.tensor(covariance, dtype=torch.float64)
        matrix = matrix.diag() if matrix.ndim == 1 else matrix
        if matrix.shape != (len(mean), len(mean)):
            raise ValueError(
                f"Gaussian(covariance={covariance}): expected {len(mean)} variances or a matrix of that side, "
                f"to fit a mean of {len(mean)} coordinates"
            )
        if not torch.equal(matrix, matrix.T) or torch.linalg.cholesky_ex(matrix).info != 0:
            raise ValueError(f"Gaussian(covariance={covariance}): expected a symmetric, positive definite covariance")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.get_default_dtype()))
        self.register_buffer("precision", torch.linalg.inv(matrix).to(self.mean.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """E(x), shape (B,), for x (B, d)."""
        z = x - self.mean
        return ((z @ self.precision) * z).sum(1) / 2

    def log_partition(self, largest: int = 25) -> Tensor:
        """log Z = (d log 2 pi - log det precision) / 2 in nats, a float64 scalar."""
        return (len(self.mean) * math.log(2 * math.pi) - torch.logdet(self.precision.double())) / 2

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n exact draws, (n, d)."""
        factor = torch.linalg.cholesky(self.precision)
        noise = torch.randn(len(self.mean), n, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + torch.linalg.solve_triangular(factor.T, noise, upper=True).T


class GaussianMixture(EnergyModel):
    """E(x) = -log sum_k weights_k N(x; means_k, std^2 I) over x (B, d); log Z = 0.

    Raises ValueError if the means differ in length, std is not positive, or the weights are not one per mean, not
    positive or do not add up to 1.

    Args:
        means: the mean of each component, d coordinates.
        std: the standard deviation of every coordinate in every component, > 0.
        weights: the probability of each component, > 0, summing to 1; None gives equal weights.

    >>> energy = GaussianMixture(means=[[-2.0], [2.0]], std=0.5)
    >>> energy.sample(3).shape, energy.log_partition().item()
    (torch.Size([3, 1]), 0.0)
    """

    means: Tensor
    weights: Tensor

    def __init__(self, means: list[list[float]], std: float, weights: list[float] | None = None) -> None:
        super().__init__()
        if not means or len({len(mean) for mean in means}) != 1:
            raise ValueError(f"GaussianMixture(means={means}): expected at least one mean, all of the same length")
        if std <= 0:
            raise ValueError(f"GaussianMixture(std={std}): expected std > 0")
        shares = [1 / len(means)] * len(means) if weights is None else weights
        if len(shares) != len(means) or min(shares) <= 0 or not math.isclose(sum(shares), 1, rel_tol=1e-6):
            raise ValueError(
                f"GaussianMixture(weights={weights}): expected {len(means)} positive numbers that add up to 1"
            )
        self.std = std
        self.register_buffer("means", torch.tensor(means, dtype=torch.get_default_dtype()))
        self.register_buffer("weights", torch.tensor(shares, dtype=torch.get_default_dtype()))

    def _log_joint(self, x: Tensor) -> Tensor:
        """log weights_k N(x; means_k, std^2 I), shape (B, components)."""
        z = (x[:, None] - self.means) / self.std
        constant = self.means.shape[1] * (math.log(2 * math.pi) / 2 + math.log(self.std))
        return (self.weights / self.weights.sum()).log() - z.square().sum(2) / 2 - constant

    def forward(self, x: Tensor) -> Tensor:
        """E(x), shape (B,), for x (B, d)."""
        return -self._log_joint(x).logsumexp(1)

    def score(self, x: Tensor) -> Tensor:
        """grad log p(x) = sum_k p(k | x) (means_k - x) / std^2, shape (B, d)."""
        return (self._log_joint(x).softmax(1) @ self.means - x) / self.std**2

    def log_partition(self, largest: int = 25) -> Tensor:
        """log Z = 0, a float64 scalar."""
        return torch.zeros((), dtype=torch.float64, device=self.means.device)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n exact draws, (n, d)."""
        centers = self.means[torch.multinomial(self.weights, n, replacement=True)]
        return centers + self.std * torch.randn_like(centers)


class DoubleWell(EnergyModel):
    """E(x) = sum_i barrier (x_i^2 - 1)^2 + tilt x_i over x (B, dim): modes near -1 and +1 in every coordinate.

    Raises ValueError if ``dim`` < 1 or ``barrier`` <= 0.

    Args:
        dim: the number of independent coordinates, at least 1.
        barrier: the height of the barrier at 0 above the wells at zero tilt, in units of the temperature; positive.
        tilt: a constant slope; a positive tilt makes the well near -1 the deeper one.

    >>> import torch
    >>> DoubleWell(barrier=3.0)(torch.tensor([[-1.0], [0.0], [1.0]])).tolist()
    [0.0, 3.0, 0.0]
    """

    def __init__(self, dim: int = 1, barrier: float = 1.0, tilt: float = 0.0) -> None:
        super().__init__()
        if dim < 1 or barrier <= 0:
            raise ValueError(f"DoubleWell(dim={dim}, barrier={barrier}): expected dim >= 1 and barrier > 0")
        self.dim, self.barrier, self.tilt = dim, barrier, tilt

    def forward(self, x: Tensor) -> Tensor:
        """E(x), shape (B,), for x (B, dim)."""
        return (self.barrier * (x.square() - 1).square() + self.tilt * x).sum(1)

    def log_partition(self, largest: int = 25) -> Tensor:
        """log Z in nats, a float64 scalar: dim times a one-dimensional trapezoidal sum, exact up to rounding."""
        reach = 2.0
        while self.barrier * (reach**2 - 1) ** 2 < NEGLIGIBLE + 2 * abs(self.tilt) * reach:
            reach *= 1.25
        x = torch.linspace(-reach, reach, 20001, dtype=torch.float64)
        return self.dim * (torch.logsumexp(-self(x[:, None]), 0) + (x[1] - x[0]).log())


class Ising(EnergyModel):
    """E(s) = -coupling sum_<ij> s_i s_j - field sum_i s_i: spins in {-1, +1} on a square lattice with periodic edges.

    The variables are the two colors of a checkerboard, ``even`` and ``odd`` (row + column), each (B, side, side / 2)
    in row-major order: given one color, the spins of the other are independent. Each site has a bond to its right and
    to its lower neighbor, so that a side of 2 has each bond twice. The critical coupling of the infinite lattice is
    log(1 + sqrt 2) / 2, about 0.4407 (Onsager 1944).

    Raises ValueError if ``side`` is odd or less than 2.

    Args:
        side: the side of the lattice in spins, even, at least 2.
        coupling: J, in units of the temperature; positive couplings align neighbors.
        field: h, in units of the temperature; positive fields favor +1.

    >>> import torch
    >>> energy = Ising(side=4, coupling=0.5)
    >>> up = torch.ones(1, 4, 2)  # all 32 bonds satisfied
    >>> energy(even=up, odd=up).item()
    -16.0
    """

    board: Tensor
    upper: Tensor

    def __init__(self, side: int, coupling: float, field: float = 0.0) -> None:
        super().__init__()
        if side < 2 or side % 2:
            raise ValueError(f"Ising(side={side}): expected an even side of at least 2, for two colors must alternate")
        self.side, self.coupling, self.field = side, coupling, field
        rows = torch.arange(side)
        self.register_buffer("board", (rows[:, None] + rows) % 2 == 0, persistent=False)
        self.register_buffer("upper", (rows % 2 == 0)[:, None], persistent=False)

    def forward(self, even: Tensor, odd: Tensor) -> Tensor:
        """E, shape (B,), for spins in {-1, +1}, (B, side, side / 2) each; a bond joins an even and an odd site."""
        bonds = even * self._neighbors("even", odd)
        return -self.coupling * bonds.sum((1, 2)) - self.field * (even + odd).sum((1, 2))

    def conditional(self, block: str, state: State) -> Conditional:
        """p(even | odd) or p(odd | even): independent spins in the field coupling * (sum of neighbors) + field.

        Raises ValueError for any other block.
        """
        others = {"even": "odd", "odd": "even"}
        if block not in others:
            raise ValueError(f"Ising has conditionals for 'even' and 'odd', got {block!r}")
        return SpinConditional(self.coupling * self._neighbors(block, state[others[block]]) + self.field)

    def positive_phase(self, batch: State) -> State:
        """The batch with the two colors of ``batch["x"]``, lattices (B, side, side), if it has no colors yet."""
        if "x" not in batch or "even" in batch or "odd" in batch:
            return batch
        even, odd = self.split(batch["x"])
        return {**batch, "even": even, "odd": odd}

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split lattices (B, side, side) into the colors even and odd, (B, side, side / 2) each."""
        shape = (len(x), self.side, self.side // 2)
        return x[:, self.board].view(shape), x[:, ~self.board].view(shape)

    def join(self, even: Tensor, odd: Tensor) -> Tensor:
        """Join the colors even and odd, (B, side, side / 2) each, to lattices (B, side, side): the inverse of split."""
        x = even.new_empty(len(even), self.side, self.side)
        x[:, self.board], x[:, ~self.board] = even.flatten(1), odd.flatten(1)
        return x

    def log_partition(self, largest: int = 25) -> Tensor:
        """log Z in nats, a float64 scalar: the even spins summed out in closed form, the odd ones by enumeration.

        Raises ValueError for a side above 4, whose 2^18 or more odd lattices are not enumerated.
        """
        if self.side > LARGEST_ENUMERATED_SIDE:
            raise ValueError(
                f"Ising(side={self.side}).log_partition() enumerates lattices up to side {LARGEST_ENUMERATED_SIDE}; "
                "estimate it by annealed importance sampling instead"
            )
        units = self.side * self.side // 2
        spins = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=units)), dtype=torch.float64)
        odd = spins.view(-1, self.side, self.side // 2).to(self.board.device)
        local = self.coupling * self._neighbors("even", odd) + self.field
        log_two_cosh = local.abs() + F.softplus(-2 * local.abs())
        return torch.logsumexp(log_two_cosh.sum((1, 2)) + self.field * odd.sum((1, 2)), 0)

    def _neighbors(self, block: str, other: Tensor) -> Tensor:
        """The sum of the four neighbors of every spin of ``block``, all of which have the other color."""
        left, right = other.roll(1, -1), other.roll(-1, -1)
        sideways = torch.where(self.upper, left, right) if block == "even" else torch.where(self.upper, right, left)
        return other + sideways + other.roll(1, -2) + other.roll(-1, -2)
