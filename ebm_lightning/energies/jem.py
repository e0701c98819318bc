"""Joint energy-based models: a classifier as an energy, JEM (Grathwohl et al. 2020)."""

from typing import cast

import torch
from torch import Tensor, nn

from ebm_lightning.core import Conditional, EnergyModel, State, select_variable
from ebm_lightning.distributions.conditionals import CategoricalConditional

UNLABELED = -1
"""The label y of an example whose label is not known."""


class JEM(EnergyModel):
    """E(x) = -logsumexp_y f(x)[y]: a classifier f as an energy over the data, the label summed out.

    p(x, y) = exp(f(x)[y]) / Z has the marginal exp(-E(x)) / Z and the conditional p(y | x) = softmax(f(x)), which does
    not depend on Z: the same weights are a density, trained by a contrast, and a classifier, trained by
    Classification. :class:`JointJEM` is the energy of p(x, y). Grathwohl et al. (2020), eq. 5 to 7.

    Args:
        net: the classifier, x (B, ...) -> logits (B, classes).
        classes: the number of labels, at least 2; y is int64 in 0..classes-1, or -1 if it is not known.

    Raises:
        ValueError: if ``classes`` < 2; at a call, if the output of the net is not (B, classes).

    >>> import torch
    >>> jem = JEM(torch.nn.Flatten(), classes=2)  # logits f(x) = x
    >>> state = {"x": torch.zeros(1, 2)}
    >>> round(jem.energy(state).item(), 4), jem.conditional("y", state).mean.tolist()  # -log 2
    (-0.6931, [[0.5, 0.5]])
    """

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"JEM(classes={classes}): expected at least 2 classes")
        self.net, self.classes = net, classes

    def forward(self, x: Tensor) -> Tensor:
        """E(x), shape (B,)."""
        return -self.logits(x).logsumexp(1)

    def logits(self, x: Tensor) -> Tensor:
        """f(x), shape (B, classes). Raises ValueError if the output of the net has any other shape."""
        out = cast(Tensor, self.net(x))
        if out.shape != (len(x), self.classes):
            raise ValueError(
                f"JEM(classes={self.classes}) expects its net to give one logit per example and class, shape "
                f"({len(x)}, {self.classes}), got {tuple(out.shape)}: give the net {self.classes} outputs"
            )
        return out

    def conditional(self, block: str, state: State) -> Conditional:
        """p(y | x), categorical. Raises ValueError for any other block."""
        _require_label(self, block)
        return CategoricalConditional(self.logits(select_variable(self, state, "x")))

    def check(self, state: State) -> None:
        """Raise ValueError if a label of the batch is not one of this model's classes."""
        if "y" in state:
            check_labels(state["y"], self.classes)


class JointJEM(EnergyModel):
    """E(x, y) = -f(x)[y]: a classifier f as an energy over data and labels; with y clamped, of x given y.

    For an example of unknown label, y = -1, the label is summed out: its energy is E(x) = -logsumexp_y f(x)[y], that of
    :class:`JEM`. So a batch may be partly labeled, ``positive_phase`` sets the label of unlabeled data to -1, and
    ``Marginal`` of a contrast is the term of p(x) besides those of p(x, y) and p(y | x). SampleBuffer(keep=("y",))
    keeps the labels with their chains.

    Args:
        jem: the classifier; its weights are shared.

    >>> import torch
    >>> energy = JointJEM(JEM(torch.nn.Flatten(), classes=2))  # logits f(x) = x
    >>> x = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    >>> [round(e, 4) for e in energy(x, y=torch.tensor([1, -1])).tolist()]  # -f(x)[1]; -log 2
    [-2.0, -0.6931]
    """

    def __init__(self, jem: JEM) -> None:
        super().__init__()
        self.jem = jem

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """E(x, y), shape (B,). The values of y are not validated here but in ``check``."""
        # Validation would synchronize with the device at every step.
        logits = self.jem.logits(x)
        joint = logits.gather(1, y.clamp(min=0)[:, None])[:, 0]
        return -torch.where(y < 0, logits.logsumexp(1), joint)

    def check(self, state: State) -> None:
        """Raise ValueError if a label of the batch is neither one of this model's classes nor -1."""
        self.jem.check(state)

    def positive_phase(self, batch: State) -> State:
        """The batch, with y = -1 if it has no labels."""
        if "y" in batch:
            return batch
        x = batch["x"]
        return {**batch, "y": torch.full((len(x),), UNLABELED, device=x.device)}

    def conditional(self, block: str, state: State) -> Conditional:
        """p(y | x), categorical. Raises ValueError for any other block."""
        _require_label(self, block)
        return self.jem.conditional(block, state)


def _require_label(model: EnergyModel, block: str) -> None:
    """Raise ValueError if the block of a conditional is not the label."""
    if block != "y":
        raise ValueError(f"{type(model).__name__} has only p(y | x), no conditional for {block!r}: sample x by SGLD")


def check_labels(y: Tensor, classes: int) -> None:
    """Raise ValueError if y is not int64 (B,) in 0..classes-1 or -1."""
    if y.dtype != torch.int64 or y.ndim != 1 or not bool(((y >= UNLABELED) & (y < classes)).all()):
        raise ValueError(
            f"JEM(classes={classes}) takes as y whole numbers 0..{classes - 1} of dtype int64, one for each example, "
            f"or -1 if the label is not known, got {y.dtype} of shape {tuple(y.shape)} from {float(y.min()):g} to "
            f"{float(y.max()):g}: give labels, not one-hot vectors, and as many classes as the data have"
        )
