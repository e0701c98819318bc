"""Batches whose order and randomness follow from a seed and a position alone: resumable, sharded, repeatable.

torch's global generator is neither read nor written, so that sampling noise and data are independent of each other.
"""

import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.data.sources import Source
from ebm_lightning.utils.random import mix

Prepare = Callable[[State, torch.Generator], State]
"""A function that makes a batch for the model from stored rows, with all randomness from the generator."""

_ORDER, _BATCH, _EVAL = range(3)


@dataclass(frozen=True)
class Shard:
    """The part of every global batch that one rank takes.

    Args:
        batch_size: Examples per batch and rank.
        rank: Rank of this process.
        world_size: Number of processes.
        device: Device of the batches.

    Raises:
        ValueError: If a number is out of range.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: expected 1 or more examples per batch")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank={self.rank}, world_size={self.world_size}: expected 0 <= rank < world_size")

    @property
    def global_size(self) -> int:
        """Examples of a batch of all ranks together."""
        return self.batch_size * self.world_size


class Batches(abc.ABC):
    """The training batches of a run, stateful in Lightning's sense: ``iter`` begins at the state's position."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of batches of the run."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[State]:
        """The batches, from the position on."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The position after the batch last yielded, as plain values."""

    @abc.abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Move to a position given by ``state_dict``."""


class ShuffledBatches(Batches):
    """Shuffled training batches as one long epoch of ``length`` batches, through as many passes as that takes.

    Pass ``epoch`` has the rows in the order perm = randperm(n), a function of (seed, epoch) alone. With G = batch
    size x world_size, the global batch that begins at sample s is perm[s : s + G], of which rank r takes the contiguous
    slice perm[s + r B : s + (r + 1) B]. A remainder smaller than G is dropped, and is different in every pass. The
    batch's randomness (augmentation, dequantization, noise) comes from a generator on its device, seeded with
    mix(seed, epoch, s, r). Rows that may be moved, as windows of a text may, are moved in pass ``epoch`` by one number
    in 0..shift - 1, drawn with its order.

    It is stateful in Lightning's sense: the state is the position after the batch last yielded, already advanced
    when the batch is yielded. Because the position counts samples, a run that continues with another number of
    ranks neither repeats nor skips a sample of the pass.

    ``iter`` begins at the current position and gives ``length`` batches; a second ``iter`` continues after the first
    and does not rewind. Lightning needs both: FitLoop calls ``iter`` once after ``load_state_dict``, again
    after every Lightning epoch (if ``limit_train_batches`` cuts the run into several), and stops by its own count
    of steps.

    Args:
        source: The rows.
        rows: Row numbers of the training set (n,), int64, on the CPU.
        shard: Batch size, rank and device.
        length: Number of batches of the run.
        seed: Seed of order and randomness.
        prepare: Applied to every batch.
        shift: One more than the largest shift of rows; every row up to row + shift - 1 must exist.

    Raises:
        ValueError: If a number is out of range, or a global batch is larger than the training set.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        shard: Shard,
        length: int,
        seed: int,
        prepare: Prepare,
        *,
        shift: int = 1,
    ) -> None:
        _check_length(length)
        if shard.global_size > len(rows):
            raise ValueError(
                f"a batch of {shard.batch_size} on each of {shard.world_size} rank(s) needs {shard.global_size} "
                f"training examples, but there are {len(rows)}: lower batch_size, or hold out less for validation"
            )
        self.source, self.rows, self.shard, self.length = source, rows, shard, length
        self.seed, self.prepare, self.shift = seed, prepare, shift
        self._epoch = self._samples = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[State]:
        generator = torch.Generator(device=self.shard.device)
        begin = self._epoch, self._samples
        index_lists = self._index_lists(islice(self._positions(*begin), self.length))
        batches = self.source.batches(index_lists, self.shard.device)
        for (epoch, start), batch in zip(self._positions(*begin), batches, strict=False):
            generator.manual_seed(mix(self.seed, _BATCH, epoch, start, self.shard.rank))
            prepared = self.prepare(batch, generator)
            self._epoch, self._samples = epoch, start + self.shard.global_size
            yield prepared

    def state_dict(self) -> dict[str, int]:
        """The position: the pass, and how many of its samples all ranks together have consumed."""
        return {"epoch": self._epoch, "samples": self._samples}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Move to a position given by ``state_dict``, also one of a run with another number of ranks."""
        self._epoch, self._samples = state_dict["epoch"], state_dict["samples"]

    def _positions(self, epoch: int, start: int) -> Iterator[tuple[int, int]]:
        """Endless (pass, first sample of the global batch), from the position given."""
        size = self.shard.global_size
        while True:
            if start + size > len(self.rows):
                epoch, start = epoch + 1, 0
            yield epoch, start
            start += size

    def _index_lists(self, positions: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        """This rank's row numbers (B,) at each position."""
        shuffled, order = -1, self.rows
        for epoch, start in positions:
            if epoch != shuffled:
                generator = torch.Generator().manual_seed(mix(self.seed, _ORDER, epoch))
                shuffled, order = epoch, self.rows[torch.randperm(len(self.rows), generator=generator)]
                order = order + torch.randint(self.shift, (), generator=generator)
            first = start + self.shard.rank * self.shard.batch_size
            yield order[first : first + self.shard.batch_size]


