"""Tempering: the same kernel at another temperature, or at a sequence of temperatures."""

from dataclasses import KW_ONLY, dataclass, field

from ebm_lightning.core import Bounds, EnergyModel, Info, Sampler, State, tempered
from ebm_lightning.samplers.wrappers.base import WrappedSampler, check_not_adaptive


@dataclass(frozen=True)
class Tempered(WrappedSampler):
    """A sampler at a temperature: it leaves p^(1/temperature) invariant if ``sampler`` leaves p invariant.

    The energy is ``tempered(model, 1 / temperature)``: E / temperature, or, for a model whose Gibbs sampler moves
    variables that the energy sums out, such as the hidden units of an RBM, the joint energy divided by the temperature.
    The info of the inner sampler is of the tempered energy.

    Args:
        sampler: the kernel; its free variables and bounds become this sampler's.
        temperature: > 0; above 1 flattens the energy, below 1 sharpens it.

    Raises:
        ValueError: if ``temperature`` <= 0, or the inner sampler is adaptive.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> from ebm_lightning.samplers import SGLD
    >>> energy = Gaussian(mean=[0.0], covariance=[1.0])
    >>> Tempered(SGLD(1.0, noise=0.0), temperature=2.0).step(energy, {"x": torch.ones(1, 1)})[0]["x"].item()
    0.5
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
    """Annealing: one transition is one step of ``sampler`` at each of ``temperatures``, in order.

    At high temperatures chains cross barriers; at the last, low ones they relax. The stationary distribution of such
    passes is p only if every temperature is 1; the more steps at the last temperature T, the closer it is to p^(1/T),
    in the sense of :class:`Tempered`. Every transition is a full pass, without a counter. Info: that of the last step,
    on the energy at the last temperature. Kirkpatrick, Gelatt & Vecchi (1983).

    Args:
        sampler: the kernel; its free variables and bounds become this sampler's.
        temperatures: at least one, each > 0, usually decreasing to 1.

    Raises:
        ValueError: if ``temperatures`` is empty or holds a number <= 0, or the inner sampler is adaptive.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> from ebm_lightning.samplers import SGLD
    >>> energy = Gaussian(mean=[0.0], covariance=[1.0])
    >>> sampler = Annealed(SGLD(0.5, noise=0.0), temperatures=(2.0, 1.0))
    >>> sampler.step(energy, {"x": torch.ones(1, 1)})[0]["x"].item()  # (1 - 0.25) (1 - 0.5)
    0.375
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
