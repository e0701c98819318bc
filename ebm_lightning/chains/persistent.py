"""Persistent chains: the sample buffer of persistent CD and of replay-buffer training."""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.chains.nonpersistent import check_num_chains, detached, initial_value, repeat_in_turn
from ebm_lightning.core import AGE, SLOT, Bounds, Chains, Info, Noise, State
from ebm_lightning.distributions.noise import UniformNoise


class Replacement(abc.ABC):
    """The choice of the slot to which a finished chain is written."""

    drops: bool = False
    """Whether finished chains may be dropped, so that their number is known on the device only."""

    @abc.abstractmethod
    def slots(self, drawn: Tensor, size: int, seen: int) -> Tensor:
        """The slot of each finished chain, shape (B,), or -1 if it is dropped.

        ``drawn`` are the slots from which the chains were drawn, ``seen`` is the number of chains finished before.
        """


@dataclass(frozen=True)
class WriteBack(Replacement):
    """A chain is written to the slot from which it was drawn (Tieleman 2008; JEM, Grathwohl et al. 2020).

    >>> import torch
    >>> WriteBack().slots(torch.tensor([3, 0]), size=4, seen=10).tolist()
    [3, 0]
    """

    def slots(self, drawn: Tensor, size: int, seen: int) -> Tensor:
        return drawn


@dataclass(frozen=True)
class FIFO(Replacement):
    """The newest chains overwrite the oldest (IGEBM, Du & Mordatch 2019).

    >>> import torch
    >>> FIFO().slots(torch.tensor([3, 0]), size=4, seen=11).tolist()
    [3, 0]
    >>> FIFO().slots(torch.tensor([3, 0]), size=4, seen=13).tolist()
    [1, 2]
    """

    def slots(self, drawn: Tensor, size: int, seen: int) -> Tensor:
        return (seen + torch.arange(len(drawn), device=drawn.device)) % size


@dataclass(frozen=True)
class Reservoir(Replacement):
    """A uniform sample of all finished chains (Vitter 1985, algorithm R; improved CD, Du et al. 2021).

    >>> import torch
    >>> Reservoir().slots(torch.tensor([3, 0]), size=4, seen=0).tolist()  # empty slots are filled first
    [0, 1]
    """

    drops = True

    def slots(self, drawn: Tensor, size: int, seen: int) -> Tensor:
        rank = seen + torch.arange(len(drawn), device=drawn.device)
        pick = (torch.rand(len(drawn), device=drawn.device, dtype=torch.float64) * (rank + 1)).long()
        slots = torch.where(rank < size, rank, torch.where(pick < size, pick, torch.full_like(pick, -1)))
        overwritten = (slots[:, None] == slots[None, :]).triu(1).any(1)  # of two chains for one slot the later is kept
        return torch.where(overwritten, torch.full_like(slots, -1), slots)


