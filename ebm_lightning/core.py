"""The contracts: energy models, samplers, chains and objectives, and the one loop that runs a sampler.

Every method of this library trains an energy by contrasting data with samples from the model. This module names the
parts of that sentence and depends on torch alone. What only some models offer is a small protocol of its own, found by
``isinstance`` if it is needed: see :func:`require`.
"""

import abc
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

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

P = TypeVar("P")


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


@runtime_checkable
class GibbsSampleable(Protocol):
    """A model whose conditionals are known: Gibbs sampling, mean field, classification by p(y | x)."""

    def conditional(self, block: str, state: State) -> Conditional:
        """p(block | every other variable). Raises ValueError if this model has no such conditional."""


@runtime_checkable
class AncestralSampleable(Protocol):
    """A directed model: exact draws from the latents down to the data."""

    def ancestral_sample(self, state: State, free: tuple[str, ...]) -> State:
        """An exact draw of the variables in ``free`` given the others, one for each example of ``state``."""


@runtime_checkable
class HasRecognition(Protocol):
    """A model whose ``positive_phase`` draws its latents from a recognition model q(latents | data)."""

    def recognition_energy(self, state: State) -> Tensor:
        """-log q(latents | data) in nats, (B,)."""


@runtime_checkable
class HasFreeEnergy(Protocol):
    """A model that sums out, exactly or with a bound, whatever a batch of data does not hold."""

    @property
    def bounds_log_prob(self) -> bool:
        """Whether ``free_energy`` is an upper bound of -log p*, and so bounds log p from below."""

    def free_energy(self, batch: State) -> Tensor:
        """-log p*(batch) in nats, (B,), or an upper bound of it."""


@runtime_checkable
class HasLocalEnergies(Protocol):
    """A model whose energy is a sum over parts, each of which sees its own part of the candidate alone."""

    def local_energies(self, state: State) -> Tensor:
        """The energy of each part, (B, ...): of several candidates each part chooses its own."""


@runtime_checkable
class HasJointPass(Protocol):
    """A model that computes the energies of several states faster in one pass over all of them."""

    def energies(self, *states: State) -> tuple[Tensor, ...]:
        """E of each state, (B,)."""


@runtime_checkable
class DataInitialized(Protocol):
    """A model whose initial parameters depend on the training data as a whole."""

    def initialize(self, batches: Iterable[State]) -> None:
        """Called once before the first training step, with one pass over the training data."""


@runtime_checkable
class Temperable(Protocol):
    """A model with a tempered form of its own, such as one whose Gibbs sampler moves variables that E sums out."""

    def tempered(self, beta: float | Tensor) -> EnergyModel:
        """The energy of the joint law to the power ``beta`` >= 0: a number, or one for each example (B,)."""


@runtime_checkable
class ExactlyNormalized(Protocol):
    """A model whose log Z is known in closed form or by enumeration."""

    def log_partition(self, largest: int = 25) -> Tensor:
        """log Z in nats, a float64 scalar, by enumeration of at most 2^``largest`` states."""


@runtime_checkable
class Annealable(Protocol):
    """A model with a path from a distribution of known log Z, along which AIS estimates its own."""

    def annealing_path(self, batches: Iterable[State] | None = None) -> AnnealingPath:
        """The path; its base is fitted to a pass over the training data, or for None to the model's parameters."""


@runtime_checkable
class HasReceptiveFields(Protocol):
    """A model whose hidden units or experts have weights in the shape of a variable."""

    def filters(self, block: str) -> Tensor:
        """The weights of each unit on a variable, (units, ...). Raises ValueError for a block without any."""


REMEDIES: dict[type, str] = {
    GibbsSampleable: "use a gradient sampler such as Langevin or HMC, or a model with known conditionals such as RBM",
    AncestralSampleable: "only a directed model such as HelmholtzMachine is drawn from without a chain: use Gibbs or "
    "Langevin",
    HasRecognition: "use a model with a recognition network, such as HelmholtzMachine",
    ExactlyNormalized: "estimate its log Z by AIS",
    Annealable: "AIS cannot estimate its log Z without a path",
    HasReceptiveFields: "leave out the protocol that draws them",
}
"""What to do about a model that lacks a protocol."""


