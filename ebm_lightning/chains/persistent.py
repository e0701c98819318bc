"""Chains that outlive their negative phase: the sample buffer of persistent CD and of replay-buffer training."""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.chains.nonpersistent import check_num_chains, detached, initial_value, repeat_in_turn
from ebm_lightning.core import AGE, SLOT, Bounds, Chains, Info, Noise, State
from ebm_lightning.distributions.noise import UniformNoise


class Replacement(abc.ABC):
    """Which slot of the buffer a finished chain is written to."""

    drops: bool = False
    """Whether a finished chain may be dropped, which only the device can tell."""

    @abc.abstractmethod
    def slots(self, drawn: Tensor, size: int, seen: int) -> Tensor:
        """Slot of each finished chain, shape (B,), or -1 if it is dropped.

        ``drawn`` are the slots the chains were drawn from, ``seen`` counts the chains finished before these.
        """


@dataclass(frozen=True)
class WriteBack(Replacement):
    """A chain returns to the slot it was drawn from (Tieleman 2008; JEM, Grathwohl et al. 2020)."""

    def slots(self, drawn: Tensor, size: int, seen: int) -> Tensor:
        return drawn


@dataclass(frozen=True)
class FIFO(Replacement):
    """The newest chains overwrite the oldest (IGEBM, Du & Mordatch 2019)."""

    def slots(self, drawn: Tensor, size: int, seen: int) -> Tensor:
        return (seen + torch.arange(len(drawn), device=drawn.device)) % size


@dataclass(frozen=True)
class Reservoir(Replacement):
    """A uniform sample of all chains ever finished (Vitter 1985, algorithm R; improved CD, Du et al. 2021)."""

    drops = True

    def slots(self, drawn: Tensor, size: int, seen: int) -> Tensor:
        rank = seen + torch.arange(len(drawn), device=drawn.device)
        pick = (torch.rand(len(drawn), device=drawn.device, dtype=torch.float64) * (rank + 1)).long()
        slots = torch.where(rank < size, rank, torch.where(pick < size, pick, torch.full_like(pick, -1)))
        overwritten = (slots[:, None] == slots[None, :]).triu(1).any(1)  # the later of two chains for a slot wins
        return torch.where(overwritten, torch.full_like(slots, -1), slots)


class Storage(abc.ABC):
    """How positions are kept in the buffer."""

    @abc.abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """What is kept of ``x``."""

    @abc.abstractmethod
    def decode(self, stored: Tensor) -> Tensor:
        """A position from what was kept."""


