"""DataModule: splits, shards and devices, the same for every kind of data."""

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
from ebm_lightning.data.streams import Batches, EvalLoader, JointBatches, Shard, ShuffledBatches
from ebm_lightning.utils.random import mix

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Loading:
    """Options of every DataModule, with the same defaults: seeds, number of examples, and device cache.

    Args:
        seed: Seed of training order and randomness; None takes the run's (``seed_everything``), or 0.
        split_seed: Seed of the choice of validation examples, and of the randomness in evaluation.
        max_train: Number of examples to train on, for smoke runs; None takes all.
        device_cache_gb: Size, in 10^9 bytes, up to which data in memory are kept on the training device.

    Raises:
        ValueError: If ``max_train`` < 1 or ``device_cache_gb`` < 0.
    """

    seed: int | None = None
    split_seed: int = 0
    max_train: int | None = None
    device_cache_gb: float = 4.0

    def __post_init__(self) -> None:
        if self.device_cache_gb < 0:
            raise ValueError(f"Loading(device_cache_gb={self.device_cache_gb}): expected 0 or more")
        if self.max_train is not None and self.max_train < 1:
            raise ValueError(f"Loading(max_train={self.max_train}): expected 1 or more examples, or null for all")

    @property
    def device_cache_bytes(self) -> int:
        """``device_cache_gb`` in bytes."""
        return int(self.device_cache_gb * 1e9)

    def run_seed(self) -> int:
        """The seed of training; ``seed_everything`` leaves the run's in PL_GLOBAL_SEED."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed


@dataclass(frozen=True)
class Subset:
    """Some rows of a source, by number (n,), int64, on the CPU.

    In training, if ``shift`` is above 1, all rows of a pass are moved by one number drawn from 0..shift - 1.
    """

    source: Source
    rows: Tensor
    shift: int = 1


class DataModule(L.LightningDataModule, Bounded):
    """Data for training, validation and test, in batches ``{"x": float32 (B, ...), "y": int64 (B,)}`` on the device.

    ``y`` is present if the data have labels. Validation examples are held out of the training set by a split with a
    seed of its own. Training order and randomness follow from ``loading.seed``; the randomness of evaluation follows
    from ``loading.split_seed``, so that all models and runs are evaluated on the same draws.

    Subclasses define ``shape`` and ``load``, and ``prepare`` if stored rows are not the model's input. They set
    ``classes`` and ``bounds`` if there are any; ``preprocessing``, the name of the map from stored values to the
    model's input, which is reported with every log-probability; ``binary``, whether all values are 0 or 1 (None: not
    known); and ``dtype``, that of x. Arguments whose meaning or default differs between data sets are their own, the
    others are one :class:`Loading`.

    Args:
        batch_size: Examples per batch and rank.
        val_size: Examples of the training set to hold out for validation: a number, or a share below 1.
        loading: Seeds, limits and device cache.

    Raises:
        ValueError: If a number is out of range, or a split or batch needs more examples than there are.
    """

    classes: int | None = None
    preprocessing: str | None = None
    binary: bool | None = None
    dtype: torch.dtype = torch.float32

    def __init__(self, batch_size: int, *, val_size: int | float, loading: Loading = Loading()) -> None:
        super().__init__()
        name = type(self).__name__
        if batch_size < 1:
            raise ValueError(f"{name}(batch_size={batch_size}): expected 1 or more examples per batch")
        if val_size < 0 or (isinstance(val_size, float) and val_size >= 1):
            raise ValueError(f"{name}(val_size={val_size}): expected an integer or a share in [0, 1)")
        self.batch_size, self.val_size, self.loading = batch_size, val_size, loading
        self._moved: dict[tuple[int, torch.device], Source] = {}

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one x, without the batch axis; known before the data are read."""

    @abc.abstractmethod
    def load(self) -> tuple[Subset, Subset]:
        """Read the data: the rows for training and validation together, and those for test. Called once."""

    def hold_out(self, train: Subset) -> tuple[Subset, Subset]:
        """The rows for training, and those held out: a hook; by default those of a seeded permutation."""
        total = len(train.rows)
        held_out = math.floor(self.val_size * total) if isinstance(self.val_size, float) else self.val_size
        if held_out >= total:
            raise ValueError(
                f"{type(self).__name__}(val_size={self.val_size}) holds out {held_out} of {total} training examples: "
                "expected fewer, so that some remain for training"
            )
        order = torch.randperm(total, generator=torch.Generator().manual_seed(mix(self.loading.split_seed)))
        rows = train.rows[order]
        return replace(train, rows=rows[held_out:]), replace(train, rows=rows[:held_out])

    def hide_labels(self, train: Subset) -> Subset:
        """The training examples, with labels hidden that training must not use: a hook; by default with all labels."""
        return train

    def prepare(self, batch: State, generator: torch.Generator, train: bool) -> State:
        """Make a batch for the model of stored rows and their ``data.index``: a hook; by default {x, y}.

        All randomness comes from ``generator``, on the device of the batch. Only batches with ``train`` are augmented.
        """
        return {name: batch[name] for name in ("x", "y") if name in batch}

    def without_test_noise(self) -> "DataModule":
        """The same data without the noise that evaluation adds: a hook; by default these, which have none."""
        return self

    def true_distribution(self) -> tuple[Tensor, Tensor]:
        """The distinct values of x, (P, *shape), and their probabilities, float64 (P,): a hook.

        Raises ValueError if the distribution of the data is not known.
        """
        raise ValueError(
            f"the distribution of {type(self).__name__} is not known, so exact measures are not possible: "
            "use synthetic data, such as Bars or BarsAndStripes"
        )

    def attributes(self, x: Tensor) -> dict[str, Tensor]:
        """The attributes of any images x (N, ...), each a bool (N,), computed by a rule: a hook.

        "valid" is whether an image is possible in the data; the other attributes, at least one, apply to valid images.
        Raises ValueError if the data have no such rule.
        """
        raise ValueError(
            f"{type(self).__name__} has no attributes of images: use synthetic data that have some, such as Squares"
        )

    def extra_streams(self) -> dict[str, "DataModule"]:
        """The data of further training streams, by the suffix of their variables: a hook; by default none.

        Each is this module with other settings of its training batches, and shares the data read.
        """
        return {}

    def train_stream(
        self,
        length: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> Batches:
        """The ``length`` training batches of a run, for one rank of ``world_size``; no trainer is needed.

        ``seed`` None takes this module's. Further streams have seeds computed from it and their number. A hook for data
        that are never in memory as a whole; by default ShuffledBatches.
        """
        split, shard = self._splits["train"], Shard(self.batch_size, rank, world_size, torch.device(device))
        seed = self.loading.run_seed() if seed is None else seed
        source, prepare = self._placed(split.source, shard.device), partial(self.prepare, train=True)
        main = ShuffledBatches(source, split.rows, shard, length, seed, prepare, shift=split.shift)
        others = {
            name: data.train_stream(length, seed=mix(seed, number), rank=rank, world_size=world_size, device=device)
            for number, (name, data) in enumerate(self.extra_streams().items(), 1)
        }
        return JointBatches(main, others) if others else main

    def eval_loader(
        self, split: Split, *, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu"
    ) -> EvalLoader:
        """One pass over a split for evaluation: in order, without augmentation, the same every time."""
        part, shard = self._splits[split], Shard(self.batch_size, rank, world_size, torch.device(device))
        source, prepare = self._placed(part.source, shard.device), partial(self.prepare, train=False)
        return EvalLoader(source, part.rows, shard, self.loading.split_seed, prepare)

    def size(self, split: Split) -> int:
        """Number of examples of a split; 0 if nothing is held out for validation."""
        return len(self._splits[split].rows)

    def tensors(self, split: Split) -> State:
        """All examples of a split for evaluation, {x, y}: the batches of ``eval_loader``, joined.

        On the trainer's device if one is attached, else on the CPU. Raises ValueError if the split is empty.
        """
        device = self.trainer.strategy.root_device if self.trainer else "cpu"
        batches = list(self.eval_loader(split, device=device))
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    def train_dataloader(self) -> Batches:
        """The training batches of the trainer's run. Raises ValueError if ``max_steps`` is not set."""
        trainer = self._attached()
        if trainer.max_steps == -1:
            raise ValueError("runs are counted in steps: set trainer.max_steps")
        return self.train_stream(
            trainer.max_steps * trainer.accumulate_grad_batches,
            # Ranks with different global seeds must still agree on one order.
            seed=trainer.strategy.broadcast(self.loading.run_seed()),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            device=trainer.strategy.root_device,
        )

    def val_dataloader(self) -> EvalLoader | list[EvalLoader]:
        """The validation batches; an empty list, and so no validation, if nothing is held out."""
        return self._eval_dataloader("val") if len(self._splits["val"].rows) else []

    def test_dataloader(self) -> EvalLoader:
        """The test batches."""
        return self._eval_dataloader("test")

    @cached_property
    def _splits(self) -> dict[Split, Subset]:
        """The splits, read once."""
        both, test = self.load()
        train, val = self.hold_out(both)
        train = replace(train, rows=train.rows[: self.loading.max_train])
        return {"train": self.hide_labels(train), "val": val, "test": test}

    def _eval_dataloader(self, split: Split) -> EvalLoader:
        trainer = self._attached()
        return self.eval_loader(
            split, rank=trainer.global_rank, world_size=trainer.world_size, device=trainer.strategy.root_device
        )

    def _placed(self, source: Source, device: torch.device) -> Source:
        """The source on the device if it fits, moved there once and shared by the splits."""
        key = id(source), device
        if key not in self._moved:
            self._moved[key] = source.to(device, self.loading.device_cache_bytes)
        return self._moved[key]

    def _attached(self) -> L.Trainer:
        if self.trainer is None:
            raise ValueError(
                f"{type(self).__name__} is not attached to a trainer: pass it to trainer.fit(datamodule=...), "
                "or use tensors, train_stream or eval_loader, which need none"
            )
        return self.trainer
