"""Class-conditional energies: one energy model for each class."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebm_lightning.core import (
    AncestralSampleable,
    Conditional,
    DataInitialized,
    EnergyModel,
    GibbsSampleable,
    HasReceptiveFields,
    HasRecognition,
    State,
    require,
    tempered,
)


class PerClass(EnergyModel):
    """E(x, y) = E_y(x): ``classes`` models of one kind, each trained on the examples of its own class only.

    The label y is clamped: leave it out of the sampler's ``free``. Then contrastive divergence fits every p(x | y) =
    exp(-E_y(x)) / Z_y. It does not fit p(y | x), proportional to p(y) exp(-E_y(x)) / Z_y: the energies of two models
    are comparable only if their log Z are known. So there is no conditional of y; a logistic regression on ``scores``,
    whose biases absorb the log Z, classifies instead (the protocol ScoreClassifier; Hinton 2002, section 10; Mayraz &
    Hinton 2000).

    The models are copies of one template and start from the same weights. This is harmless, since no two of them are
    trained on the same example. A class without an example in a batch gets no gradient from it; data-parallel training
    then needs the strategy ddp_find_unused_parameters_true.

    Args:
        model: the template, an energy without a variable y.
        classes: the number of labels, at least 2; y is int64 in 0..classes-1.

    Raises:
        ValueError: if ``classes`` < 2, or the template has a variable y.

    >>> import torch
    >>> from ebm_lightning.energies import DoubleWell
    >>> energy = PerClass(DoubleWell(), classes=2)
    >>> energy.energy({"x": torch.tensor([[0.0], [1.0]]), "y": torch.tensor([0, 1])}).tolist()
    [1.0, 0.0]
    """

    def __init__(self, model: EnergyModel, classes: int) -> None:
        super().__init__()
        if classes < 2 or "y" in model.variables:
            raise ValueError(
                f"PerClass(model={type(model).__name__} over {model.variables}, classes={classes}): expected at least "
                "2 classes, and a model without a variable y"
            )
        self.models = nn.ModuleList(copy.deepcopy(model) for _ in range(classes))
        self.variables = (*model.variables, "y")

    @property
    def classes(self) -> int:
        return len(self.models)

    def of_class(self, label: int) -> EnergyModel:
        """E_label, the model of one class."""
        model = self.models[label]
        assert isinstance(model, EnergyModel)
        return model

    def forward(self, **state: Tensor) -> Tensor:
        """E_y(x), shape (B,)."""
        return joined([(rows, self.of_class(label).energy(part)) for label, rows, part in self.split(state)])

    def scores(self, state: State) -> Tensor:
        """-E_c of every class c, shape (B, classes): log p(x | c) up to the unknown log Z_c. It needs no labels."""
        return torch.stack([-self.of_class(label).energy(state) for label in range(self.classes)], 1)

    def split(self, state: State) -> list[tuple[int, Tensor, State]]:
        """For each class in the batch: its label, its rows, and the state of these rows without y.

        Raises ValueError if the state has no y, or a value of y is not a label.
        """
        if "y" not in state:
            raise ValueError(
                f"PerClass needs the label 'y' of every example, but the state has {sorted(state)}: train on labeled "
                "data, and leave y out of the sampler's free variables"
            )
        y = state["y"]
        if y.is_floating_point() or y.ndim != 1 or not bool(((y >= 0) & (y < self.classes)).all()):
            raise ValueError(
                f"PerClass(classes={self.classes}) takes as y whole numbers 0..{self.classes - 1} of dtype int64, one "
                f"for each example, got {y.dtype} of shape {tuple(y.shape)} from {float(y.min()):g} to "
                f"{float(y.max()):g}: give labels, not one-hot vectors"
            )
        counts = torch.bincount(y, minlength=self.classes).tolist()
        rows = torch.split(torch.argsort(y, stable=True), counts)
        rest = {name: value for name, value in state.items() if name != "y"}
        return [
            (label, own, {name: value[own.to(value.device)] for name, value in rest.items()})
            for label, own in enumerate(rows)
            if len(own)
        ]

    def positive_phase(self, batch: State) -> State:
        """The positive phase of each example under the model of its class."""
        completed = [(rows, self.of_class(label).positive_phase(part)) for label, rows, part in self.split(batch)]
        names = completed[0][1]
        return {**batch, **{name: joined([(rows, part[name]) for rows, part in completed]) for name in names}}

    def conditional(self, block: str, state: State) -> "RowConditional":
        """p(block | rest) for a block of the template, such as h or x of an RBM. Raises ValueError for y."""
        if block == "y":
            raise ValueError(
                "PerClass has no p(y | x): it depends on the log Z of every class, which are unknown. Clamp y, and "
                "classify by the protocol ScoreClassifier"
            )
        parts = [
            (rows, require(self.of_class(label), GibbsSampleable).conditional(block, part))
            for label, rows, part in self.split(state)
        ]
        return RowConditional(parts)

    def ancestral_sample(self, state: State, free: tuple[str, ...]) -> State:
        """An exact draw from the model of each example's class. Raises ValueError if ``free`` contains y."""
        if "y" in free:
            raise ValueError(f"PerClass cannot draw the label 'y': leave it out of free={free}, it is clamped")
        samples = [
            (rows, require(self.of_class(label), AncestralSampleable).ancestral_sample(part, free))
            for label, rows, part in self.split(state)
        ]
        return {**state, **{name: joined([(rows, part[name]) for rows, part in samples]) for name in free}}

    def recognition_energy(self, state: State) -> Tensor:
        """-log q(latents | data) of the model of each example's class, in nats, (B,)."""
        return joined(
            [
                (rows, require(self.of_class(label), HasRecognition).recognition_energy(part))
                for label, rows, part in self.split(state)
            ]
        )

    def tempered(self, beta: float | Tensor) -> EnergyModel:
        """The models at the inverse temperature ``beta``, each in its own tempered form."""
        return TemperedPerClass(self, beta)

    def check(self, state: State) -> None:
        """Raise ValueError if an example is not what the model of its class is defined on."""
        for label, _, part in self.split(state):
            self.of_class(label).check(part)

    def initialize(self, batches: Iterable[State]) -> None:
        """Initialize each model from the training data of its class, which are held in memory meanwhile.

        Raises ValueError if a class has no training data.
        """
        if not isinstance(self.of_class(0), DataInitialized):
            return
        own: list[list[State]] = [[] for _ in range(self.classes)]
        for batch in batches:
            for label, _, part in self.split(batch):
                own[label].append(part)
        absent = [label for label, parts in enumerate(own) if not parts]
        if absent:
            raise ValueError(
                f"PerClass(classes={self.classes}) has nothing to fit the classes {absent} to: expected training "
                "examples of every class"
            )
        for label, parts in enumerate(own):
            require(self.of_class(label), DataInitialized).initialize(parts)

    def filters(self, block: str) -> Tensor:
        """The filters of all models, class after class: (classes x units, ...)."""
        return torch.cat(
            [require(self.of_class(label), HasReceptiveFields).filters(block) for label in range(self.classes)]
        )


