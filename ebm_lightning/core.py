"""The contract: what an energy model, a sampler, chains and an objective are, and the one loop that runs a sampler.

Every method of this library compares what the world shows (positive phase) with what the model imagines (negative
phase). This module names the parts of that sentence and depends on torch alone.
"""

import abc
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""Named variables, batch axis first. A batch of data is a partial state; what no model reads rides along."""

Info = dict[str, Tensor]
"""What a person wants to see of a transition: scalars such as energy, grad_norm, accept, clip_share."""

Terms = dict[str, Tensor]
"""What an objective returns: scalars. ``Terms["loss"]`` is differentiated, all are logged under their names."""

Bounds = tuple[float, float]
"""A closed interval of values, lowest first."""


class Bounded(abc.ABC):  # noqa: B024  (it declares an attribute, not a method)
    """Something whose values lie in an interval: a DataModule's data, a sampler's clamped positions.

    ``bounds`` is None where the values are unbounded. EBM refuses a sampler and data whose bounds differ.
    """

    bounds: Bounds | None = None


class Schedule(abc.ABC):
    """A number that changes over a run: transitions of CD-k, a learning rate's factor, a momentum."""

    @abc.abstractmethod
    def __call__(self, step: int) -> float:
        """The number at a training step, counted from 0."""


