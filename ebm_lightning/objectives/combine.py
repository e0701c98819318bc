"""Objectives added up."""

from dataclasses import KW_ONLY, dataclass

import torch

from ebm_lightning.core import EnergyModel, Objective, State, Terms


@dataclass(frozen=True)
class Sum(Objective):
    """sum over the parts of weight * loss: JEM, for one, is a contrast plus a classification.

    Every part sees the same two phases. Terms: ``loss``, and every term of every part as "<part>/<term>", unweighted.

    Args:
        parts: the objectives, by the name under which their terms are logged.
        weights: factors of the parts' losses, by part; a part not named has weight 1.

    Raises:
        ValueError: where there is no part, or ``weights`` names something that is not a part.
    """

    parts: dict[str, Objective]
    _: KW_ONLY
    weights: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("Sum(parts={}) has nothing to add up: give it at least one objective")
        unknown = sorted(set(self.weights or {}) - set(self.parts))
        if unknown:
            raise ValueError(f"Sum(weights=...) names {unknown}, but the parts are {sorted(self.parts)}")

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        weights = self.weights or {}
        found = {name: part(model, pos, neg) for name, part in self.parts.items()}
        loss = torch.stack([weights.get(name, 1.0) * terms["loss"] for name, terms in found.items()]).sum()
        flat = {f"{name}/{term}": value.detach() for name, terms in found.items() for term, value in terms.items()}
        return {"loss": loss, **flat}
