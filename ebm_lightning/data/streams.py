"""Batches whose order and randomness follow from a seed and a position alone: resumable, sharded, repeatable.

torch's global generator is neither read nor written, so that sampling noise and data are independent of each other.
"""

import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.data.sources import Source
from ebm_lightning.utils.random import mix

Prepare = Callable[[State, torch.Generator], State]
"""Turns stored rows into a batch for the model; all its randomness comes from the generator."""

_ORDER, _BATCH, _EVAL = range(3)


class Batches(abc.ABC):
    """The training batches of a run, stateful in Lightning's sense: the state says where the next ``iter`` begins."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Batches of the whole run."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[State]:
        """As many batches, from the position on."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The position after the batch last handed out, as plain values."""

    @abc.abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes to a position given by ``state_dict``."""


class TrainStream(Batches):
    """Shuffled training batches as one long epoch of ``length`` batches, through as many passes as that takes.

    Pass ``epoch`` shows the rows in the order perm = randperm(n), a function of (seed, epoch) alone. With G = batch
    size x world, the global batch that begins at sample s is perm[s : s + G], of which rank r takes the contiguous
    slice perm[s + r B : s + (r + 1) B]. A remainder smaller than G is dropped, and is different in every pass. The
    batch's randomness (augmentation, dequantisation, noise) comes from a generator on its device, seeded with
    mix(seed, epoch, s, r). Rows that may be moved, as windows of a text may, are moved in pass ``epoch`` by one number
    in 0..shift - 1, drawn with its order.

    It is stateful in Lightning's sense: the state is the position after the batch last yielded, already advanced
    when the batch is handed out. Because the position counts samples, a run that goes on with another number of
    ranks neither repeats nor skips a sample of the pass.

    ``iter`` begins at the current position and gives ``length`` batches; a second ``iter`` goes on where the first
    stood and does not rewind. Lightning needs both: FitLoop calls ``iter`` once after ``load_state_dict``, again
    after every Lightning epoch (where ``limit_train_batches`` cuts the run into several), and stops by its own count
    of steps.

    Args:
        source: Where the rows are.
        rows: Row numbers of the training set (n,), int64, on the CPU.
        batch_size: Examples per batch and rank.
        length: Batches of the whole run.
        seed: Of order and randomness.
        prepare: Applied to every batch.
        shift: By how much rows may be moved, and one more; every row up to row + shift - 1 must exist.
        rank: Of this process.
        world: Number of processes.
        device: Where batches are made.

    Raises:
        ValueError: Where a number is out of range, or a global batch is larger than the training set.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        batch_size: int,
        length: int,
        seed: int,
        prepare: Prepare,
        *,
        shift: int = 1,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_shard(batch_size, rank, world, length)
        if batch_size * world > len(rows):
            raise ValueError(
                f"a batch of {batch_size} on each of {world} rank(s) needs {batch_size * world} training examples, "
                f"but there are {len(rows)}: lower batch_size, or hold out less for validation"
            )
        self.source, self.rows, self.batch_size, self.length = source, rows, batch_size, length
        self.seed, self.prepare, self.shift, self.rank, self.world = seed, prepare, shift, rank, world
        self.device = torch.device(device)
        self._epoch = self._samples = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[State]:
        generator = torch.Generator(device=self.device)
        begin = self._epoch, self._samples
        index_lists = self._index_lists(islice(self._positions(*begin), self.length))
        batches = self.source.batches(index_lists, self.device)
        for (epoch, start), batch in zip(self._positions(*begin), batches, strict=False):
            generator.manual_seed(mix(self.seed, _BATCH, epoch, start, self.rank))
            prepared = self.prepare(batch, generator)
            self._epoch, self._samples = epoch, start + self.batch_size * self.world
            yield prepared

    def state_dict(self) -> dict[str, int]:
        """The position: the pass, and how many of its samples all ranks together have consumed."""
        return {"epoch": self._epoch, "samples": self._samples}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes to a position given by ``state_dict``, perhaps that of a run with another number of ranks."""
        self._epoch, self._samples = state_dict["epoch"], state_dict["samples"]

    def _positions(self, epoch: int, start: int) -> Iterator[tuple[int, int]]:
        """Endlessly (pass, first sample of the global batch), from the position given."""
        size = self.batch_size * self.world
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
            first = start + self.rank * self.batch_size
            yield order[first : first + self.batch_size]


class JointStream(Batches):
    """Several training streams side by side: one batch of each at a time, in one state.

    The variables of a further stream have its name behind theirs: ``x_labeled`` is x of the stream ``labeled``. Each
    is the function of (seed, epoch, position, rank) that it is alone, and stateful as :class:`TrainStream` is.

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
    """Some rows of a source (n,), int64, on the CPU, and the place of what comes after; None where that is the end."""

    source: Source
    rows: Tensor
    after: Any


