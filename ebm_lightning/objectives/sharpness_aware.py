"""Flat minima: an objective at the worst parameters nearby."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ebm_lightning.core import EnergyModel, Objective, State, Terms


@dataclass(frozen=True)
class SharpnessAware(Objective):
    """L(w + e), e = rho g / |g| with g = dL/dw: the objective where it is largest, to first order, within rho of w.

    e is a constant, so that the gradient is dL/dw at w + e and any optimizer steps with it from w: SAM. ``adaptive``
    measures the distance relative to the parameters, e = rho w^2 g / | |w| g |: ASAM, whose rho is larger. |.| is over
    all parameters of the model together; g is that of this rank's batch and holds neither weight decay nor clipping.
    Both passes see the same phases, so that chains advance once in a step, which an optimizer that calls the training
    step twice would not leave so. The second pass leaves the model's buffers alone: statistics of batch normalization
    move once. Where no gradient is asked for it is the objective itself.
    Terms: ``loss``, at w + e; ``sharpness``, L(w + e) - L(w); every other term of the objective, at w.
    Foret, Kleiner, Mobahi & Neyshabur (2021), eq. 2 and 3; Kwon et al. (2021) for ``adaptive``; SADA-JEM, whose
    released code takes rho 2, adaptive.

    Args:
        objective: L.
        rho: radius, >= 0, in units of the parameters; where ``adaptive``, relative to them.
        adaptive: whether large parameters may move farther than small ones.

    Raises:
        ValueError: where ``rho`` < 0, or the objective remembers something, which two passes would move twice; at a
            call, where the chains carry a graph.
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
                "SharpnessAware takes the objective twice in a step, which would move what it remembers twice: leave "
                "out Sparsity and its like"
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
        view = _Seen(model, self.objective)
        loss = functional_call(view, {f"model.{name}": value for name, value in moved.items()}, (pos, neg))
        here = {name: term.detach() for name, term in terms.items()}
        return {**here, "loss": loss, "sharpness": loss.detach() - here["loss"]}

    @torch.no_grad()
    def _climb(self, parameters: Mapping[str, Tensor], g: tuple[Tensor, ...]) -> list[Tensor]:
        """e, a tensor for each parameter; 0 where the gradient is."""
        size = [p.abs() if self.adaptive else torch.ones_like(p) for p in parameters.values()]
        length = torch.nn.utils.get_total_norm([t * slope for t, slope in zip(size, g, strict=True)])
        rate = self.rho / length.clamp_min(torch.finfo(length.dtype).tiny)
        return [rate * t.square() * slope for t, slope in zip(size, g, strict=True)]


class _Seen(nn.Module):
    """An objective's loss as a function of a model that may be exchanged."""

    def __init__(self, model: EnergyModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, pos: State, neg: State | None) -> Tensor:
        model: EnergyModel = self.model
        return self.objective(model, pos, neg)["loss"]
