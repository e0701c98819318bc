"""Samplers around a sampler: the same kernel on a flattened or sharpened energy."""

from dataclasses import KW_ONLY, dataclass, field

from ebm_lightning.core import Bounds, EnergyModel, Info, Sampler, State, tempered
from ebm_lightning.samplers.wrappers.base import WrappedSampler, check_not_adaptive


@dataclass(frozen=True)
class Tempered(WrappedSampler):
    """A sampler on the energy of p^(1/temperature): where ``sampler`` leaves p invariant, this leaves that invariant.

    The energy is ``tempered(model, 1 / temperature)``: E / temperature, and for a model whose Gibbs sampler moves
    variables that the energy sums out, such as the hidden units of an RBM, the joint energy over the temperature. The
    energies and gradients that the inner sampler reports are those of that energy.

    Args:
        sampler: the kernel; its free variables and bounds become this sampler's.
        temperature: > 0; above 1 flattens the energy, below 1 sharpens it.

    Raises:
        ValueError: where ``temperature`` <= 0, or the inner sampler is adaptive.
    """

    sampler: Sampler
    _: KW_ONLY
    temperature: float
    free: tuple[str, ...] = field(init=False)
    bounds: Bounds | None = field(init=False)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"Tempered(temperature={self.temperature}): expected a number > 0")
        check_not_adaptive(self, self.sampler)
        object.__setattr__(self, "free", self.sampler.free)
        object.__setattr__(self, "bounds", self.sampler.bounds)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        return self.sampler.step(tempered(model, 1 / self.temperature), state, with_info)


@dataclass(frozen=True)
class Annealed(WrappedSampler):
    """A pass through temperatures: one transition is one step of ``sampler`` at each of ``temperatures``, in order.

    Hot steps carry chains over barriers, the cold ones at the end settle them. The passes have a law of their own,
    which is p only where every temperature is 1; the longer the pass stays at its last temperature T, the nearer that
    law is to p^(1/T), in the sense of :class:`Tempered`. Nothing is counted: the pass is the whole schedule. Info: that
    of the last step, on the energy at the last temperature. Kirkpatrick, Gelatt & Vecchi (1983).

    Args:
        sampler: the kernel; its free variables and bounds become this sampler's.
        temperatures: each > 0, the hottest usually first and 1 last.

    Raises:
        ValueError: where ``temperatures`` is empty or holds a number <= 0, or the inner sampler is adaptive.
    """

    sampler: Sampler
    _: KW_ONLY
    temperatures: tuple[float, ...]
    free: tuple[str, ...] = field(init=False)
    bounds: Bounds | None = field(init=False)

    def __post_init__(self) -> None:
        if not self.temperatures or not all(temperature > 0 for temperature in self.temperatures):
            raise ValueError(f"Annealed(temperatures={self.temperatures}): expected at least one number, each > 0")
        check_not_adaptive(self, self.sampler)
        object.__setattr__(self, "free", self.sampler.free)
        object.__setattr__(self, "bounds", self.sampler.bounds)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        info: Info = {}
        for temperature in self.temperatures:
            state, info = self.sampler.step(tempered(model, 1 / temperature), state, with_info)
        return state, info