class Storage(abc.ABC):
    """The format in which positions are stored in the buffer."""

    @abc.abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The stored form of ``x``."""

    @abc.abstractmethod
    def decode(self, stored: Tensor) -> Tensor:
        """The positions of a stored form."""


@dataclass(frozen=True)
class FloatStorage(Storage):
    """Unchanged positions.

    >>> import torch
    >>> x = torch.rand(2, 3)
    >>> storage = FloatStorage()
    >>> storage.decode(storage.encode(x)) is x
    True
    """

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, stored: Tensor) -> Tensor:
        return stored


@dataclass(frozen=True)
class Uint8Storage(Storage):
    """256 levels over ``bounds``, dequantized by uniform noise within a level: a quarter of the memory.

    Args:
        bounds: the interval of the stored values; values outside are clamped to it.

    >>> import torch
    >>> storage = Uint8Storage()
    >>> stored = storage.encode(torch.tensor([0.0, 0.5, 1.0]))
    >>> stored.tolist(), storage.encode(storage.decode(stored)).tolist()
    ([0, 128, 255], [0, 128, 255])
    """

    bounds: Bounds = (0.0, 1.0)

    def encode(self, x: Tensor) -> Tensor:
        low, high = self.bounds
        return ((x - low) / (high - low) * 256).floor().clamp(0, 255).to(torch.uint8)

    def decode(self, stored: Tensor) -> Tensor:
        low, high = self.bounds
        level = stored.float()
        return (level + torch.rand_like(level)) / 256 * (high - low) + low


class SampleBuffer(Chains):
    """Persistent chains of PCD (Tieleman 2008) and of replay buffers (Du & Mordatch 2019).

    A slot is initialized when it is first drawn, and a drawn chain is initialized again with probability
    ``reinit_prob``. ``start`` adds metadata to the state for ``finish``: "chain.slot", the slots drawn, and
    "chain.age", the number of finished negative phases since initialization. Each rank holds ``size`` chains of its
    own; :class:`~ebm_lightning.training.callbacks.buffer.BufferCallback` moves, saves and restores them.

    Args:
        size: chains held by each rank.
        reinit_prob: probability that a drawn chain is initialized again, in [0, 1].
        init: the initial distribution of a chain; None is uniform on [0, 1).
        replacement: the slot to which a finished chain is written; None is :class:`WriteBack`.
        storage: how positions are kept; None is :class:`FloatStorage`.
        keep: clamped variables, such as labels, that are stored with their chain and restored with it; a chain that is
            initialized again takes those of the current data.
        device: the device of the chains, for example "cpu"; None is that of the data.
        max_buffer_gb: upper bound of the memory of a rank's chains, in 10^9 bytes; None is no bound.
        num_chains: the number of chains of a negative phase, as in :class:`NoiseChains`.

    Raises:
        ValueError: if ``size`` < 1, ``reinit_prob`` lies outside [0, 1], ``num_chains`` < 1, a phase needs more chains
            than ``size``, or the chains need more than ``max_buffer_gb``.

    >>> import torch
    >>> buffer = SampleBuffer(8, reinit_prob=0.05)
    >>> state = buffer.start({"x": torch.zeros(4, 2)}, free=("x",))
    >>> buffer.finish(state)
    >>> len(buffer.examples(8)["x"])
    4
    """

    def __init__(
        self,
        size: int,
        reinit_prob: float = 0.0,
        init: Noise | None = None,
        replacement: Replacement | None = None,
        storage: Storage | None = None,
        keep: tuple[str, ...] = (),
        device: str | None = None,
        max_buffer_gb: float | None = None,
        num_chains: int | None = None,
    ) -> None:
        check_num_chains(self, num_chains)
        if size < 1 or not 0 <= reinit_prob <= 1:
            raise ValueError(
                f"SampleBuffer(size={size}, reinit_prob={reinit_prob}): expected size >= 1 and reinit_prob in [0, 1]"
            )
        self.init: Noise = init or UniformNoise()
        self.size, self.reinit_prob, self.keep = size, reinit_prob, tuple(keep)
        self.replacement, self.storage = replacement or WriteBack(), storage or FloatStorage()
        self.device = torch.device(device) if device else None
        self.max_buffer_gb, self.num_chains = max_buffer_gb, num_chains
        self.seen = 0
        # Not a registered buffer of the module: DDP would overwrite every rank's chains with rank 0's.
        self.store: State = {}
        self.age = torch.zeros(size, dtype=torch.int64)
        self.alive = torch.zeros(size, dtype=torch.bool)
        self.full = False

    def start(self, pos: State, free: tuple[str, ...]) -> State:
        pos = repeat_in_turn(pos, self.num_chains)
        n = len(next(iter(pos.values())))
        if n > self.size:
            raise ValueError(f"SampleBuffer(size={self.size}) cannot serve a batch of {n}; make it at least {n}")
        # A free variable that is not in pos, such as the hidden units of an RBM, is drawn by the sampler first.
        stored = [name for name in free if name in pos]
        state = detached(pos)
        chain = torch.randperm(self.size, device=self.age.device)[:n]
        if self.reinit_prob == 0 and self.full:  # nothing is initialized: no noise is drawn
            for name in (*stored, *self.keep):
                state[name] = self._decode(self.store[name][chain]).to(pos[name].device, pos[name].dtype)
            return {**state, SLOT: chain, AGE: self.age[chain]}
        fresh = {name: initial_value(self.init, pos, name) for name in stored}
        fresh |= {name: pos[name].detach() for name in self.keep}
        if not self.store:
            self._allocate(fresh)
        again = ~self.alive[chain] | (torch.rand(n, device=chain.device) < self.reinit_prob)
        for name, new in fresh.items():
            old = self._decode(self.store[name][chain]).to(new.device, new.dtype)
            state[name] = torch.where(again.to(new.device).view(-1, *[1] * (new.ndim - 1)), new, old)
        return {**state, SLOT: chain, AGE: torch.where(again, 0, self.age[chain])}

    @torch.no_grad()
    def finish(self, end: State) -> None:
        slots = self.replacement.slots(end[SLOT], self.size, self.seen)
        self.seen += len(slots)
        if self.replacement.drops:
            written = slots >= 0
            slots, end = slots[written], {name: end[name][written] for name in (*self.store, AGE)}
        for name, store in self.store.items():
            store[slots] = self._encode(end[name]).to(store.device)
        self.age[slots] = end[AGE] + 1
        self.alive[slots] = True
        self.full = self.full or self._is_full

    def exchange(self, slots: Tensor, swap: Callable[[Tensor], Tensor]) -> None:
        for stored in (*self.store.values(), self.age, self.alive):
            stored[slots] = swap(stored[slots])
        self.full = self._is_full

    def info(self) -> Info:
        """``age``: the mean number of negative phases of a chain; ``fill``: the share of slots in use."""
        return {"age": self.age.sum() / self.alive.sum(), "fill": self.alive.float().mean()}

    def examples(self, n: int) -> State:
        """Up to ``n`` chains, decoded, with their ages; only a decoder draws random numbers."""
        slots = self.alive.nonzero().flatten()[:n]
        return {name: self._decode(stored[slots]) for name, stored in self.store.items()} | {AGE: self.age[slots]}

    def state_dict(self) -> State:
        """The stored chains, their ages and the counter, as tensors; empty before the first step."""
        if not self.store:
            return {}
        counters = {"age": self.age, "alive": self.alive, "seen": torch.tensor(self.seen)}
        return {**{f"store.{name}": stored for name, stored in self.store.items()}, **counters}

    def load_state_dict(self, state: State) -> None:
        """Restore the chains; an empty state changes nothing.

        Raises ValueError if the state holds another number of chains.
        """
        if not state:
            return
        if len(state["age"]) != self.size:
            raise ValueError(
                f"SampleBuffer(size={self.size}) cannot load {len(state['age'])} chains: merge them first by "
                "merge_state_dicts, or give the buffer that size"
            )
        self.store = {key.removeprefix("store."): value for key, value in state.items() if key.startswith("store.")}
        self.age, self.alive, self.seen = state["age"], state["alive"], int(state["seen"])
        self.full = self._is_full

    def merge_state_dicts(self, states: list[State], rank: int, world_size: int) -> State:
        """The rank's own chains if the number of ranks and the size have not changed.

        Otherwise the chains of all ranks are pooled and distributed round-robin; remaining slots are initialized when
        they are first drawn.
        """
        states = [state for state in states if state]
        if not states or (len(states) == world_size and len(states[rank]["age"]) == self.size):
            return states[rank] if states else {}
        return self._distribute(states, rank, world_size)

    def to(self, device: torch.device) -> None:
        """Move the chains to ``self.device``, or to ``device`` if that is None."""
        home = self.device or device
        self.store = {name: stored.to(home) for name, stored in self.store.items()}
        self.age, self.alive = self.age.to(home), self.alive.to(home)

    @property
    def _is_full(self) -> bool:
        """Whether no further chain will be initialized."""
        return self.reinit_prob == 0 and bool(self.alive.all())

    def _allocate(self, fresh: State) -> None:
        home = self.device or next(iter(fresh.values())).device
        encoded = {name: self._encode(value) for name, value in fresh.items()}
        gb_per_chain = sum(value[0].numel() * value.element_size() for value in encoded.values()) / 1e9
        if self.max_buffer_gb is not None and self.size * gb_per_chain > self.max_buffer_gb:
            raise ValueError(
                f"SampleBuffer(size={self.size}) would keep {self.size * gb_per_chain:.3g} GB of "
                f"{', '.join(encoded)}, more than max_buffer_gb={self.max_buffer_gb:g}: expected a size of at most "
                f"{int(self.max_buffer_gb / gb_per_chain)}"
            )
        for name, value in encoded.items():
            self.store[name] = torch.zeros((self.size, *value.shape[1:]), dtype=value.dtype, device=home)
        self.age, self.alive = self.age.to(home), self.alive.to(home)

    def _encode(self, x: Tensor) -> Tensor:
        return self.storage.encode(x) if x.is_floating_point() else x

    def _decode(self, stored: Tensor) -> Tensor:
        return stored if stored.dtype == torch.int64 else self.storage.decode(stored)

    def _distribute(self, states: list[dict[str, Tensor]], rank: int, world_size: int) -> dict[str, Tensor]:
        """This rank's share of all initialized chains, in slots 0, 1, ...; the remaining slots are empty."""
        initialized = [state["alive"].cpu() for state in states]
        in_turn = torch.cat([torch.arange(int(alive.sum())) for alive in initialized]).argsort(stable=True)
        mine: dict[str, Tensor] = {}
        for key in states[0]:
            if key == "seen":
                continue
            pooled = torch.cat([state[key].cpu()[alive] for state, alive in zip(states, initialized, strict=True)])
            share = pooled[in_turn][rank::world_size][: self.size]
            mine[key] = torch.zeros((self.size, *share.shape[1:]), dtype=share.dtype)
            mine[key][: len(share)] = share
        return {**mine, "seen": mine["alive"].sum()}