class JointBatches(Batches):
    """Several training streams: one batch of each at a time, in one state.

    The variables of a further stream have its name as suffix: ``x_labeled`` is x of the stream ``labeled``. Each is
    the same function of (seed, epoch, position, rank) as alone, and stateful like :class:`ShuffledBatches`.

    Args:
        main: The stream whose variables keep their names.
        others: The further streams, by name, each as long as the main one.
    """

    def __init__(self, main: Batches, others: dict[str, Batches]) -> None:
        self.main, self.others = main, others

    def __len__(self) -> int:
        return len(self.main)

    def __iter__(self) -> Iterator[State]:
        for main, *others in zip(self.main, *self.others.values(), strict=True):
            batch = dict(main)
            for name, other in zip(self.others, others, strict=True):
                batch |= {f"{variable}_{name}": value for variable, value in other.items()}
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position of the main stream, and of every further one under its name."""
        return {"main": self.main.state_dict(), "others": {k: other.state_dict() for k, other in self.others.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.main.load_state_dict(state_dict["main"])
        for name, other in self.others.items():
            other.load_state_dict(state_dict["others"][name])


@dataclass(frozen=True)
class Block:
    """Some rows of a source (n,), int64, on the CPU, and the position of the next block; None at the end."""

    source: Source
    rows: Tensor
    next_position: Any


class Blocks(abc.ABC):
    """Data that are read in one order, block by block. The position of a block is given in plain values."""

    @abc.abstractmethod
    def read(self, position: Any) -> Block:
        """The block at a position, the ``next_position`` of the block before it; None is the beginning."""


class BlockShuffledBatches(Batches):
    """Training batches of data too large to shuffle: blocks in their order, each shuffled and used up before the next.

    Block number k of a run, counted through all passes, is a :class:`ShuffledBatches` of one pass with the seed
    mix(seed, k); its remainder, smaller than a global batch, is dropped. So order and randomness follow from (seed,
    block, position, rank), and the state is only the position in the block and that of the block: unlike a shuffle
    buffer, whose content would be lost, a block is read again. Every rank reads all blocks.

    Args:
        blocks: The data.
        shard: Batch size, rank and device.
        length: Number of batches of the run.
        seed: Seed of order and randomness.
        prepare: Applied to every batch.
        cache_bytes: Size up to which a block is kept on the device.

    Raises:
        ValueError: If a number is out of range; when iterating, if a global batch is larger than the first block.
    """

    def __init__(
        self,
        blocks: Blocks,
        shard: Shard,
        length: int,
        seed: int,
        prepare: Prepare,
        *,
        cache_bytes: int = 0,
    ) -> None:
        _check_length(length)
        self.blocks, self.shard, self.length, self.seed, self.prepare = blocks, shard, length, seed, prepare
        self.cache_bytes = cache_bytes
        self._number = self._samples = 0
        self._position: Any = None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[State]:
        return islice(self._endless(), self.length)

    def state_dict(self) -> dict[str, Any]:
        """The block, its position, and how many of its samples all ranks together have consumed."""
        return {"block": self._number, "samples": self._samples, "position": self._position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._number, self._samples, self._position = (state_dict[name] for name in ("block", "samples", "position"))

    def _endless(self) -> Iterator[State]:
        size = self.shard.global_size
        while True:
            block = self.blocks.read(self._position)
            left = (len(block.rows) - self._samples) // size
            # A later block may be small, such as the last of a pass; but the first must give a batch, or no pass would.
            if left > 0 or self._position is None:
                shuffled = self._shuffled(block, left)
                for batch in shuffled:
                    self._samples = shuffled.state_dict()["samples"]
                    yield batch
            self._number, self._samples, self._position = self._number + 1, 0, block.next_position

    def _shuffled(self, block: Block, length: int) -> ShuffledBatches:
        """The rest of a block, from the position on."""
        stream = ShuffledBatches(
            block.source.to(self.shard.device, self.cache_bytes),
            block.rows,
            self.shard,
            length,
            mix(self.seed, self._number),
            self.prepare,
        )
        stream.load_state_dict({"epoch": 0, "samples": self._samples})
        return stream


class EvalLoader:
    """One pass in order over a split, the last and smaller batch included; every ``iter`` gives the same batches.

    Rank r of W takes the rows r, r + W, r + 2 W, ..., so that every example is used exactly once. The randomness of
    batch b comes from a generator on its device, seeded with mix(seed, b, r).

    Args:
        source: The rows.
        rows: Row numbers of the split (n,), int64, on the CPU.
        shard: Batch size, rank and device.
        seed: Seed of the randomness.
        prepare: Applied to every batch.

    Raises:
        ValueError: If a number is out of range, or there are fewer rows than ranks.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        shard: Shard,
        seed: int,
        prepare: Prepare,
    ) -> None:
        if len(rows) < shard.world_size:
            raise ValueError(
                f"{len(rows)} example(s) cannot be shared among {shard.world_size} ranks: use a larger split"
            )
        self.source, self.shard, self.seed, self.prepare = source, shard, seed, prepare
        self.index_lists = torch.split(rows[shard.rank :: shard.world_size], shard.batch_size)

    def __len__(self) -> int:
        return len(self.index_lists)

    def __iter__(self) -> Iterator[State]:
        generator = torch.Generator(device=self.shard.device)
        for number, batch in enumerate(self.source.batches(self.index_lists, self.shard.device)):
            generator.manual_seed(mix(self.seed, _EVAL, number, self.shard.rank))
            yield self.prepare(batch, generator)


def _check_length(length: int) -> None:
    if length < 0:
        raise ValueError(f"length={length}: expected the number of batches of the run, 0 or more")