def require(model: EnergyModel, protocol: type[P]) -> P:
    """The model as one of a protocol. Raises ValueError, naming the protocol and its methods, if it is none."""
    # A compiler traces no isinstance of a protocol; what is compiled was called before without one.
    if not torch.compiler.is_compiling() and not isinstance(model, protocol):
        methods = [name for name in vars(protocol) if not name.startswith("_") and not hasattr(model, name)]
        remedy = f": {REMEDIES[protocol]}" if protocol in REMEDIES else ""
        raise ValueError(f"{type(model).__name__} is not {protocol.__name__}, it has no {', '.join(methods)}{remedy}")
    return cast(P, model)


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


def free_energy(model: EnergyModel, batch: State) -> Tensor:
    """-log p*(batch), shape (B,): E with whatever a batch of data does not hold summed out, or an upper bound of it.

    For a model that is not :class:`HasFreeEnergy` it is the energy of the positive phase, which is exact if that adds
    no variable of the model.
    """
    return model.free_energy(batch) if isinstance(model, HasFreeEnergy) else model.energy(model.positive_phase(batch))


def bounds_log_prob(model: EnergyModel) -> bool:
    """Whether :func:`free_energy` is an upper bound of -log p*, and so bounds log p from below."""
    return isinstance(model, HasFreeEnergy) and model.bounds_log_prob


def joint_energies(model: EnergyModel, *states: State) -> tuple[Tensor, ...]:
    """E of several states, one tensor (B,) for each, in one pass if the model has one."""
    return model.energies(*states) if isinstance(model, HasJointPass) else tuple(map(model.energy, states))


def tempered(model: EnergyModel, beta: float | Tensor) -> EnergyModel:
    """The energy of p^beta, at the inverse temperature ``beta`` >= 0: a number, or one for each example (B,).

    It shares the parameters. A :class:`Temperable` model tempers its joint energy instead, so that conditionals and
    energy stay those of one distribution.
    """
    return model.tempered(beta) if isinstance(model, Temperable) else TemperedEnergy(model, beta)


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
        return require(self.model, GibbsSampleable).conditional(block, state).tempered(self.beta)


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

        ``with_info`` False allows to leave out the info, if that saves time.
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

    def merge_state_dicts(self, shards: list[State], rank: int, world_size: int) -> State:
        """The state of this rank, from those of all ranks of a checkpoint, which may have been more or fewer.

        By default a rank's own, and an empty one for a rank that is new.
        """
        return shards[rank] if rank < len(shards) else {}

    def to(self, device: torch.device) -> None:  # noqa: B027  (a hook)
        """Move the chains to where they are kept; called once before training."""

    def info(self) -> Info:
        """Diagnostics of chains that persist, logged as ``chains/<name>``: scalars. Empty by default."""
        return {}

    def examples(self, n: int) -> State:
        """Up to ``n`` chains that persist, for pictures and histograms. Empty by default."""
        return {}


@runtime_checkable
class ExchangeableChains(Protocol):
    """Persistent chains in slots 0..size-1, which may change ranks."""

    size: int
    device: torch.device | None

    def exchange(self, slots: Tensor, swap: Callable[[Tensor], Tensor]) -> None:
        """Put into some slots what ``swap`` gives for what is kept there, one tensor after the other."""


