"""The kernel two-sample statistic: a distance between two samples, without densities."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def _gaussian_kernel(x: Tensor, y: Tensor, bandwidth: float | Tensor) -> Tensor:
    return (-torch.cdist(x, y).square() / (2 * bandwidth**2)).exp()


def mmd2(x: Tensor, y: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Unbiased estimate of MMD^2 between the distributions of ``x`` (m, ...) and ``y`` (n, ...), a scalar.

    sum_{i != j} k(x_i, x_j) / (m (m - 1)) + sum_{i != j} k(y_i, y_j) / (n (n - 1)) - 2 sum_{i, j} k(x_i, y_j) / (m n)
    with k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)). Its expectation is 0 for equal distributions, so it can be
    slightly negative. Time and memory grow as (m + n)^2. Gretton et al. (2012), eq. 3.

    Raises:
        ValueError: if a sample has fewer than two examples, or the examples differ in size.
    """
    x, y = x.flatten(1), y.flatten(1)
    m, n = len(x), len(y)
    if min(m, n) < 2:
        raise ValueError(f"mmd2 needs at least two examples in each sample, but got {m} and {n}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"mmd2 compares examples of one size, but got {x.shape[1]} and {y.shape[1]} numbers each")
    within_x, within_y = _gaussian_kernel(x, x, bandwidth), _gaussian_kernel(y, y, bandwidth)
    return (
        (within_x.sum() - within_x.trace()) / (m * (m - 1))
        + (within_y.sum() - within_y.trace()) / (n * (n - 1))
        - 2 * _gaussian_kernel(x, y, bandwidth).mean()
    )


def median_bandwidth(x: Tensor) -> Tensor:
    """The median Euclidean distance between two examples of ``x`` (n, ...), a scalar: a bandwidth for :func:`mmd2`.

    Of an even number of distances it is the lower middle one. Gretton et al. (2012), section 8.

    Raises:
        ValueError: if there are fewer than two examples.
    """
    if len(x) < 2:
        raise ValueError(f"median_bandwidth needs at least two examples, but got {len(x)}")
    return torch.nn.functional.pdist(x.flatten(1)).median()


class MaximumMeanDiscrepancy(Metric):
    """Unbiased MMD^2 with a Gaussian kernel between two samples, given in batches; see :func:`mmd2`.

    Every example is kept until ``compute``, over all ranks; the two samples may differ in size. 0 in expectation for
    equal distributions, slightly negative by chance. Gretton et al. (2012), eq. 3.

    Args:
        bandwidth: of the kernel exp(-|x - y|^2 / (2 bandwidth^2)), > 0, in units of the data.

    Raises:
        ValueError: if ``bandwidth`` <= 0; at ``compute``, if a sample has fewer than two examples.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    x: list[Tensor]
    y: list[Tensor]

    def __init__(self, bandwidth: float) -> None:
        super().__init__()
        if not bandwidth > 0:
            raise ValueError(f"MaximumMeanDiscrepancy(bandwidth={bandwidth}): expected a number > 0")
        self.bandwidth = bandwidth
        self.add_state("x", default=[], dist_reduce_fx="cat")
        self.add_state("y", default=[], dist_reduce_fx="cat")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add examples (m, ...) of the first distribution and (n, ...) of the second."""
        self.x.append(x.detach().flatten(1))
        self.y.append(y.detach().flatten(1))

    def compute(self) -> Tensor:
        """MMD^2 of all examples so far, a scalar."""
        return mmd2(dim_zero_cat(self.x), dim_zero_cat(self.y), self.bandwidth)
