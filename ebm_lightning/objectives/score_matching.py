"""Score matching: objectives on the gradient of the energy, without samples and without the partition function."""

from dataclasses import KW_ONLY, dataclass

import torch

from ebm_lightning.core import EnergyModel, Objective, State, Terms, energy_grad, select_variable


@dataclass(frozen=True)
class DenoisingScoreMatching(Objective):
    """mean |sigma dE/dx(x + sigma e) - e|^2 / 2 with e ~ N(0, 1): the gradient of the energy predicts the noise.

    This is Vincent's objective times sigma^2, which makes it of order one at any sigma. Its minimum is the energy of
    the data convolved with N(0, sigma^2), not of the data: a standard normal is fitted with variance 1 + sigma^2.
    Terms: ``loss``, the sum over the elements of an example, mean over the batch; ``energy_data``, the mean energy of
    the noised data; ``grad_norm``, the mean Euclidean norm of dE/dx there.
    Vincent (2011), eq. 9.

    Args:
        sigma: standard deviation of the noise, > 0, in units of the data.
        block: the variable to which noise is added, shape (B, ...); all others are clamped.

    Raises:
        ValueError: if ``sigma`` <= 0; at a call, if energy or data lack ``block``.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> energy = Gaussian(mean=[0.0], covariance=[0.25])  # a point mass at 0, convolved with N(0, 0.5^2)
    >>> terms = DenoisingScoreMatching(sigma=0.5)(energy, {"x": torch.zeros(5, 1)}, None)
    >>> round(terms["loss"].item(), 4)
    0.0
    """

    sigma: float
    _: KW_ONLY
    block: str = "x"

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"DenoisingScoreMatching(sigma={self.sigma}): expected a number > 0")

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        x = select_variable(model, pos, self.block)
        e = torch.randn_like(x)
        grad, energy = energy_grad(model, {**pos, self.block: x + self.sigma * e}, self.block)
        return {
            "loss": (self.sigma * grad - e).square().flatten(1).sum(1).mean() / 2,
            "energy_data": energy.mean(),
            "grad_norm": torch.linalg.vector_norm(grad.detach().flatten(1), dim=1).mean(),
        }


@dataclass(frozen=True)
class SlicedScoreMatching(Objective):
    """mean |dE/dx|^2 / 2 - v . H v with H the Hessian of E in x and random signs v: tr H without forming H.

    The expectation over v is Hyvarinen's objective, mean |s|^2 / 2 + tr ds/dx with the score s = -dE/dx. The square is
    taken in full, not along v: the variance-reduced form. Random signs (Rademacher) have the least variance
    among independent v of unit variance, and none if H is diagonal. The energy must be twice differentiable: for ReLU
    networks H is 0.
    Terms: ``loss``; ``curvature``, the mean of v . H v; ``grad_norm``, the mean Euclidean norm of dE/dx;
    ``energy_data``, the mean energy.
    Hyvarinen (2005); Song, Garg, Shi & Ermon (2019), SSM-VR.

    Args:
        projections: directions v per example, at least 1; each costs one product with the Hessian.
        block: the variable of the score, shape (B, ...); all others are clamped.

    Raises:
        ValueError: if ``projections`` < 1; at a call, if energy or data lack ``block``.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> energy = Gaussian(mean=[0.0, 0.0], covariance=[1.0, 1.0])
    >>> terms = SlicedScoreMatching()(energy, {"x": torch.tensor([[1.0, 1.0]])}, None)
    >>> terms["curvature"].item(), terms["loss"].item()  # tr I; |x|^2 / 2 - tr I
    (2.0, -1.0)
    """

    projections: int = 1
    _: KW_ONLY
    block: str = "x"

    def __post_init__(self) -> None:
        if self.projections < 1:
            raise ValueError(f"SlicedScoreMatching(projections={self.projections}): expected at least 1")

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        differentiable = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x = select_variable(model, pos, self.block).clone().detach().requires_grad_()
            grad, energy = energy_grad(model, {**pos, self.block: x}, self.block)
            curvature = torch.zeros_like(energy)
            for _ in range(self.projections):
                v = torch.randint_like(x, 2) * 2 - 1
                (hv,) = torch.autograd.grad(
                    (grad * v).sum(), x, retain_graph=True, create_graph=differentiable, materialize_grads=True
                )
                curvature = curvature + (v * hv).flatten(1).sum(1) / self.projections
            loss = (grad.square().flatten(1).sum(1) / 2 - curvature).mean()
        return {
            "loss": loss if differentiable else loss.detach(),
            "curvature": curvature.detach().mean(),
            "grad_norm": torch.linalg.vector_norm(grad.detach().flatten(1), dim=1).mean(),
            "energy_data": energy.mean(),
        }
