"""Sources of rows: a tensor in memory, or a data set too large for the memory, read by worker processes."""

import abc
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ebm_lightning.core import INDEX, State


class Source(abc.ABC):
    """Rows with numbers. Every batch also has ``data.index`` (B,), int64, which identifies its examples.

    ``data.index`` is the row's number plus the source's ``first_index``. It is the same in every pass, so that
    FixedBinarization gives an image the same values each time.
    """

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abc.abstractmethod
    def batches(self, index_lists: Iterable[Tensor], device: torch.device) -> Iterator[State]:
        """One batch on ``device`` for each list of row numbers (B,), int64, in that order."""

    @abc.abstractmethod
    def to(self, device: torch.device, limit: int) -> "Source":
        """This source with its tensors on ``device``, if they take no more than ``limit`` bytes."""


@dataclass(frozen=True)
class InMemory(Source):
    """Tensors with a common first axis; batches are gathered on the device of the tensors.

    Args:
        tensors: Named tensors (N, ...).
        first_index: The ``data.index`` of row 0.
    """

    tensors: State
    first_index: int = 0

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"InMemory: expected one or more tensors of one common length, got {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def batches(self, index_lists: Iterable[Tensor], device: torch.device) -> Iterator[State]:
        own_device = next(iter(self.tensors.values())).device
        for index in index_lists:
            rows = index.to(own_device)
            batch = {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()}
            batch[INDEX] = rows + self.first_index
            yield {name: tensor.to(device) for name, tensor in batch.items()}

    def to(self, device: torch.device, limit: int) -> "InMemory":
        if sum(tensor.nbytes for tensor in self.tensors.values()) > limit:
            return self
        return InMemory({name: tensor.to(device) for name, tensor in self.tensors.items()}, self.first_index)


@dataclass(frozen=True)
class LazySource(Source):
    """A map-style data set, such as one of Hugging Face ``datasets``, read and decoded during training.

    Args:
        dataset: A data set with ``len``, whose row i is ``dataset[i]``.
        decode: Converts such a row to named tensors without a batch axis.
        workers: Number of worker processes; 0 reads in the training process.
        first_index: The ``data.index`` of row 0.
    """

    dataset: Any
    decode: Callable[[Any], State]
    workers: int = 4
    first_index: int = 0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"LazySource(workers={self.workers}): expected 0 or more worker processes")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> State:
        """Row ``row``, decoded."""
        return {**self.decode(self.dataset[row]), INDEX: torch.tensor(row + self.first_index)}

    def batches(self, index_lists: Iterable[Tensor], device: torch.device) -> Iterator[State]:
        loader: DataLoader[State] = DataLoader(
            self,  # type: ignore[arg-type]  # anything with __len__ and __getitem__ is a map-style data set
            batch_sampler=_Lists(index_lists),
            num_workers=self.workers,
            worker_init_fn=ignore_signals,
            pin_memory=device.type == "cuda",
            # Without a generator of its own a loader draws its workers' seed from torch's global one.
            generator=torch.Generator(),
        )
        for batch in loader:
            yield {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    def to(self, device: torch.device, limit: int) -> "LazySource":
        return self


def ignore_signals(worker: int) -> None:
    """Ignore, in a worker process, the signals after which the training process saves and stops on a cluster.

    SIGUSR1, SIGTERM and SIGINT reach every process of a job; the training process ends its workers itself.
    """
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@dataclass(frozen=True)
class _Lists:
    """Tensors of row numbers as the lists of integers that a DataLoader sends to its workers."""

    tensors: Iterable[Tensor]

    def __iter__(self) -> Iterator[list[int]]:
        return (index.tolist() for index in self.tensors)