class EnergyModel(nn.Module):
    """An energy E(state), low where the state is likely: p(state) ~ exp(-E(state)).

    Subclasses define ``forward(self, x, ...) -> (B,)``; the argument names of ``forward`` are the model's variables.
    """

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The names of the model's variables, read from the signature of ``forward``."""
        return tuple(inspect.signature(self.forward).parameters)

    def energy(self, state: State) -> Tensor:
        """E(state), shape (B,). Picks this model's variables and ignores whatever else rides in the state.

        Under autocast the energies come back in float32: means and differences of them need the bits.
        Raises ValueError where a variable is missing from the state.
        """
        missing = [name for name in self.variables if name not in state]
        if missing:
            raise ValueError(
                f"{type(self).__name__} is an energy over {self.variables}, but {missing} is not in the state "
                f"{sorted(state)}: supply it in the batch or in {type(self).__name__}.positive_phase"
            )
        energy = cast(Tensor, self(**{name: state[name] for name in self.variables}))
        return energy.float() if energy.dtype in (torch.bfloat16, torch.float16) else energy

    def energies(self, *states: State) -> tuple[Tensor, ...]:
        """E of several states, one tensor (B,) for each: a hook, for models that are faster in one pass over all."""
        return tuple(self.energy(state) for state in states)

    def local_energies(self, state: State) -> Tensor:
        """Energies (B, ...) by which one of several candidates is chosen: one for each part that is chosen alone.

        A hook, for models whose energy is a sum over positions of which none sees the candidate of another; by default
        the energy (B,), one choice for each example. Raises ValueError where a variable is missing from the state.
        """
        return self.energy(state)

    def value(self, state: State, name: str) -> Tensor:
        """The value of one of this model's variables. Raises ValueError where model or state has no such name."""
        if name not in self.variables or name not in state:
            raise ValueError(
                f"{name!r} is to be moved or scored, but {type(self).__name__} is an energy over {self.variables} and "
                f"the state holds {sorted(state)}: name a variable of both"
            )
        return state[name]

    def positive_phase(self, batch: State) -> State:
        """Positive phase: turns a batch of data into a full state. A hook; by default the data is the state."""
        return batch

    def free_energy(self, batch: State) -> Tensor:
        """-log p*(batch), shape (B,): the energy with whatever a batch of data does not hold summed out. A hook.

        By default the energy of the completed batch, which is exact where that adds no variable of the model.
        """
        return self.energy(self.positive_phase(batch))

    @property
    def bounds_log_prob(self) -> bool:
        """Whether :meth:`free_energy` is an upper bound of -log p*, and so bounds log p from below: a hook."""
        return False

    def conditional(self, block: str, state: State) -> "Conditional":
        """p(block | every other variable): a hook, defined only by models that can be Gibbs-sampled.

        Raises ValueError where this model has no such conditional.
        """
        raise ValueError(
            f"{type(self).__name__} has no conditional for {block!r}, so it cannot be Gibbs-sampled: "
            "use a gradient sampler such as Langevin or HMC"
        )

    def ancestral_sample(self, state: State, free: tuple[str, ...]) -> State:
        """An exact draw of the variables in ``free`` given the others, one for each example of ``state``.

        A hook of directed models, which draw from the causes down to the data. Raises ValueError where this model has
        no such draw.
        """
        raise ValueError(
            f"{type(self).__name__} cannot dream of {free}: only a directed model such as HelmholtzMachine is drawn "
            "from without a chain, so use a sampler that walks, such as Gibbs or Langevin"
        )

    def recognition_energy(self, state: State) -> Tensor:
        """-log q(hidden | data) in nats, (B,), for the q that ``positive_phase`` draws from: a hook.

        Raises ValueError where ``positive_phase`` draws from no distribution with a known density.
        """
        raise ValueError(
            f"{type(self).__name__} has no recognition model q(hidden | data): use a model that has one, such as "
            "HelmholtzMachine"
        )

    def check(self, state: State) -> None:
        """A hook: raises ValueError where a batch of data is not what this energy is defined on."""

    def initialize(self, batches: Iterable[State]) -> None:
        """A hook, called once before the first training step: sets what depends on the training data as a whole.

        ``batches`` is one pass over the training data.
        """

    def tempered(self, beta: float | Tensor) -> "EnergyModel":
        """The energy of p^beta, at the inverse temperature ``beta`` >= 0: a number, or one for each example (B,).

        It shares the parameters. Models whose Gibbs sampler moves variables that the energy sums out temper the joint
        energy instead, so that conditionals and energy stay those of one distribution.
        """
        return TemperedEnergy(self, beta)

    def log_partition(self, largest: int = 25) -> Tensor:
        """log Z in nats, exactly: a float64 scalar, in closed form or by enumeration of at most 2^``largest`` states.

        A hook. Raises ValueError where it is not known, or where the enumeration would be larger.
        """
        raise ValueError(f"{type(self).__name__} has no exact log Z: estimate it by AIS")

    def annealing_path(self, batches: Iterable[State] | None = None) -> "AnnealingPath":
        """From a distribution with a known log Z to this one: a hook, for models that AIS can anneal.

        ``batches`` is a pass over the training data from which the beginning of the path may be fitted; with None the
        model fits it to its own parameters. Raises ValueError where no path is known.
        """
        raise ValueError(f"{type(self).__name__} has no annealing path, so AIS cannot estimate its log Z")

    def filters(self, block: str) -> Tensor:
        """What each hidden unit or expert looks for in a variable, (units, ...) in its shape: a hook, for pictures."""
        raise ValueError(f"{type(self).__name__} has no filters on {block!r} to look at")


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
        """The distribution ~ p^beta, for a number or one for each example (B,)."""


class TemperedEnergy(EnergyModel):
    """beta E(state): the energy of p^beta, whose conditionals are those of p to the power of beta.

    Args:
        model: the energy; its parameters are shared.
        beta: inverse temperature >= 0, a number or one for each example (B,).
    """

    def __init__(self, model: EnergyModel, beta: float | Tensor) -> None:
        super().__init__()
        self.model, self.beta = model, beta
        self.variables = model.variables

    def forward(self, **state: Tensor) -> Tensor:
        return self.beta * self.model.energy(state)

    def conditional(self, block: str, state: State) -> Conditional:
        return self.model.conditional(block, state).tempered(self.beta)


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
        """One transition that leaves p_end invariant, and what the change of distribution weighs at ``state``.

        The weight is log p*_end(state) - log p*_begin(state), float64 (n,). The transition is reversible. Called with
        ``end`` < ``begin`` it walks backwards.
        """