class Objective(abc.ABC):
    """The contrast of positive and negative phase. It owns no sampler; ``neg`` is None without one."""

    predicts: bool = False
    """Whether its terms measure a prediction, so that validation samples for them too: those of a contrast say
    little."""

    @abc.abstractmethod
    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        """The scalars to log; ``["loss"]`` is descended. Each phase is reduced over its batch before the two meet."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and every part of it back into its own mode afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Restore a module's buffers, such as the statistics of training, afterwards."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def energy_grad(model: EnergyModel, state: State, block: str) -> tuple[Tensor, Tensor]:
    """(dE/dblock, E): the gradient in one variable, in its shape, and the detached energies (B,).

    Differentiable exactly if grad mode is on at the call. It works under ``no_grad`` and under ``inference_mode``
    as well, and never fills the ``.grad`` of a parameter. While torch.compile traces a function that calls it, the
    gradient is torch.func's: the compiler cannot differentiate what autograd.grad gives once more.
    """
    if torch.compiler.is_compiling():
        return _energy_grad_by_func(model, state, block)
    differentiable = torch.is_grad_enabled()
    # Inference mode cannot be left for a part of a graph: a tensor made in it takes no part in autograd, not even under
    # enable_grad. So the mode is switched off here, and what was made in it is cloned into a normal tensor first.
    with torch.inference_mode(False), torch.enable_grad():
        state = {name: value.clone() if value.is_inference() else value for name, value in state.items()}
        x = select_variable(model, state, block)
        if not (differentiable and x.requires_grad):
            x = x.detach().requires_grad_()
        energy = model.energy({**state, block: x})
        (grad,) = torch.autograd.grad(energy.sum(), x, create_graph=differentiable)
    return grad, energy.detach()


def _energy_grad_by_func(model: EnergyModel, state: State, block: str) -> tuple[Tensor, Tensor]:
    """:func:`energy_grad` as a compiler can trace it; a gradient flows through it if grad mode is on."""

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        energy = model.energy({**state, block: x})
        return energy.sum(), energy

    grad, (_, energy) = torch.func.grad_and_value(total, has_aux=True)(select_variable(model, state, block))
    return grad, energy.detach()


def step_info(energy: Tensor, grad: Tensor, clip: float | Tensor | None = None) -> Info:
    """The info of a gradient step at energies (B,) with gradients (B, ...).

    ``energy``, the mean; ``grad_norm``, the mean Euclidean norm of a gradient; with ``clip`` also ``clip_share``, the
    share of gradient elements beyond it.
    """
    grad = grad.detach()
    info = {
        "energy": energy.detach().mean(),
        "grad_norm": torch.linalg.vector_norm(grad.flatten(1), dim=1).mean(),
    }
    if clip is not None:
        info["clip_share"] = (grad.abs() > clip).to(grad.dtype).mean()
    return info


def trajectory(
    sampler: Sampler, model: EnergyModel, state: State, with_info: bool = True
) -> Iterator[tuple[State, Info]]:
    """The only loop: an endless chain from ``state``; the caller decides when to stop."""
    while True:
        state, info = sampler.step(model, state, with_info)
        yield state, info


def run_chain(
    sampler: Sampler, model: EnergyModel, state: State, steps: int, backprop: int = 0, with_info: bool = True
) -> tuple[State, Info]:
    """``steps`` transitions, of which the last ``backprop`` stay in the autograd graph (0: SGLD; steps: EBT).

    The info is the mean over the steps of the sampler's info, and for every free variable of the start
    ``drift_<name>``, the mean over the batch of the Euclidean distance between its start and its end; it is empty if
    ``with_info`` is False.
    Raises ValueError if ``steps`` < 1 or ``backprop`` lies outside 0..steps.
    """
    if steps < 1 or not 0 <= backprop <= steps:
        raise ValueError(
            f"run_chain(steps={steps}, backprop={backprop}): expected steps >= 1 and 0 <= backprop <= steps"
        )
    chain, infos, end = trajectory(sampler, model, state, with_info), [], state
    for k in range(steps):
        with torch.set_grad_enabled(k >= steps - backprop):
            end, info = next(chain)
        infos.append(info)
    return end, _summary(sampler, state, end, infos) if with_info else {}


@torch.no_grad()
def _summary(sampler: Sampler, start: State, end: State, infos: list[dict[str, Any]]) -> Info:
    summary = {name: torch.stack([info[name].detach() for info in infos]).mean() for name in infos[0]}
    for name in [name for name in sampler.free if name in start]:
        moved = (end[name] - start[name]).float().reshape(len(start[name]), -1)
        summary[f"drift_{name}"] = torch.linalg.vector_norm(moved, dim=1).mean()
    return summary