class Blocks(abc.ABC):
    """Data that are read in one order, block by block. A place, in plain values, says where a block begins."""

    @abc.abstractmethod
    def read(self, place: Any) -> Block:
        """The block at a place that a block before it has named; None is the beginning."""


class BlockStream(Batches):
    """Training batches of data too many to shuffle: blocks in their order, each shuffled and dealt out whole.

    Block number k of a run, counted on through all passes, is a :class:`TrainStream` of one pass with the seed
    mix(seed, k); its remainder, smaller than a global batch, is dropped. So order and randomness follow from (seed,
    block, position, rank), and the position in the block, with the place where it begins, is all the state there is:
    unlike a shuffle buffer, whose content would be lost, a block is read again. Every rank reads all blocks.

    Args:
        blocks: What is read.
        batch_size: Examples per batch and rank.
        length: Batches of the whole run.
        seed: Of order and randomness.
        prepare: Applied to every batch.
        memory: Bytes up to which a block is kept on the device.
        rank: Of this process.
        world: Number of processes.
        device: Where batches are made.

    Raises:
        ValueError: Where a number is out of range; when iterating, where a global batch is larger than the first block.
    """

    def __init__(
        self,
        blocks: Blocks,
        batch_size: int,
        length: int,
        seed: int,
        prepare: Prepare,
        *,
        memory: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_shard(batch_size, rank, world, length)
        self.blocks, self.batch_size, self.length, self.seed, self.prepare = blocks, batch_size, length, seed, prepare
        self.memory, self.rank, self.world, self.device = memory, rank, world, torch.device(device)
        self._number = self._samples = 0
        self._place: Any = None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[State]:
        return islice(self._endlessly(), self.length)

    def state_dict(self) -> dict[str, Any]:
        """The block, its place, and how many of its samples all ranks together have consumed."""
        return {"block": self._number, "samples": self._samples, "place": self._place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._number, self._samples, self._place = (state_dict[name] for name in ("block", "samples", "place"))

    def _endlessly(self) -> Iterator[State]:
        size = self.batch_size * self.world
        while True:
            block = self.blocks.read(self._place)
            left = (len(block.rows) - self._samples) // size
            # A later block may be small, as the last of a pass is; the first decides, or a pass could be empty.
            if left > 0 or self._place is None:
                shuffled = self._shuffled(block, left)
                for batch in shuffled:
                    self._samples = shuffled.state_dict()["samples"]
                    yield batch
            self._number, self._samples, self._place = self._number + 1, 0, block.after

    def _shuffled(self, block: Block, length: int) -> TrainStream:
        """The rest of a block, from the position on."""
        stream = TrainStream(
            block.source.to(self.device, self.memory),
            block.rows,
            self.batch_size,
            length,
            mix(self.seed, self._number),
            self.prepare,
            rank=self.rank,
            world=self.world,
            device=self.device,
        )
        stream.load_state_dict({"epoch": 0, "samples": self._samples})
        return stream


class EvalLoader:
    """One pass in order over a split, the last and smaller batch included; every ``iter`` gives the same batches.

    Rank r of W takes the rows r, r + W, r + 2 W, ..., so that every example is seen exactly once. The randomness of
    batch b comes from a generator on its device, seeded with mix(seed, b, r).

    Args:
        source: Where the rows are.
        rows: Row numbers of the split (n,), int64, on the CPU.
        batch_size: Examples per batch and rank.
        seed: Of the randomness.
        prepare: Applied to every batch.
        rank: Of this process.
        world: Number of processes.
        device: Where batches are made.

    Raises:
        ValueError: Where a number is out of range, or there are fewer rows than ranks.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        batch_size: int,
        seed: int,
        prepare: Prepare,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_shard(batch_size, rank, world)
        if len(rows) < world:
            raise ValueError(f"{len(rows)} example(s) cannot be shared among {world} ranks: use a larger split")
        self.source, self.batch_size, self.seed, self.prepare, self.rank = source, batch_size, seed, prepare, rank
        self.index_lists = torch.split(rows[rank::world], batch_size)
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.index_lists)

    def __iter__(self) -> Iterator[State]:
        generator = torch.Generator(device=self.device)
        for number, batch in enumerate(self.source.batches(self.index_lists, self.device)):
            generator.manual_seed(mix(self.seed, _EVAL, number, self.rank))
            yield self.prepare(batch, generator)


def _check_shard(batch_size: int, rank: int, world: int, length: int = 0) -> None:
    """Raises ValueError where the numbers describe no shard of a run."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected 1 or more examples per batch")
    if not 0 <= rank < world:
        raise ValueError(f"rank={rank}, world={world}: expected 0 <= rank < world")
    if length < 0:
        raise ValueError(f"length={length}: expected the number of batches of the run, 0 or more")
