"""The discriminative objective: the cross-entropy of labels under an energy over data and labels."""

from dataclasses import dataclass

import torch

from ebm_lightning.core import EnergyModel, GibbsSampleable, Objective, State, Terms, require
from ebm_lightning.distributions.conditionals import CategoricalConditional


@dataclass(frozen=True)
class Classification(Objective):
    """-mean log p(block | the model's other variables), from the model's own conditional, in nats.

    Auxiliary variables, such as hidden units, are not conditioned on: an RBM sums them out exactly. No samples are
    needed. Together with a contrast in a Sum it is hybrid training: {"generative": ContrastiveDivergence(),
    "discriminative": Classification()}.
    Examples of unknown label, y = -1, are left out, for semi-supervised training with a contrast over all examples in
    the same Sum. The mean is over the labeled examples of a batch, and 0 if there are none.
    Terms: ``loss``; ``error``, the share of labels that are not the most probable one.
    Larochelle & Bengio (2008), eq. 2 and section 4 for the hybrid; Grathwohl et al. (2020) for deep energies.

    Args:
        block: the label, int64 (B,); the model's conditional of it must be categorical.

    Raises:
        ValueError: at a call, if the batch has no labels, or the model has no categorical conditional of them.

    >>> import torch
    >>> from ebm_lightning.energies import JEM
    >>> jem = JEM(torch.nn.Flatten(), classes=2)  # logits f(x) = x
    >>> terms = Classification()(jem, {"x": torch.zeros(3, 2), "y": torch.tensor([0, 1, -1])}, None)
    >>> round(terms["loss"].item(), 4), terms["error"].item()  # log 2
    (0.6931, 0.5)
    """

    block: str = "y"

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        if self.block not in pos:
            raise ValueError(
                f"Classification needs the labels {self.block!r} of the data, but the batch holds {sorted(pos)}: "
                "train on labeled data"
            )
        y = pos[self.block]
        rest = {name: pos[name] for name in model.variables if name != self.block and name in pos}
        conditional = require(model, GibbsSampleable).conditional(self.block, rest)
        if not isinstance(conditional, CategoricalConditional):
            raise ValueError(
                f"Classification needs a categorical p({self.block} | rest), but that of {type(model).__name__} is a "
                f"{type(conditional).__name__}: name the label"
            )
        known = y >= 0
        number = known.sum().clamp(min=1)
        wrong = known & (conditional.logits.detach().argmax(-1) != y)
        log_prob = torch.where(known, conditional.log_prob(y.clamp(min=0)), 0.0)
        return {"loss": -log_prob.sum() / number, "error": wrong.sum().to(log_prob.dtype) / number}
