"""A weighted sum of objectives."""

import torch
from torch import nn

from ebm_lightning.core import EnergyModel, Objective, State, Terms


class Sum(Objective, nn.Module):
    """sum over the parts of weight * loss; for JEM a contrast plus a classification.

    All parts have the same two phases. The state of a part, such as Sparsity, is in the checkpoint.
    Terms: ``loss``, and every term of every part as "<part>/<term>", unweighted.

    Args:
        parts: the objectives, by the name under which their terms are logged.
        weights: factors of the parts' losses, by part; a part not named has weight 1.

    Raises:
        ValueError: if there is no part, or ``weights`` names something that is not a part.

    >>> import torch
    >>> from ebm_lightning.energies import JEM
    >>> from ebm_lightning.objectives import Classification, ContrastiveDivergence
    >>> objective = Sum({"contrast": ContrastiveDivergence(), "labels": Classification()}, weights={"labels": 2.0})
    >>> batch = {"x": torch.zeros(1, 2), "y": torch.tensor([0])}
    >>> terms = objective(JEM(torch.nn.Flatten(), classes=2), batch, batch)
    >>> round(terms["loss"].item(), 4), terms["contrast/gap"].item()  # 0 + 2 log 2
    (1.3863, 0.0)
    """

    def __init__(self, parts: dict[str, Objective], *, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        if not parts:
            raise ValueError("Sum(parts={}) has nothing to add up: give it at least one objective")
        unknown = sorted(set(weights or {}) - set(parts))
        if unknown:
            raise ValueError(f"Sum(weights=...) names {unknown}, but the parts are {sorted(parts)}")
        self.parts, self.weights = dict(parts), dict(weights or {})
        self.predicts = any(part.predicts for part in parts.values())
        self.submodules = nn.ModuleDict({name: part for name, part in parts.items() if isinstance(part, nn.Module)})

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        results = {name: part(model, pos, neg) for name, part in self.parts.items()}
        loss = torch.stack([self.weights.get(name, 1.0) * terms["loss"] for name, terms in results.items()]).sum()
        flat = {f"{name}/{term}": value.detach() for name, terms in results.items() for term, value in terms.items()}
        return {"loss": loss, **flat}
