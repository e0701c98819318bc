"""Samplers around a sampler: the same kernel on a flattened or sharpened energy."""

from dataclasses import KW_ONLY, dataclass, field

from torch import Tensor

from ebm_lightning.core import Bounds, Conditional, EnergyModel, Info, Sampler, State


class TemperedEnergy(EnergyModel):
    """E(state) / temperature: the energy of p^(1/temperature). It shares the parameters of ``model``.

    Its conditionals are not known, so it cannot be Gibbs-sampled: ``conditional`` raises ValueError.
    """

    def __init__(self, model: EnergyModel, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.variables = model.variables

    def forward(self, **state: Tensor) -> Tensor:
        return self.model.energy(state) / self.temperature

    def conditional(self, block: str, state: State) -> Conditional:
        raise ValueError(
            f"the conditional of {block!r} at temperature {self.temperature} is not known to "
            f"{type(self.model).__name__}: temper a gradient sampler such as Langevin or HMC, not a Gibbs sampler"
        )


@dataclass(frozen=True)
class Tempered(Sampler):
    """A sampler on E / temperature: where ``sampler`` leaves p invariant, this leaves p^(1/temperature) invariant.

    The energies and gradients that the inner sampler reports are those of E / temperature.

    Args:
        sampler: the kernel; its free variables and bounds become this sampler's. It may not need conditionals.
        temperature: > 0; above 1 flattens the energy, below 1 sharpens it.

    Raises:
        ValueError: where ``temperature`` <= 0; at a step, where the inner sampler asks for a conditional.
    """

    sampler: Sampler
    _: KW_ONLY
    temperature: float
    free: tuple[str, ...] = field(init=False)
    bounds: Bounds | None = field(init=False)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"Tempered(temperature={self.temperature}): expected a number > 0")
        object.__setattr__(self, "free", self.sampler.free)
        object.__setattr__(self, "bounds", self.sampler.bounds)

    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        return self.sampler.step(TemperedEnergy(model, self.temperature), state)


@dataclass(frozen=True)
class Annealed(Sampler):
    """A pass through temperatures: one transition is one step of ``sampler`` at each of ``temperatures``, in order.

    Hot steps carry chains over barriers, the cold ones at the end settle them. The passes have a law of their own,
    which is p only where every temperature is 1; the longer the pass stays at its last temperature T, the nearer that
    law is to p^(1/T). Nothing is counted: the pass is the whole schedule. Info: that of the last step, on E divided by
    the last temperature. Kirkpatrick, Gelatt & Vecchi (1983).

    Args:
        sampler: the kernel; its free variables and bounds become this sampler's. It may not need conditionals.
        temperatures: each > 0, the hottest usually first and 1 last.

    Raises:
        ValueError: where ``temperatures`` is empty or holds a number <= 0; at a step, where the inner sampler asks for
            a conditional.
    """

    sampler: Sampler
    _: KW_ONLY
    temperatures: tuple[float, ...]
    free: tuple[str, ...] = field(init=False)
    bounds: Bounds | None = field(init=False)

    def __post_init__(self) -> None:
        if not self.temperatures or not all(temperature > 0 for temperature in self.temperatures):
            raise ValueError(f"Annealed(temperatures={self.temperatures}): expected at least one number, each > 0")
        object.__setattr__(self, "free", self.sampler.free)
        object.__setattr__(self, "bounds", self.sampler.bounds)

    def step(self, model: EnergyModel, state: State) -> tuple[State, Info]:
        info: Info = {}
        for temperature in self.temperatures:
            state, info = self.sampler.step(TemperedEnergy(model, temperature), state)
        return state, info
