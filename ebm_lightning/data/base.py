"""The DataModule: splits, shards and devices, the same for every kind of data."""

import abc
import math
import os
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import lightning.pytorch as L
import torch
from torch import Tensor

from ebm_lightning.core import Bounded, State
from ebm_lightning.data.sources import Source
from ebm_lightning.data.streams import Batches, EvalLoader, JointStream, TrainStream
from ebm_lightning.utils.random import mix

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Subset:
    """Some rows of a source, by number (n,), int64, on the CPU.

    In training, where ``shift`` is above 1, all rows of a pass are moved by one number drawn from 0..shift - 1.
    """

    source: Source
    rows: Tensor
    shift: int = 1


class DataModule(L.LightningDataModule, Bounded):
    """Data for training, validation and test, in batches ``{"x": float32 (B, ...), "y": int64 (B,)}`` on the device.

    ``y`` is there where the data have labels. Validation examples are held out of the training set by a split of its
    own seed. Training order and randomness follow from ``seed``; the randomness of evaluation follows from
    ``split_seed``, so that every model and every run is judged on the same draws.

    Subclasses define ``shape`` and ``load``, and ``prepare`` where stored rows are not what the model sees. They set
    ``classes`` and ``bounds`` if there are any, ``preprocessing``, which names how stored values became the numbers a
    model sees and stands beside every log-probability, ``binary``, which says whether these are all 0 or 1 (None:
    not known), and ``dtype``, that of x.

    Args:
        batch_size: Examples per batch and rank.
        valid: How much of the training set to hold out: a number of examples, or a share below 1.
        split_seed: Of the held-out choice, and of the randomness in evaluation.
        seed: Of training order and randomness; None takes the run's (``seed_everything``), or 0.
        memory_gb: In-memory data of up to this size, in 10^9 bytes, are kept on the training device.
        max_train: Train on this many examples only, for smoke runs.

    Raises:
        ValueError: Where a number is out of range, or a split or batch asks for more examples than there are.
    """

    classes: int | None = None
    preprocessing: str | None = None
    binary: bool | None = None
    dtype: torch.dtype = torch.float32

    def __init__(
        self,
        batch_size: int,
        *,
        valid: int | float,
        split_seed: int,
        seed: int | None,
        memory_gb: float,
        max_train: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if batch_size < 1:
            raise ValueError(f"{name}(batch_size={batch_size}): expected 1 or more examples per batch")
        if valid < 0 or (isinstance(valid, float) and valid >= 1):
            raise ValueError(f"{name}(valid={valid}): expected a whole number of examples or a share in [0, 1)")
        if memory_gb < 0:
            raise ValueError(f"{name}(memory_gb={memory_gb}): expected 0 or more")
        if max_train is not None and max_train < 1:
            raise ValueError(f"{name}(max_train={max_train}): expected 1 or more examples, or null for all")
        self.batch_size, self.valid, self.split_seed, self.seed = batch_size, valid, split_seed, seed
        self.memory_gb, self.max_train = memory_gb, max_train
        self._moved: dict[tuple[int, torch.device], Source] = {}

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one x, without the batch axis; known before the data are read."""

    @abc.abstractmethod
    def load(self) -> tuple[Subset, Subset]:
        """Reads the data: the rows for training and validation together, and those for test. Called once."""

    def hold_out(self, train: Subset) -> tuple[Subset, Subset]:
        """The rows for training, and those held out: a hook; by default by a permutation of the seed ``split_seed``."""
        total = len(train.rows)
        held_out = math.floor(self.valid * total) if isinstance(self.valid, float) else self.valid
        if held_out >= total:
            raise ValueError(
                f"{type(self).__name__}(valid={self.valid}) holds out {held_out} of {total} training examples: "
                "expected fewer, so that some are left to train on"
            )
        order = torch.randperm(total, generator=torch.Generator().manual_seed(mix(self.split_seed)))
        rows = train.rows[order]
        return replace(train, rows=rows[held_out:]), replace(train, rows=rows[:held_out])

    def shown(self, train: Subset) -> Subset:
        """The training examples as a learner may see them, of those chosen for training: a hook; by default all."""
        return train

    def prepare(self, batch: State, generator: torch.Generator, train: bool) -> State:
        """Turns stored rows, which carry the rider ``index``, into a batch for the model. A hook; by default {x, y}.

        All randomness comes from ``generator``, on the device of the batch; ``train`` says whether the batch is to be
        learned from, and so whether to augment it.
        """
        return {name: batch[name] for name in ("x", "y") if name in batch}

    def without_test_noise(self) -> "DataModule":
        """The same data, judged without the noise that evaluation adds: a hook; by default these, which have none."""
        return self

    def exact(self) -> tuple[Tensor, Tensor]:
        """The distinct values of x, (P, *shape), and their probabilities, float64 (P,): a hook.

        Raises ValueError where the distribution of the data is not known.
        """
        raise ValueError(
            f"the distribution of {type(self).__name__} is not known, so nothing can be measured exactly against it: "
            "use data that are made up, such as Bars or BarsAndStripes"
        )

    def attributes(self, x: Tensor) -> dict[str, Tensor]:
        """What a rule says of any images x (N, ...), each attribute a bool (N,): a hook.

        "valid" is whether an image shows what the data show; the others, at least one, mean something where it is.
        Raises ValueError where the data know no such rule.
        """
        raise ValueError(
            f"{type(self).__name__} knows no attributes of images: use data that are made up with some, such as Squares"
        )

    def beside(self) -> dict[str, "DataModule"]:
        """What else is drawn for every training batch, by the name behind its variables: a hook; by default nothing.

        Each is this module with other settings of its training batches, and shares what it has read.
        """
        return {}

    def train_stream(
        self,
        length: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> Batches:
        """The ``length`` training batches of a whole run, for one rank of ``world``; no trainer is needed.

        ``seed`` None takes this module's. Streams that are drawn beside it have seeds made from it and their number. A
        hook for data that are never there as a whole; by default a TrainStream.
        """
        split, device, seed = self._splits["train"], torch.device(device), self._run_seed() if seed is None else seed
        main = TrainStream(
            self._placed(split.source, device),
            split.rows,
            self.batch_size,
            length,
            seed,
            partial(self.prepare, train=True),
            shift=split.shift,
            rank=rank,
            world=world,
            device=device,
        )
        others = {
            name: data.train_stream(length, seed=mix(seed, number), rank=rank, world=world, device=device)
            for number, (name, data) in enumerate(self.beside().items(), 1)
        }
        return JointStream(main, others) if others else main

    def eval_loader(
        self, split: Split, *, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
    ) -> EvalLoader:
        """One pass over a split as evaluation sees it: in order, without augmentation, the same every time."""
        part, device = self._splits[split], torch.device(device)
        return EvalLoader(
            self._placed(part.source, device),
            part.rows,
            self.batch_size,
            self.split_seed,
            partial(self.prepare, train=False),
            rank=rank,
            world=world,
            device=device,
        )

    def size(self, split: Split) -> int:
        """How many examples a split has; 0 where nothing is held out for validation."""
        return len(self._splits[split].rows)

    def tensors(self, split: Split) -> State:
        """A whole split as evaluation sees it, {x, y}: the batches of ``eval_loader``, joined.

        On the trainer's device where one is attached, else on the CPU. Raises ValueError where the split is empty.
        """
        device = self.trainer.strategy.root_device if self.trainer else "cpu"
        batches = list(self.eval_loader(split, device=device))
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    def train_dataloader(self) -> Batches:
        """The training batches of the trainer's run. Raises ValueError where ``max_steps`` is not set."""
        trainer = self._attached()
        if trainer.max_steps == -1:
            raise ValueError("runs are counted in steps: set trainer.max_steps")
        return self.train_stream(
            trainer.max_steps * trainer.accumulate_grad_batches,
            # Ranks that have seeded themselves apart must still agree on one order.
            seed=trainer.strategy.broadcast(self._run_seed()),
            rank=trainer.global_rank,
            world=trainer.world_size,
            device=trainer.strategy.root_device,
        )

    def val_dataloader(self) -> EvalLoader | list[EvalLoader]:
        """The validation batches; an empty list, and so no validation, where nothing is held out."""
        return self._eval_dataloader("valid") if len(self._splits["valid"].rows) else []

    def test_dataloader(self) -> EvalLoader:
        """The test batches."""
        return self._eval_dataloader("test")

    @cached_property
    def _splits(self) -> dict[Split, Subset]:
        """Read once."""
        whole, test = self.load()
        train, valid = self.hold_out(whole)
        return {"train": self.shown(replace(train, rows=train.rows[: self.max_train])), "valid": valid, "test": test}

    def _eval_dataloader(self, split: Split) -> EvalLoader:
        trainer = self._attached()
        return self.eval_loader(
            split, rank=trainer.global_rank, world=trainer.world_size, device=trainer.strategy.root_device
        )

    def _placed(self, source: Source, device: torch.device) -> Source:
        """The source on the device if it fits, moved there once and shared by the splits."""
        key = id(source), device
        if key not in self._moved:
            self._moved[key] = source.to(device, int(self.memory_gb * 1e9))
        return self._moved[key]

    def _attached(self) -> L.Trainer:
        if self.trainer is None:
            raise ValueError(
                f"{type(self).__name__} is not attached to a trainer: pass it to trainer.fit(datamodule=...), "
                "or use tensors, train_stream or eval_loader, which need none"
            )
        return self.trainer

    def _run_seed(self) -> int:
        """The seed of training; ``seed_everything`` leaves the run's in PL_GLOBAL_SEED."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed
