"""The contracts that every method keeps: energies, samplers, chains, objectives, and the states they exchange."""

import abc
import inspect
from collections.abc import Iterable
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""Named variables, batch axis first. A batch of data is a partial state.

Names of variables are Python identifiers. A name with a dot, such as "chain.age" or "x.known", is metadata: it travels
with the state, and no variable of a user can have it.
"""


Info = dict[str, Tensor]
"""Diagnostics of a transition: scalars such as energy, grad_norm, accept, clip_share."""


Terms = dict[str, Tensor]
"""What an objective returns: scalars. ``Terms["loss"]`` is differentiated, all are logged under their names."""


Bounds = tuple[float, float]
"""A closed interval of values, lowest first."""


SLOT, AGE = "chain.slot", "chain.age"
"""Metadata of persistent chains, (B,), int64: their slots, and the negative phases they have lived."""


INDEX = "data.index"
"""Metadata of a batch, (B,), int64: the number of each example in its split."""


STEP = "descent.step"
"""Metadata, (B,), int64: the steps that a descent has taken; an energy may depend on it."""


TRAJECTORY, ENERGIES = ".trajectory", ".energies"
"""Metadata, after a variable's name: where each step of a descent ended, (B, steps, ...), and E where it began."""


KNOWN = ".known"
"""Metadata, after a variable's name: a mask, bool in its shape, True for values that are held."""


REPLICAS = ".replicas"
"""Metadata, after a variable's name: its values on the further rungs of a ladder, (B, rungs - 1, ...)."""


class Bounded(abc.ABC):  # noqa: B024  (it declares an attribute, not a method)
    """Something whose values lie in an interval: a DataModule's data, a sampler's clamped positions.

    ``bounds`` is None if the values are unbounded. EBM refuses a sampler and data whose bounds differ.
    """

    bounds: Bounds | None = None


class Schedule(abc.ABC):
    """A number that changes over a run: transitions of CD-k, a learning rate's factor, a momentum."""

    @abc.abstractmethod
    def __call__(self, step: int) -> float:
        """The number at a training step, counted from 0."""


class EnergyModel(nn.Module):
    """An energy E(state), low if the state is likely: p(state) = exp(-E(state)) / Z.

    Subclasses define ``forward(self, x, ...) -> (B,)``; the argument names of ``forward`` are the model's variables.
    Everything else that a model may offer is a protocol of its own, such as :class:`GibbsSampleable`.
    """

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The names of the model's variables, read from the signature of ``forward``."""
        return tuple(inspect.signature(self.forward).parameters)

    def energy(self, state: State) -> Tensor:
        """E(state), shape (B,). Picks this model's variables and ignores whatever else is in the state.

        Metadata that a model declares as a variable, "descent.step", is the argument ``step`` of ``forward``. Under
        autocast the energies come back in float32: means and differences of them need the bits.
        Raises ValueError if a variable is missing from the state.
        """
        missing = [name for name in self.variables if name not in state]
        if missing:
            raise ValueError(
                f"{type(self).__name__} is an energy over {self.variables}, but {missing} is not in the state "
                f"{sorted(state)}: supply it in the batch or in {type(self).__name__}.positive_phase"
            )
        energy = cast(Tensor, self(**{name.rpartition(".")[2]: state[name] for name in self.variables}))
        return energy.float() if energy.dtype in (torch.bfloat16, torch.float16) else energy

    def positive_phase(self, batch: State) -> State:
        """The full state that a batch of data is completed to. A hook; by default the data is the state."""
        return batch

    def check(self, state: State) -> None:
        """Raise ValueError if a batch of data is not what this energy is defined on. A hook."""


class Conditional(abc.ABC):
    """p(block | rest) of an energy model: ``sample()`` is a Gibbs move, ``mean`` a mean-field one."""

    @abc.abstractmethod
    def sample(self) -> Tensor:
        """A draw, in the shape of the block."""

    @property
    @abc.abstractmethod
    def mean(self) -> Tensor:
        """The expectation, in the shape of the block; of a categorical block its probabilities (B, ..., classes)."""

    @abc.abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value | rest) in nats, shape (B,), for ``value`` in the shape of the block."""

    @abc.abstractmethod
    def tempered(self, beta: float | Tensor) -> "Conditional":
        """The distribution proportional to p^beta, for a number or one for each example (B,)."""


class AnnealingPath(abc.ABC):
    """Unnormalized distributions p*_beta from one that is known (beta = 0) to the model's exp(-E) (beta = 1).

    Neal (2001); Salakhutdinov & Murray (2008) for Boltzmann machines.
    """

    log_partition: float
    """log Z of p*_0, in nats."""

    @abc.abstractmethod
    def start(self, n: int) -> State:
        """n exact draws from p_0."""

    @abc.abstractmethod
    def move(self, state: State, begin: float, end: float) -> tuple[State, Tensor]:
        """One reversible transition that leaves p_end invariant, and the log weight of the change of distribution.

        The weight is log p*_end(state) - log p*_begin(state), float64 (n,). ``end`` < ``begin`` goes backwards.
        """


def select_variable(model: EnergyModel, state: State, name: str) -> Tensor:
    """The value of one of the model's variables. Raises ValueError if model or state has no such name."""
    if name not in model.variables or name not in state:
        raise ValueError(
            f"{name!r} is to be moved or scored, but {type(model).__name__} is an energy over {model.variables} and "
            f"the state holds {sorted(state)}: name a variable of both"
        )
    return state[name]


