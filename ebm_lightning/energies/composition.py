"""Compositions of energies: product, mixture, negation (Du, Li & Mordatch 2020, "Compositional visual generation").

The parts share the variables that have the same name. No part is initialized from the data before the first step. The
parts' temperatures and log Z set their relative weights in the composition.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, ExactlyNormalized, State, require


class Product(EnergyModel):
    """E = sum_i E_i, over the union of the parts' variables: p ~ prod_i p_i, large if it is large under every part.

    The log Z of the parts cancel (Hinton 2002). ``Product([a, Negation(b, strength)])`` is E_a - strength E_b.

    Args:
        models: the parts, at least one.

    Raises:
        ValueError: if there is no part.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> narrow, wide = Gaussian(mean=[0.0], covariance=[1.0]), Gaussian(mean=[0.0], covariance=[4.0])
    >>> Product([narrow, wide]).energy({"x": torch.tensor([[2.0]])}).item()  # 2 + 1/2
    2.5
    """

    def __init__(self, models: list[EnergyModel]) -> None:
        super().__init__()
        self.models, self.variables = nn.ModuleList(models), union(self, models)

    def forward(self, **state: Tensor) -> Tensor:
        """E, shape (B,)."""
        return each(self.models, state).sum(1)

    def positive_phase(self, batch: State) -> State:
        """The batch, completed by the positive phase of each part in turn."""
        return completed(self.models, batch)

    def check(self, state: State) -> None:
        for part in energies_of(self.models):
            part.check(state)


class Mixture(EnergyModel):
    """E = -log sum_i w_i exp(-E_i), over the union of the parts' variables: low if the energy of some part is low.

    The weights multiply unnormalized densities: part i has the share w_i Z_i / sum_j w_j Z_j of the probability. For
    given shares, set w_i to the share divided by Z_i, if that is known.

    Args:
        models: the parts, at least one.
        weights: w_i > 0, one for each part; they need not add up to 1. None is 1 for each.

    Raises:
        ValueError: if there is no part, or the weights are not positive or not one for each part.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> energy = Mixture([Gaussian(mean=[-1.0], covariance=[1.0]), Gaussian(mean=[1.0], covariance=[1.0])])
    >>> round(energy.energy({"x": torch.tensor([[0.0]])}).item(), 4)  # 1/2 - log 2
    -0.1931
    """

    log_weights: Tensor

    def __init__(self, models: list[EnergyModel], weights: list[float] | None = None) -> None:
        super().__init__()
        self.models, self.variables = nn.ModuleList(models), union(self, models)
        weights = [1.0] * len(models) if weights is None else weights
        if len(weights) != len(models) or not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"Mixture(weights={weights}): expected {len(models)} numbers > 0, one for each part")
        self.register_buffer("log_weights", torch.tensor(weights, dtype=torch.float64).log())

    def forward(self, **state: Tensor) -> Tensor:
        """E, shape (B,)."""
        energies = each(self.models, state)
        return -torch.logsumexp(self.log_weights.to(energies.dtype) - energies, 1)

    def positive_phase(self, batch: State) -> State:
        """The batch, completed by the positive phase of each part in turn."""
        return completed(self.models, batch)

    def check(self, state: State) -> None:
        for part in energies_of(self.models):
            part.check(state)

    def log_partition(self, largest: int = 25) -> Tensor:
        """log sum_i w_i Z_i in nats, a float64 scalar.

        Raises ValueError if the log Z of a part is not known, or a part is an energy over fewer variables.
        """
        parts = energies_of(self.models)
        if any(set(part.variables) != set(self.variables) for part in parts):
            raise ValueError(
                f"Mixture has no log Z if its parts are energies over different variables, got "
                f"{[part.variables for part in parts]}: mix energies over the same ones"
            )
        log_z = torch.stack([require(part, ExactlyNormalized).log_partition(largest).double() for part in parts])
        return torch.logsumexp(self.log_weights.double() + log_z, 0)


class Negation(EnergyModel):
    """E = -strength E', low if another energy is high: a negation, within a :class:`Product`.

    In general it is not a distribution by itself, because exp(strength E') has no finite integral. In a product the
    other parts must grow faster at infinity.

    Args:
        model: E'.
        strength: factor of E', >= 0.

    Raises:
        ValueError: if ``strength`` is negative or not finite.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> Negation(Gaussian(mean=[0.0], covariance=[1.0]), strength=0.5).energy({"x": torch.tensor([[2.0]])}).item()
    -1.0
    """

    def __init__(self, model: EnergyModel, strength: float = 1.0) -> None:
        super().__init__()
        if not 0 <= strength < math.inf:
            raise ValueError(f"Negation(strength={strength}): expected a finite number >= 0")
        self.model, self.strength, self.variables = model, strength, model.variables

    def forward(self, **state: Tensor) -> Tensor:
        """E, shape (B,)."""
        return -self.strength * self.model.energy(state)

    def positive_phase(self, batch: State) -> State:
        return self.model.positive_phase(batch)

    def check(self, state: State) -> None:
        self.model.check(state)


def energies_of(models: Iterable[nn.Module]) -> list[EnergyModel]:
    """The models, typed as energies."""
    return [model for model in models if isinstance(model, EnergyModel)]


def union(whole: EnergyModel, models: list[EnergyModel]) -> tuple[str, ...]:
    """The variables of all parts, each once, in order of appearance. Raises ValueError if there is no part."""
    if not models:
        raise ValueError(f"{type(whole).__name__}(models=[]): expected at least one energy")
    return tuple(dict.fromkeys(name for model in models for name in model.variables))


def each(models: Iterable[nn.Module], state: State) -> Tensor:
    """The energy of every part, (B, parts)."""
    return torch.stack([part.energy(state) for part in energies_of(models)], 1)


def completed(models: Iterable[nn.Module], batch: State) -> State:
    """The batch, completed by the positive phase of each part in turn; variables that it has are kept."""
    for part in energies_of(models):
        batch = {**part.positive_phase(batch), **batch}
    return batch
