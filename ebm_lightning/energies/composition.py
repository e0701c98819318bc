"""Energies made of energies: and, or, not (Du, Li & Mordatch 2020, "Compositional visual generation").

The parts share the variables that have the same name. They are taken as they are: nothing is fitted to the data before
the first step. Where their densities live at different temperatures or log Z differ, so do their voices.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, ExactlyNormalized, State, require


class Product(EnergyModel):
    """E = sum_i E_i, over the union of the parts' variables: p ~ prod_i p_i, likely where every part says so.

    The log Z of the parts drop out (Hinton 2002). ``Product([a, Negation(b, strength)])`` is E_a - strength E_b.

    Args:
        models: the parts, at least one.

    Raises:
        ValueError: where there is none.
    """

    def __init__(self, models: list[EnergyModel]) -> None:
        super().__init__()
        self.models, self.variables = nn.ModuleList(models), union(self, models)

    def forward(self, **state: Tensor) -> Tensor:
        """E, shape (B,)."""
        return each(self.models, state).sum(1)

    def positive_phase(self, batch: State) -> State:
        """Every part adds what the batch and the parts before it leave open."""
        return completed(self.models, batch)

    def check(self, state: State) -> None:
        for part in energies_of(self.models):
            part.check(state)


class Mixture(EnergyModel):
    """E = -log sum_i w_i exp(-E_i), over the union of the parts' variables: likely where some part says so.

    The weights are those of unnormalized densities: part i has the share w_i Z_i / sum_j w_j Z_j of the probability.
    For shares of one's choice, w_i is the share over Z_i, where that is known.

    Args:
        models: the parts, at least one.
        weights: w_i > 0, one for each; they need not add up to 1. None takes ones.

    Raises:
        ValueError: where there is no part, or the weights are not positive or not one for each.
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
        """Every part adds what the batch and the parts before it leave open."""
        return completed(self.models, batch)

    def check(self, state: State) -> None:
        for part in energies_of(self.models):
            part.check(state)

    def log_partition(self, largest: int = 25) -> Tensor:
        """log sum_i w_i Z_i in nats, a float64 scalar.

        Raises ValueError where a part does not know its own log Z, or is an energy over fewer variables.
        """
        parts = energies_of(self.models)
        if any(set(part.variables) != set(self.variables) for part in parts):
            raise ValueError(
                f"Mixture has no log Z where its parts are energies over different variables, got "
                f"{[part.variables for part in parts]}: mix energies over the same ones"
            )
        log_z = torch.stack([require(part, ExactlyNormalized).log_partition(largest).double() for part in parts])
        return torch.logsumexp(self.log_weights.double() + log_z, 0)


class Negation(EnergyModel):
    """E = -strength E', likely where another energy is high: not the part, within a :class:`Product`.

    On its own it is no distribution as a rule, because exp(strength E') has no finite integral. In a product the other
    parts must outweigh it far away.

    Args:
        model: E'.
        strength: how strongly it is avoided, >= 0.

    Raises:
        ValueError: where ``strength`` is negative or not finite.
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
    """The same models, as the energies that they are."""
    return [model for model in models if isinstance(model, EnergyModel)]


def union(whole: EnergyModel, models: list[EnergyModel]) -> tuple[str, ...]:
    """The variables of all parts, each once, in the order in which they come. Raises ValueError where no part is."""
    if not models:
        raise ValueError(f"{type(whole).__name__}(models=[]): expected at least one energy")
    return tuple(dict.fromkeys(name for model in models for name in model.variables))


def each(models: Iterable[nn.Module], state: State) -> Tensor:
    """The energy of every part, (B, parts)."""
    return torch.stack([part.energy(state) for part in energies_of(models)], 1)


def completed(models: Iterable[nn.Module], batch: State) -> State:
    """The batch with what each part completes it by in turn; what is there stays."""
    for part in energies_of(models):
        batch = {**part.positive_phase(batch), **batch}
    return batch