class Noise(abc.ABC):
    """A fixed distribution over one variable: where chains begin, what noise-contrastive estimation compares with."""

    @abc.abstractmethod
    def sample(self, like: Tensor) -> Tensor:
        """Independent draws in the shape, dtype and device of ``like`` (B, ...)."""

    @abc.abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x) in nats, shape (B,); -inf outside the support."""

    def initial(self, state: State, name: str) -> Tensor:
        """Where a variable of each chain of a state begins, in its shape: a hook, for noise that looks at a label."""
        return self.sample(state[name])

    def fit(self, batches: Iterable[State]) -> None:  # noqa: B027  (a hook)
        """A hook, called once before the first training step, with one pass over the training data.

        A noise that is fitted is an nn.Module with its numbers in buffers: EBM keeps them in the checkpoint.
        """


class Sampler(Bounded):
    """A Markov kernel: one transition of the variables in ``free``; every other variable is clamped.

    Final subclasses are frozen dataclasses, or nn.Modules where the step size is learned. A sampler sees neither
    optimizer nor trainer, and no method of it assigns to itself.
    """

    free: tuple[str, ...]

    lr_multiplier: float = 1.0
    """Of the optimizer's learning rate, for the parameters of a sampler that learns."""

    min_lr_ratio: float = 0.0
    """The share of that rate below which a schedule does not take it, in [0, 1]; a warm-up begins at 0 all the same."""

    @property
    def block(self) -> str:
        """The one free variable of a gradient sampler. Raises ValueError where ``free`` does not name exactly one."""
        if len(self.free) != 1:
            raise ValueError(
                f"{type(self).__name__}(free={self.free!r}) moves exactly one variable: name one, such as ('x',), "
                "and leave the others clamped"
            )
        return self.free[0]

    def augment_state(self, state: State) -> State:
        """Adds the auxiliary variables that this kernel moves beside the model's, such as replicas: a hook.

        They are free variables like any other: chains start them and, where chains persist, keep them.
        """
        return state

    def energy_input(self, state: State) -> State:
        """The state at which a step from here would take the energy, without the step's noise: a hook.

        By default the state itself; a sampler that moves logits shows the energy their probabilities.
        """
        return state

    @abc.abstractmethod
    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        """One transition from ``state``; clamped tensors come back as the same objects."""


class AdaptiveSampler(Sampler):
    """A kernel that follows the model as it learns, and so has a memory, which is part of a checkpoint."""

    @abc.abstractmethod
    def follow(self, model: EnergyModel) -> None:
        """Called once in every training step, when the gradients are there and the parameters have not moved yet."""

    @abc.abstractmethod
    def memory(self) -> State:
        """What must survive for a run to continue: tensors by name. An empty dict before the first step."""

    @abc.abstractmethod
    def recall(self, memory: State) -> None:
        """Takes up the memory of a checkpoint."""


class Chains(abc.ABC):
    """Where imagining begins, and what survives it.

    ``noise`` is where chains are born, None where they begin at the data.
    """

    noise: Noise | None = None

    @abc.abstractmethod
    def start(self, pos: State, free: tuple[str, ...]) -> State:
        """The state in which the negative phase starts, for a positive phase ``pos``; nothing in it has a graph."""

    @abc.abstractmethod
    def finish(self, end: State) -> None:
        """Takes back the end of the chains that ``start`` began; called once for every ``start``."""


