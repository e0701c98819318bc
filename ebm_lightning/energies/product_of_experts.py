"""Products of experts over continuous variables."""

import math

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, State


class StudentTPoE(EnergyModel):
    """E(x) = sum_j alpha_j log(1 + (w_j . x + b_j)^2 / 2) + containment |x|^2 / 2: experts on linear filters.

    Each expert is, up to a constant, a Student-t density of its filter's response s = w_j . x + b_j: the factor is
    (1 + s^2 / 2)^-alpha_j, a t with nu = 2 alpha_j - 1 degrees of freedom and the scale sqrt(2 / nu). Its peak and
    heavy tails favor sparse responses. As many experts as coordinates are independent component analysis, whose log Z
    is known; with more there is no closed form. With fewer, or if the filters do not span x, the density is improper
    and chains diverge along the unconstrained directions, unless ``containment`` > 0. The containment is not learned.

    No conditional is known: sample by HMC. The model was proposed with contrastive divergence by short HMC chains from
    the data.
    Hinton (2002), products of experts; Welling, Hinton & Osindero (2003), eq. 3; Roth & Black (2005) for images.

    Args:
        shape: of x, such as [1, 8, 8].
        experts: the number of filters.
        containment: weight of the quadratic term, >= 0; 0 leaves it out.
        weight_std: standard deviation of the initial filters, which are normal.
        exponent: initial value of every alpha_j, > 0; 1 is the Cauchy density, at most 1/2 is improper.

    Raises:
        ValueError: if a number is out of range.

    >>> import torch
    >>> energy = StudentTPoE(shape=[2], experts=4)
    >>> energy.energy({"x": torch.zeros(3, 2)}).tolist()  # the biases are 0
    [0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        shape: list[int],
        experts: int,
        containment: float = 0.0,
        weight_std: float = 0.1,
        exponent: float = 1.0,
    ) -> None:
        super().__init__()
        if experts < 1 or any(side < 1 for side in shape):
            raise ValueError(f"StudentTPoE(shape={shape}, experts={experts}): expected at least one of each")
        if not (containment >= 0 and weight_std >= 0 and exponent > 0):
            raise ValueError(
                f"StudentTPoE(containment={containment}, weight_std={weight_std}, exponent={exponent}): expected "
                "containment >= 0, weight_std >= 0 and exponent > 0"
            )
        self.shape, self.containment = tuple(shape), containment
        self.weight = nn.Parameter(weight_std * torch.randn(experts, math.prod(shape)))
        self.bias = nn.Parameter(torch.zeros(experts))
        self.log_alpha = nn.Parameter(torch.full((experts,), math.log(exponent)))

    @property
    def alpha(self) -> Tensor:
        """alpha_j > 0, shape (experts,)."""
        return self.log_alpha.exp()

    def forward(self, x: Tensor) -> Tensor:
        """E(x), shape (B,), for x (B, *shape)."""
        x = x.flatten(1)
        s = torch.addmm(self.bias, x, self.weight.T)
        energy = torch.log1p(s.square() / 2) @ self.alpha
        return energy + self.containment / 2 * x.square().sum(1) if self.containment else energy

    def check(self, state: State) -> None:
        """Raise ValueError if x has another shape or values that are not finite."""
        x = state["x"]
        if x.shape[1:] != self.shape or not bool(x.isfinite().all()):
            raise ValueError(
                f"StudentTPoE(shape={list(self.shape)}) takes finite values of that shape, got {tuple(x.shape[1:])}: "
                "give the model the shape of the data, and remove infinite values and NaN"
            )

    @torch.no_grad()
    def log_partition(self, largest: int = 25) -> Tensor:
        """log Z = sum_j log(sqrt(2 pi) Gamma(alpha_j - 1/2) / Gamma(alpha_j)) - log |det W|, of a complete model.

        Raises ValueError if there are not as many experts as coordinates, if ``containment`` > 0, or if an
        alpha_j <= 1/2 makes the density improper.
        """
        experts, coordinates = self.weight.shape
        alpha = self.alpha.double()
        if experts != coordinates or self.containment or bool((alpha <= 0.5).any()):
            raise ValueError(
                f"log Z is known of as many experts as coordinates, each with alpha > 1/2, without containment: this "
                f"StudentTPoE has {experts} experts on {coordinates} coordinates, the smallest alpha is "
                f"{float(alpha.min()):.3g} and containment is {self.containment}"
            )
        factors = math.log(2 * math.pi) / 2 + torch.lgamma(alpha - 0.5) - torch.lgamma(alpha)
        return factors.sum() - torch.linalg.slogdet(self.weight.double()).logabsdet

    def filters(self, block: str) -> Tensor:
        """The filters w_j, shape (experts, *shape)."""
        if block != "x":
            raise ValueError(f"StudentTPoE has filters on 'x', got {block!r}")
        return self.weight.view(-1, *self.shape)