@dataclass(frozen=True)
class FloatStorage(Storage):
    """Positions as they are."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, stored: Tensor) -> Tensor:
        return stored


@dataclass(frozen=True)
class Uint8Storage(Storage):
    """256 levels over ``bounds``, dequantized by uniform noise within a level when read: a quarter of the memory.

    Args:
        bounds: the interval of the stored values; values outside are clamped to it.
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
    """Persistent chains: they outlive the step (PCD, Tieleman 2008; replay buffer, Du & Mordatch 2019).

    A slot is initialized when it is first drawn, and a drawn chain is initialized again with probability
    ``reinit_prob``. What ``finish`` must know of ``start`` is metadata of the state: "chain.slot" (the slots drawn) and
    "chain.age" (negative phases lived). Not a registered buffer of the module: DDP would overwrite it with rank 0's.
    Each rank holds ``size`` chains of its own; :class:`~ebm_lightning.training.callbacks.buffer.BufferCallback` moves,
    saves and restores them.

    Args:
        size: chains held by each rank.
        reinit_prob: probability that a drawn chain is initialized again, in [0, 1].
        init: the initial distribution of a chain; None is uniform on [0, 1).
        replacement: the slot to which a finished chain is written; None is :class:`WriteBack`.
        storage: how positions are kept; None is :class:`FloatStorage`.
        keep: clamped variables (labels, say) stored with their chain and restored with it; a chain that is initialized
            again takes those of the current data.
        device: where the chains are kept, for example "cpu"; None keeps them where the data is.
        max_buffer_gb: upper bound for the chains of a rank, in 10^9 bytes: a chain of logits over a large vocabulary is
            large. None sets no bound.
        num_chains: chains of a negative phase, as in :class:`NoiseChains`.

    Raises:
        ValueError: if ``size`` < 1, ``reinit_prob`` lies outside [0, 1], ``num_chains`` < 1, a phase needs more chains
            than ``size``, or the chains would take more than ``max_buffer_gb``.

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
        self.store: State = {}
        self.age = torch.zeros(size, dtype=torch.int64)
        self.alive = torch.zeros(size, dtype=torch.bool)
        self.full = False

    def start(self, pos: State, free: tuple[str, ...]) -> State:
        pos = repeat_in_turn(pos, self.num_chains)
        n = len(next(iter(pos.values())))
        if n > self.size:
            raise ValueError(f"SampleBuffer(size={self.size}) cannot serve a batch of {n}; make it at least {n}")
        # A free variable that is not in pos is made by the sampler before it is read (the hidden units of an RBM).
        kept = [name for name in free if name in pos]
        state = detached(pos)
        chain = torch.randperm(self.size, device=self.age.device)[:n]
        if self.reinit_prob == 0 and self.full:  # nothing is initialized: no noise is drawn
            for name in (*kept, *self.keep):
                state[name] = self._decode(self.store[name][chain]).to(pos[name].device, pos[name].dtype)
            return {**state, SLOT: chain, AGE: self.age[chain]}
        fresh = {name: initial_value(self.init, pos, name) for name in kept}
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
            kept = slots >= 0
            slots, end = slots[kept], {name: end[name][kept] for name in (*self.store, AGE)}
        for name, store in self.store.items():
            store[slots] = self._encode(end[name]).to(store.device)
        self.age[slots] = end[AGE] + 1
        self.alive[slots] = True
        self.full = self.full or self._is_full

    def exchange(self, slots: Tensor, swap: Callable[[Tensor], Tensor]) -> None:
        for kept in (*self.store.values(), self.age, self.alive):
            kept[slots] = swap(kept[slots])
        self.full = self._is_full

    def info(self) -> Info:
        """``age``: negative phases that a chain has lived, mean; ``fill``: share of slots in use."""
        return {"age": self.age.sum() / self.alive.sum(), "fill": self.alive.float().mean()}

    def examples(self, n: int) -> State:
        """Up to ``n`` chains, decoded, with their ages; draws no random number but a decoder's."""
        slots = self.alive.nonzero().flatten()[:n]
        return {name: self._decode(kept[slots]) for name, kept in self.store.items()} | {AGE: self.age[slots]}

    def state_dict(self) -> State:
        """The chains, their ages and the counter: tensors only. An empty dict before the first step."""
        if not self.store:
            return {}
        counters = {"age": self.age, "alive": self.alive, "seen": torch.tensor(self.seen)}
        return {**{f"store.{name}": kept for name, kept in self.store.items()}, **counters}

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError if the state holds another number of chains; an empty one is none."""
        if not state:
            return
        if len(state["age"]) != self.size:
            raise ValueError(
                f"SampleBuffer(size={self.size}) cannot load {len(state['age'])} chains: merge them first by "
                "merge_state_dicts, or give the buffer that size"
            )
        self.store = {key.removeprefix("store."): kept for key, kept in state.items() if key.startswith("store.")}
        self.age, self.alive, self.seen = state["age"], state["alive"], int(state["seen"])
        self.full = self._is_full

    def merge_state_dicts(self, shards: list[State], rank: int, world_size: int) -> State:
        """A rank's own chains if there are as many ranks as before and the size is the same.

        Otherwise the chains of all ranks are pooled and distributed round-robin; slots that are left over are
        initialized when first drawn.
        """
        shards = [shard for shard in shards if shard]
        if not shards or (len(shards) == world_size and len(shards[rank]["age"]) == self.size):
            return shards[rank] if shards else {}
        return self._distribute(shards, rank, world_size)

    def to(self, device: torch.device) -> None:
        """Move the chains to where they are kept: to ``self.device``, or to ``device`` if that is None."""
        home = self.device or device
        self.store = {name: kept.to(home) for name, kept in self.store.items()}
        self.age, self.alive = self.age.to(home), self.alive.to(home)

    @property
    def _is_full(self) -> bool:
        """Whether no chain will be initialized any more."""
        return self.reinit_prob == 0 and bool(self.alive.all())

    def _allocate(self, fresh: State) -> None:
        home = self.device or next(iter(fresh.values())).device
        encoded = {name: self._encode(value) for name, value in fresh.items()}
        of_one = sum(kept[0].numel() * kept.element_size() for kept in encoded.values()) / 1e9
        if self.max_buffer_gb is not None and self.size * of_one > self.max_buffer_gb:
            raise ValueError(
                f"SampleBuffer(size={self.size}) would keep {self.size * of_one:.3g} GB of {', '.join(encoded)}, more "
                f"than max_buffer_gb={self.max_buffer_gb:g}: expected a size of at most "
                f"{int(self.max_buffer_gb / of_one)}"
            )
        for name, kept in encoded.items():
            self.store[name] = torch.zeros((self.size, *kept.shape[1:]), dtype=kept.dtype, device=home)
        self.age, self.alive = self.age.to(home), self.alive.to(home)

    def _encode(self, x: Tensor) -> Tensor:
        return self.storage.encode(x) if x.is_floating_point() else x

    def _decode(self, kept: Tensor) -> Tensor:
        return kept if kept.dtype == torch.int64 else self.storage.decode(kept)

    def _distribute(self, shards: list[dict[str, Tensor]], rank: int, world_size: int) -> dict[str, Tensor]:
        """This rank's share of all living chains, in slots 0, 1, ...; the remaining slots are empty."""
        living = [shard["alive"].cpu() for shard in shards]
        in_turn = torch.cat([torch.arange(int(alive.sum())) for alive in living]).argsort(stable=True)
        mine: dict[str, Tensor] = {}
        for key in shards[0]:
            if key == "seen":
                continue
            pooled = torch.cat([shard[key].cpu()[alive] for shard, alive in zip(shards, living, strict=True)])
            share = pooled[in_turn][rank::world_size][: self.size]
            mine[key] = torch.zeros((self.size, *share.shape[1:]), dtype=share.dtype)
            mine[key][: len(share)] = share
        return {**mine, "seen": mine["alive"].sum()}
