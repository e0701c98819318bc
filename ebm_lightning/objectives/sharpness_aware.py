"""Sharpness-aware minimization: an objective at the worst parameters within a radius."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ebm_lightning.core import EnergyModel, Objective, State, Terms


@dataclass(frozen=True)
class SharpnessAware(Objective):
    """L(w + e), e = rho g / |g| with g = dL/dw: to first order the largest value of L within the radius rho of w.

    e is a constant, so that the gradient is dL/dw at w + e, with which any optimizer steps from w: SAM. ``adaptive``
    measures the distance relative to the parameters, e = rho w^2 g / | |w| g |: ASAM, with a larger rho. |.| is the
    norm over all parameters of the model; g is the gradient of this rank's batch, without weight decay and clipping.
    Both passes use the same phases, so that chains advance once per step; with an optimizer that calls the training
    step twice they would advance twice. The second pass does not change the model's buffers: the statistics of batch
    normalization are updated once. Without grad mode it is the objective itself.
    Terms: ``loss``, at w + e; ``sharpness``, L(w + e) - L(w); every other term of the objective, at w.
    Foret, Kleiner, Mobahi & Neyshabur (2021), eq. 2 and 3; Kwon et al. (2021) for ``adaptive``; SADA-JEM, whose
    released code has rho 2, adaptive.

    Args:
        objective: L.
        rho: radius, >= 0, in units of the parameters; relative to them if ``adaptive``.
        adaptive: whether the radius is relative to the size of each parameter.

    Raises:
        ValueError: if ``rho`` < 0, or the objective has state, which two passes would update twice; at a call, if the
            chains carry a graph.

    >>> import torch
    >>> from ebm_lightning.energies import DeepEnergy
    >>> from ebm_lightning.objectives import ContrastiveDivergence
    >>> energy = DeepEnergy(torch.nn.Linear(1, 1))
    >>> pos, neg = {"x": torch.ones(1, 1)}, {"x": torch.zeros(1, 1)}
    >>> terms = SharpnessAware(ContrastiveDivergence(), rho=0.5)(energy, pos, neg)
    >>> round(terms["sharpness"].item(), 4)  # L = w, so that e = rho
    0.5
    """

    objective: Objective
    _: KW_ONLY
    rho: float
    adaptive: bool = False

    def __post_init__(self) -> None:
        if not self.rho >= 0:
            raise ValueError(f"SharpnessAware(rho={self.rho}): expected a number >= 0")
        if isinstance(self.objective, nn.Module) and self.objective.state_dict():
            raise ValueError(
                "SharpnessAware calls the objective twice in a step, which would update its state twice: leave out "
                "Sparsity and other objectives with state"
            )

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        if any(value.requires_grad for value in (neg or {}).values()):
            raise ValueError("SharpnessAware takes chains as constants, but these carry a graph: set backprop: 0")
        terms = self.objective(model, pos, neg)
        if not torch.is_grad_enabled():
            return terms
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        g = torch.autograd.grad(terms["loss"], list(parameters.values()), materialize_grads=True)
        moved = {name: p + e for (name, p), e in zip(parameters.items(), self._climb(parameters, g), strict=True)}
        moved |= {name: buffer.clone() for name, buffer in model.named_buffers()}
        view = _LossModule(model, self.objective)
        loss = functional_call(view, {f"model.{name}": value for name, value in moved.items()}, (pos, neg))
        here = {name: term.detach() for name, term in terms.items()}
        return {**here, "loss": loss, "sharpness": loss.detach() - here["loss"]}

    @torch.no_grad()
    def _climb(self, parameters: Mapping[str, Tensor], g: tuple[Tensor, ...]) -> list[Tensor]:
        """e, a tensor for each parameter; 0 where the gradient is 0."""
        size = [p.abs() if self.adaptive else torch.ones_like(p) for p in parameters.values()]
        length = torch.nn.utils.get_total_norm([t * slope for t, slope in zip(size, g, strict=True)])
        rate = self.rho / length.clamp_min(torch.finfo(length.dtype).tiny)
        return [rate * t.square() * slope for t, slope in zip(size, g, strict=True)]


class _LossModule(nn.Module):
    """The loss of an objective as a module, for ``functional_call`` with other parameters."""

    def __init__(self, model: EnergyModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, pos: State, neg: State | None) -> Tensor:
        model: EnergyModel = self.model
        return self.objective(model, pos, neg)["loss"]
