"""An objective on other data than the rest of a sum sees."""

from dataclasses import dataclass

from ebm_lightning.core import EnergyModel, Objective, State, Terms


@dataclass(frozen=True)
class On(Objective):
    """An objective whose variables of the data come from others of the batch, such as those of a further stream.

    In one Sum the term of p(y | x) may so see augmented images and that of p(x) plain ones, or each a batch of its own:
    On(Classification(), {"x": "x_labelled", "y": "y_labelled"}). The chains are the same for all parts. What the model
    completes of the data belongs to the batch as it comes, so that the names must cover every variable of the data.
    SADA-JEM for plain and augmented images; Grathwohl et al. (2020), whose released code draws two batches.
    Terms: those of the objective.

    Args:
        objective: what is computed on the data named.
        names: for a variable of the model, the variable of the batch that takes its place.

    Raises:
        ValueError: at a call, where the batch has no such variable.
    """

    objective: Objective
    names: dict[str, str]

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        missing = sorted(set(self.names.values()) - set(pos))
        if missing:
            raise ValueError(
                f"On(names={self.names}) looks for {missing}, but the batch holds {sorted(pos)}: give the data such a "
                "stream, as in Images(streams={'labelled': ...}), or name another variable"
            )
        return self.objective(model, {**pos, **{name: pos[other] for name, other in self.names.items()}}, neg)