def check_names(owner: object, names: Iterable[str], metadata: Iterable[str] = ()) -> None:
    """Raise ValueError if a variable has a name that is no identifier, which metadata alone may have."""
    wrong = [name for name in names if not name.isidentifier() and name not in metadata]
    if wrong:
        raise ValueError(
            f"{type(owner).__name__} names the variable {wrong[0]!r}: expected a Python identifier such as 'x'; names "
            "with a dot are kept for metadata of chains and samplers, so rename it"
        )


class Noise(abc.ABC):
    """A distribution over one variable: where chains start, what noise-contrastive estimation compares with."""

    @abc.abstractmethod
    def sample(self, like: Tensor) -> Tensor:
        """Independent draws in the shape, dtype and device of ``like`` (B, ...)."""

    @abc.abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x) in nats, shape (B,); -inf outside the support."""

    def initial(self, state: State, name: str) -> Tensor:
        """The initial value of a variable of each chain of a state. A hook, for noise that depends on a label."""
        return self.sample(state[name])

    def fit(self, batches: Iterable[State]) -> None:  # noqa: B027  (a hook)
        """Fit to one pass over the training data, before the first training step. A hook.

        A noise that is fitted is an nn.Module with its numbers in buffers: EBM keeps them in the checkpoint.
        """


class Sampler(Bounded):
    """A Markov kernel: one transition of the variables in ``free``; every other variable is clamped.

    Final subclasses are frozen dataclasses, or nn.Modules if the step size is learned. A sampler sees neither
    optimizer nor trainer, and no method of it but :meth:`load_state_dict` assigns to itself.
    """

    free: tuple[str, ...]

    @property
    def block(self) -> str:
        """The one free variable of a gradient sampler. Raises ValueError if ``free`` does not name exactly one."""
        if len(self.free) != 1:
            raise ValueError(
                f"{type(self).__name__}(free={self.free!r}) moves exactly one variable: name one, such as ('x',), "
                "and leave the others clamped"
            )
        return self.free[0]

    def augment_state(self, state: State) -> State:
        """The state with the auxiliary variables that this kernel moves beside the model's, such as replicas. A hook.

        They are free variables like any other: chains start them and, if chains persist, keep them.
        """
        return state

    def energy_input(self, state: State) -> State:
        """The state at which a step from here would evaluate the energy, without the step's noise. A hook.

        By default the state itself; for a sampler that moves logits their probabilities.
        """
        return state

    @abc.abstractmethod
    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        """One transition from ``state``; clamped tensors come back as the same objects.

        If ``with_info`` is False, the info may be omitted to save time.
        """

    @property
    def stateful(self) -> bool:
        """Whether :meth:`state_dict` holds anything: then it is saved with each checkpoint, one per rank."""
        return type(self).state_dict is not Sampler.state_dict

    def state_dict(self) -> State:
        """What must survive if a run is to continue: tensors by name, as they lie now. Empty by default."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Restore what :meth:`state_dict` gave; ranks that are new get rank 0's."""


class AdaptiveSampler(Sampler):
    """A kernel that follows the model while it learns: what it has adapted to is its state."""

    @abc.abstractmethod
    def update(self, model: EnergyModel) -> None:
        """Called once in every training step, when the gradients are there and the parameters have not moved yet."""


class Chains(abc.ABC):
    """Where negatives start, and what survives a negative phase.

    ``init`` is the initial distribution of a chain; None starts it at the data.
    """

    init: Noise | None = None

    @abc.abstractmethod
    def start(self, pos: State, free: tuple[str, ...]) -> State:
        """The state in which the negative phase starts, for a positive phase ``pos``; nothing in it has a graph."""

    @abc.abstractmethod
    def finish(self, end: State) -> None:
        """Take back the end of the chains that ``start`` began; called once for every ``start``."""

    @property
    def stateful(self) -> bool:
        """Whether :meth:`state_dict` holds anything: then it is saved with each checkpoint, one per rank."""
        return type(self).state_dict is not Chains.state_dict

    def state_dict(self) -> State:
        """This rank's chains, if they persist: tensors by name. Empty by default and before the first step."""
        return {}

    def load_state_dict(self, state: State) -> None:  # noqa: B027  (a hook)
        """Restore what :meth:`state_dict` or :meth:`merge_state_dicts` gave."""

    def merge_state_dicts(self, states: list[State], rank: int, world_size: int) -> State:
        """The state of this rank, from those of all ranks of a checkpoint, which may have been more or fewer.

        By default a rank's own, and an empty one for a rank that is new.
        """
        return states[rank] if rank < len(states) else {}

    def to(self, device: torch.device) -> None:  # noqa: B027  (a hook)
        """Move the chains to where they are kept; called once before training."""

    def info(self) -> Info:
        """Diagnostics of chains that persist, logged as ``chains/<name>``: scalars. Empty by default."""
        return {}

    def examples(self, n: int) -> State:
        """Up to ``n`` chains that persist, for pictures and histograms. Empty by default."""
        return {}


class Objective(abc.ABC):
    """The contrast of positive and negative phase. It owns no sampler; ``neg`` is None without one."""

    predicts: bool = False
    """Whether its terms measure a prediction, so that validation runs the sampler for them too."""

    @abc.abstractmethod
    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        """The scalars to log; ``["loss"]`` is minimized.

        Each phase is averaged over its own batch before the two are combined.
        """