class TemperedPerClass(EnergyModel):
    """The models of a :class:`PerClass` at an inverse temperature, each in its own tempered form.

    Args:
        per_class: the models; their parameters are shared.
        beta: inverse temperature >= 0, a number or one for each example (B,).
    """

    def __init__(self, per_class: PerClass, beta: float | Tensor) -> None:
        super().__init__()
        self.per_class, self.beta = per_class, beta
        self.variables = per_class.variables

    def forward(self, **state: Tensor) -> Tensor:
        return joined([(rows, model.energy(part)) for rows, model, part in self._split(state)])

    def conditional(self, block: str, state: State) -> Conditional:
        if block == "y":
            return self.per_class.conditional(block, state)
        return RowConditional(
            [
                (rows, require(model, GibbsSampleable).conditional(block, part))
                for rows, model, part in self._split(state)
            ]
        )

    def _split(self, state: State) -> list[tuple[Tensor, EnergyModel, State]]:
        return [
            (rows, tempered(self.per_class.of_class(label), of_rows(self.beta, rows)), part)
            for label, rows, part in self.per_class.split(state)
        ]


@dataclass(frozen=True)
class RowConditional(Conditional):
    """A conditional that differs between groups of examples: ``parts`` are pairs of rows and their distribution."""

    parts: list[tuple[Tensor, Conditional]]

    @property
    def mean(self) -> Tensor:
        return joined([(rows, part.mean) for rows, part in self.parts])

    def sample(self) -> Tensor:
        return joined([(rows, part.sample()) for rows, part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        return joined([(rows, part.log_prob(value[rows])) for rows, part in self.parts])

    def tempered(self, beta: float | Tensor) -> "RowConditional":
        return RowConditional([(rows, part.tempered(of_rows(beta, rows))) for rows, part in self.parts])


def joined(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """One tensor (B, ...) from pairs of rows and their values; the rows together are a permutation of 0..B-1."""
    values = torch.cat([value for _, value in parts])
    return values[torch.argsort(torch.cat([rows for rows, _ in parts])).to(values.device)]


def of_rows(beta: float | Tensor, rows: Tensor) -> float | Tensor:
    """The inverse temperature of some rows: ``beta`` itself if it is a number, its ``rows`` if it is (B,)."""
    return beta[rows] if isinstance(beta, Tensor) and beta.ndim == 1 else beta
