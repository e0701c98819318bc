"""An objective on a further stream of data."""

from dataclasses import dataclass

from ebm_lightning.core import EnergyModel, Objective, State, Terms


@dataclass(frozen=True)
class FromStream(Objective):
    """An objective on a further stream of the data: ``x_<stream>`` replaces x, and so on for every variable.

    In a Sum the terms of p(y | x) and p(x) can then have different data, such as augmented and plain images, or two
    batches: {"generative": ContrastiveDivergence(), "discriminative": FromStream(Classification(), "labeled")}. The
    chains are the same for all parts; variables added by the positive phase are those of the batch's own data.
    SADA-JEM for plain and augmented images; Grathwohl et al. (2020), whose released code draws two batches.
    Terms: those of the objective.

    Args:
        objective: the objective on the stream.
        stream: its name in the data, as in Images(streams={"labeled": DataStream(...)}).

    Raises:
        ValueError: at a call, if the batch has no variable of the stream.

    >>> import torch
    >>> from ebm_lightning.energies import JEM
    >>> from ebm_lightning.objectives import Classification
    >>> jem = JEM(torch.nn.Flatten(), classes=2)  # logits f(x) = x
    >>> batch = {"x": torch.zeros(3, 2), "x_labeled": torch.zeros(1, 2), "y_labeled": torch.tensor([0])}
    >>> round(FromStream(Classification(), "labeled")(jem, batch, None)["loss"].item(), 4)  # log 2
    0.6931
    """

    objective: Objective
    stream: str

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        end = f"_{self.stream}"
        stream = {name.removesuffix(end): value for name, value in pos.items() if name.endswith(end)}
        if not stream:
            raise ValueError(
                f"FromStream(stream={self.stream!r}) finds no variable x{end} or the like in the batch, which holds "
                f"{sorted(pos)}: give the data a stream of that name, as in Images(streams={{{self.stream!r}: ...}})"
            )
        return self.objective(model, {**pos, **stream}, neg)
