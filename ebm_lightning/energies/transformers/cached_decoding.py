"""Cached decoding: the energy of candidates for the next token of a text whose keys and values are kept."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.energies.networks.transformer import Cache
from ebm_lightning.energies.transformers.ebt import TextEBT


class NextCandidate(EnergyModel):
    """E(y) = e(x_1..S, y) for N candidates y (N, vocabulary) for the token after one text x (S,).

    It equals the energy of a :class:`TextEBT` at the last position of x, over its variables without x; the parameters
    are shared. The text is processed once: the keys and values of every block are kept, and only the candidates pass
    through the blocks. If the energy depends on the step, so do the observed keys; each landscape then has its own
    cache, filled at its first use. The text is a constant: derivatives are in y, of any order.
    Gladstone et al. (2025) release no cached generation; this gives the numbers of the full pass.

    Args:
        model: the energy-based transformer.
        x: the text, tokens int64 (S,), at least one.
        caches: the caches of a prefix of the text, by landscape, computed with the same parameters.

    Raises:
        ValueError: if x is empty, or not a vector of tokens of the model; at a call, if candidates are at different
            steps.

    >>> import torch
    >>> from ebm_lightning.energies import TextEBT
    >>> _ = torch.manual_seed(0)
    >>> model, text = TextEBT(5, layers=1, heads=1, dim=4), torch.tensor([3, 1, 2])
    >>> state = model.positive_phase({"x": text[None]})
    >>> energy = NextCandidate(model, text).energy({"y": state["y"][0, -1:]})
    >>> torch.allclose(energy, model.local_energies(state)[:, -1], atol=1e-5)
    True
    """

    def __init__(self, model: TextEBT, x: Tensor, caches: Mapping[int, Cache] | None = None) -> None:
        super().__init__()
        if x.ndim != 1 or not len(x):
            raise ValueError(f"NextCandidate follows one text, tokens of shape (S,), S >= 1; got {tuple(x.shape)}")
        model.check({"x": x[None]})
        self.model, self.x = model, x
        self.variables = tuple(name for name in model.variables if name != "x")
        self._caches = dict(caches or {})

    def append(self, x: Tensor) -> "NextCandidate":
        """The energy after further tokens x (n,); the caches are kept."""
        return NextCandidate(self.model, torch.cat([self.x, x]), self._caches)

    def blank(self, number: int) -> State:
        """The initial state of n = ``number`` candidates, for chains: zeros, at step 0."""
        state = self.model.positive_phase({"x": self.x[None, -1:].expand(number, 1)})
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
        cache = self._read(landscape, observed, embedded)
        out: Tensor = self.model.head(self.model.trunk.attend_cached(self.model.candidate(y)[None], cache, embedded))
        return out.flatten()

    @torch.no_grad()
    def _read(self, landscape: int, observed: Tensor, embedded: Tensor | None) -> Cache:
        """The cache of a landscape, with all of the observed stream (1, T, dim) in it."""
        cache = self._caches.get(landscape, Cache())
        if cache.length < observed.shape[1]:
            _, cache = self.model.trunk.read(observed[:, cache.length :], cache, embedded)
            self._caches[landscape] = cache
        return cache
