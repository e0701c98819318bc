"""What only some energies and chains offer: small protocols, found by isinstance if they are needed."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from ebm_lightning.core.contracts import AnnealingPath, Conditional, EnergyModel, State

P = TypeVar("P")


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


@runtime_checkable
class ExchangeableChains(Protocol):
    """Persistent chains in slots 0..size-1, which may change ranks."""

    size: int
    device: torch.device | None

    def exchange(self, slots: Tensor, swap: Callable[[Tensor], Tensor]) -> None:
        """Put into some slots what ``swap`` gives for what is kept there, one tensor after the other."""
