"""Generation by an energy-based transformer: its energy of the next token, with cached keys and values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, Sampler, State, trajectory
from ebm_lightning.energies.networks.transformer import Cache
from ebm_lightning.energies.transformers.decoding import InferenceSettings, Prediction
from ebm_lightning.utils.random import capture, drawn_since

if TYPE_CHECKING:
    from ebm_lightning.energies.transformers.ebt import TextEBT


class NextCandidate(EnergyModel):
    """E(y) = e(x_1..S, y): the energy of each of N candidates y (N, vocabulary) for the token after one context x.

    It is what a :class:`TextEBT` gives at the last position of x; its variables are those of the transformer without x,
    and its parameters are shared. The context is processed once: keys and values of every block are cached, and only
    candidates are run against them. If the energy depends on the step, so do the observed keys, and each landscape has
    a cache of its own, filled at its first use. The context is a constant: the energy can be differentiated in y, any
    number of times. Gladstone et al. (2025) release no cached generation; the numbers here are those of the uncached
    pass.

    Args:
        model: the energy-based transformer.
        x: the context, tokens int64 (S,), at least one.
        caches: keys and values of a beginning of x by landscape, under the same parameters.

    Raises:
        ValueError: if x is empty, or no vector of tokens of the model; at a call, if candidates are at different steps.

    >>> import torch
    >>> from ebm_lightning.energies import TextEBT
    >>> _ = torch.manual_seed(0)
    >>> model, text = TextEBT(5, layers=1, heads=1, dim=4), torch.tensor([3, 1, 2])
    >>> state = model.positive_phase({"x": text[None]})
    >>> energy = NextCandidate(model, text).energy({"y": state["y"][0, -1:]})
    >>> torch.allclose(energy, model.local_energies(state)[:, -1], atol=1e-5)
    True
    """

    def __init__(self, model: "TextEBT", x: Tensor, caches: Mapping[int, Cache] | None = None) -> None:
        super().__init__()
        if x.ndim != 1 or not len(x):
            raise ValueError(f"NextCandidate follows one text, tokens of shape (S,), S >= 1; got {tuple(x.shape)}")
        model.check({"x": x[None]})
        self.model, self.x = model, x
        self.variables = tuple(name for name in model.variables if name != "x")
        self._caches = dict(caches or {})

    def extend(self, x: Tensor) -> "NextCandidate":
        """The energy after further tokens x (n,); the caches are kept."""
        return NextCandidate(self.model, torch.cat([self.x, x]), self._caches)

    def empty_candidates(self, n: int) -> State:
        """The state of n candidates of zeros at step 0, from which chains are initialized."""
        state = self.model.positive_phase({"x": self.x[None, -1:].expand(n, 1)})
        return {name: value[:, 0] if name == "y" else value for name, value in state.items() if name != "x"}

    def forward(self, y: Tensor, step: Tensor | None = None) -> Tensor:
        """E(y), shape (N,)."""
        if step is not None and not bool((step == step[0]).all()):
            raise ValueError(
                f"NextCandidate compares candidates at one step, got the steps {step.tolist()}: move them together"
            )
        observed, embedded = self.model.observed(self.x[None], None if step is None else step[:1])
        condition = self.model.condition
        landscape = 0 if step is None or condition is None else int(condition.landscape(step[0]))
        cache = self._prefill(landscape, observed, embedded)
        out: Tensor = self.model.head(self.model.trunk.attend_cached(self.model.candidate(y)[None], cache, embedded))
        return out.flatten()

    @torch.no_grad()
    def _prefill(self, landscape: int, observed: Tensor, embedded: Tensor | None) -> Cache:
        """The cache of a landscape, with all of the observed stream (1, T, dim) in it."""
        cache = self._caches.get(landscape, Cache())
        if cache.length < observed.shape[1]:
            _, cache = self.model.trunk.read(observed[:, cache.length :], cache, embedded)
            self._caches[landscape] = cache
        return cache


@dataclass(frozen=True)
class EBTDecoder:
    """A context of an energy-based transformer, after which the sampler of the run predicts the next token.

    Args:
        energy: of candidates for the token after the context.
        settings: the sampler, its steps, and the number of candidates.

    Raises:
        ValueError: at a prediction, if all of several candidates are equal.
    """

    energy: NextCandidate
    settings: InferenceSettings

    def extend(self, x: Tensor) -> "EBTDecoder":
        """The decoder after further tokens x (n,), int64."""
        return replace(self, energy=self.energy.extend(x))

    def next_logits(self) -> Prediction:
        """The candidate of the lowest final energy, with the energies of all candidates by step."""
        before = capture()
        sampler, start = self.settings.init_chains(self.energy.empty_candidates(self.settings.candidates))
        state, by_step = start, [self._energies(sampler, start)]
        for state, _ in islice(trajectory(sampler, self.energy, start), self.settings.steps):
            by_step.append(self._energies(sampler, state))
        if self.settings.candidates > 1 and not drawn_since(before):
            raise ValueError(
                "all candidates of this run are equal, since it starts at one place and moves without noise: leave out "
                "--candidates"
            )
        energies = torch.stack(by_step).double().cpu()
        chosen = int(energies[-1].argmin())
        return Prediction(state["y"][chosen], energies, chosen)

    def _energies(self, sampler: Sampler, state: State) -> Tensor:
        return self.energy.energy(sampler.energy_input(state))