class Objective(abc.ABC):
    """How the positive and the negative phase are compared. It owns no sampler; ``neg`` is None without one."""

    predicts: bool = False
    """Whether its terms judge a prediction, so that validation samples for them too: those of a contrast say little."""

    @abc.abstractmethod
    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        """The scalars to log; ``["loss"]`` is descended. Each phase is reduced over its batch before the two meet."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode, and every part of it back into its own mode afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Gives a module's buffers, such as the statistics of training, the values back that they had before."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def energy_grad(model: EnergyModel, state: State, block: str) -> tuple[Tensor, Tensor]:
    """(dE/dblock, E): the gradient in one variable, in its shape, and the detached energies (B,).

    Differentiable exactly when grad mode is on at the call. It works under ``no_grad`` and under ``inference_mode``
    as well, and never fills the ``.grad`` of a parameter. While torch.compile traces a function that calls it, the
    gradient is torch.func's: the compiler cannot differentiate what autograd.grad gives once more.
    """
    if torch.compiler.is_compiling():
        return _energy_grad_by_func(model, state, block)
    differentiable = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        state = {name: value.clone() if value.is_inference() else value for name, value in state.items()}
        x = model.value(state, block)
        if not (differentiable and x.requires_grad):
            x = x.detach().requires_grad_()
        energy = model.energy({**state, block: x})
        (grad,) = torch.autograd.grad(energy.sum(), x, create_graph=differentiable)
    return grad, energy.detach()


_WATCHED = True
"""Whether anyone will look at the info of the transitions that are being taken."""


@contextmanager
def unwatched() -> Iterator[None]:
    """Nobody looks at the info of transitions meanwhile: :func:`report` does not make one."""
    global _WATCHED
    before, _WATCHED = _WATCHED, False
    try:
        yield
    finally:
        _WATCHED = before


def report(energy: Tensor, grad: Tensor, clip: float | Tensor | None = None) -> Info:
    """The info of a gradient step at energies (B,) with gradients (B, ...), or none where nobody looks at it.

    ``energy``, the mean; ``grad_norm``, the mean Euclidean norm of a gradient; with ``clip`` also ``clip_share``, the
    share of gradient elements beyond it.
    """
    if not _WATCHED:
        return {}
    grad = grad.detach()
    info = {
        "energy": energy.detach().mean(),
        "grad_norm": torch.linalg.vector_norm(grad.flatten(1), dim=1).mean(),
    }
    if clip is not None:
        info["clip_share"] = (grad.abs() > clip).to(grad.dtype).mean()
    return info


def _energy_grad_by_func(model: EnergyModel, state: State, block: str) -> tuple[Tensor, Tensor]:
    """:func:`energy_grad` as a compiler can trace it; a gradient flows through it where grad mode is on."""

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        energy = model.energy({**state, block: x})
        return energy.sum(), energy

    grad, (_, energy) = torch.func.grad_and_value(total, has_aux=True)(model.value(state, block))
    return grad, energy.detach()


def trajectory(sampler: Sampler, model: EnergyModel, state: State) -> Iterator[tuple[State, Info]]:
    """The only loop: an endless walk from ``state``; whoever iterates decides when to stop."""
    while True:
        state, info = sampler.step(model, state)
        yield state, info


def run(
    sampler: Sampler, model: EnergyModel, state: State, steps: int, backprop: int = 0, watched: bool = True
) -> tuple[State, Info]:
    """``steps`` transitions, of which the last ``backprop`` stay in the autograd graph (0: SGLD; steps: EBT).

    The info is the mean over the steps of what the sampler reports, and for every free variable of the start
    ``drift_<name>``, the mean over the batch of the Euclidean distance between its start and its end; it is empty where
    ``watched`` says that nobody will look at it.
    Raises ValueError where ``steps`` < 1 or ``backprop`` lies outside 0..steps.
    """
    if steps < 1 or not 0 <= backprop <= steps:
        raise ValueError(f"run(steps={steps}, backprop={backprop}): expected steps >= 1 and 0 <= backprop <= steps")
    walk, infos, end = trajectory(sampler, model, state), [], state
    with nullcontext() if watched else unwatched():
        for k in range(steps):
            with torch.set_grad_enabled(k >= steps - backprop):
                end, info = next(walk)
            if watched:
                infos.append(info)
    if not watched:
        return end, {}
    with torch.no_grad():
        summary = {name: torch.stack([info[name].detach() for info in infos]).mean() for name in infos[0]}
        for name in [name for name in sampler.free if name in state]:
            moved = (end[name] - state[name]).float().reshape(len(state[name]), -1)
            summary[f"drift_{name}"] = torch.linalg.vector_norm(moved, dim=1).mean()
    return end, summary
