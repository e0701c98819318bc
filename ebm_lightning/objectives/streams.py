"""An objective on other data than the rest of a sum."""

from dataclasses import dataclass

from ebm_lightning.core import EnergyModel, Objective, State, Terms


@dataclass(frozen=True)
class FromStream(Objective):
    """An objective on a further stream of the data: ``x_<stream>`` takes the place of x, and so for every variable.

    In one Sum the term of p(y | x) may so use augmented images and that of p(x) plain ones, or each a batch of its own:
    {"generative": ContrastiveDivergence(), "discriminative": FromStream(Classification(), "labeled")}. The chains are
    the same for all parts; what the model completes of the data is that of the batch's own variables.
    SADA-JEM for plain and augmented images; Grathwohl et al. (2020), whose released code draws two batches.
    Terms: those of the objective.

    Args:
        objective: what is computed on the stream.
        stream: its name, as the data have it: Images(streams={"labeled": DataStream(...)}).

    Raises:
        ValueError: at a call, where the batch has no variable of the stream.
    """

    objective: Objective
    stream: str

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        end = f"_{self.stream}"
        drawn = {name.removesuffix(end): value for name, value in pos.items() if name.endswith(end)}
        if not drawn:
            raise ValueError(
                f"FromStream(stream={self.stream!r}) finds no variable x{end} or the like in the batch, which holds "
                f"{sorted(pos)}: give the data a stream of that name, as in Images(streams={{{self.stream!r}: ...}})"
            )
        return self.objective(model, {**pos, **drawn}, neg)
