"""The order and the randomness of batches: in training, after a resumption, on several ranks, and in evaluation."""

import itertools

import pytest
import torch
from support.batches import augmented_digits, decode_number, noisy
from support.oracles import identical

from ebm_lightning.data import EvalLoader, InMemory, LazySource, Shard, ShuffledBatches, Toy2D


def batches_of(n: int = 22, batch_size: int = 4, length: int = 12, seed: int = 5, **shard: int) -> ShuffledBatches:
    source = InMemory({"x": torch.arange(n)})
    return ShuffledBatches(source, torch.arange(n), Shard(batch_size, **shard), length, seed, noisy)


def test_ShuffledBatches_has_an_order_of_seed_and_epoch() -> None:
    first, again, other = list(batches_of()), list(batches_of()), list(batches_of(seed=6))
    assert identical(first, again)
    assert not torch.equal(first[0]["data.index"], other[0]["data.index"])
    passes = [torch.cat([batch["data.index"] for batch in first[k : k + 5]]) for k in (0, 5)]
    assert all(len(set(shown.tolist())) == 20 for shown in passes)
    assert not torch.equal(*passes)
    assert len(batches_of()) == 12 == len(first)


def test_ShuffledBatches_has_other_randomness_in_every_batch() -> None:
    noises = torch.cat([batch["noise"] for rank in (0, 1) for batch in batches_of(rank=rank, world_size=2)])
    assert len(noises.unique()) >= len(noises) - 1  # a float32 has 2^24 values: two coincidences have chance 1e-7


def test_ShuffledBatches_splits_the_global_batch_into_contiguous_slices_of_ranks() -> None:
    whole = list(batches_of(n=50, batch_size=12))
    ranks = [list(batches_of(n=50, batch_size=4, rank=rank, world_size=3)) for rank in range(3)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        assert torch.equal(batch["data.index"], torch.cat([share["data.index"] for share in shares]))


@pytest.mark.parametrize("stop", [1, 3, 5, 7, 10])
def test_ShuffledBatches_resumed_repeat_the_uninterrupted_ones(stop: int) -> None:
    data = augmented_digits(val_size=1500 - 330)
    uninterrupted = list(data.train_stream(12))
    begun = data.train_stream(12)
    head = list(itertools.islice(begun, stop))
    state = begun.state_dict()
    assert state == {"epoch": (stop - 1) // 5, "samples": ((stop - 1) % 5 + 1) * 64}
    resumed = augmented_digits(val_size=1500 - 330).train_stream(12)
    resumed.load_state_dict(state)
    assert identical(head + list(itertools.islice(resumed, 12 - stop)), uninterrupted)


def test_ShuffledBatches_state_is_after_the_batch_last_yielded() -> None:
    batches = batches_of()
    iterator = iter(batches)
    assert batches.state_dict() == {"epoch": 0, "samples": 0}
    next(iterator)
    assert batches.state_dict() == {"epoch": 0, "samples": 4}


def test_ShuffledBatches_second_iter_continues() -> None:
    whole, batches = list(batches_of()), batches_of()
    assert identical(list(itertools.islice(batches, 3)) + list(itertools.islice(batches, 9)), whole)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_ShuffledBatches_on_another_number_of_ranks_neither_repeat_nor_skip(before: int, after: int) -> None:
    n, size, done = 48, 4, 3
    shown, states = [], []
    for rank in range(before):
        batches = batches_of(n, size, rank=rank, world_size=before)
        shown += [batch["data.index"] for batch in itertools.islice(batches, done)]
        states.append(batches.state_dict())
    assert all(state == states[0] for state in states)
    rest = (n - done * before * size) // (after * size)
    for rank in range(after):
        batches = batches_of(n, size, rank=rank, world_size=after)
        batches.load_state_dict(states[0])
        shown += [batch["data.index"] for batch in itertools.islice(batches, rest)]
        assert batches.state_dict()["epoch"] == 0
    everything = torch.cat(shown).tolist()
    assert len(everything) == len(set(everything)) == (done * before + rest * after) * size


def test_EvalLoader_has_every_row_once_and_the_same_every_time() -> None:
    source, rows = InMemory({"x": torch.arange(30)}), torch.arange(5, 28)
    loaders = [EvalLoader(source, rows, Shard(4, rank, 3), 0, noisy) for rank in range(3)]
    passes = [list(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [2, 2, 2] == [len(batches) for batches in passes]
    shown = torch.cat([batch["data.index"] for batches in passes for batch in batches])
    assert torch.equal(shown.sort().values, rows)
    assert identical(passes[1], list(loaders[1]))
    single = list(EvalLoader(source, rows, Shard(4), 0, noisy))
    assert torch.equal(torch.cat([batch["data.index"] for batch in single]), rows)
    assert not torch.equal(single[0]["noise"], single[1]["noise"])


def test_ShuffledBatches_and_EvalLoader_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    data = augmented_digits()
    list(data.train_stream(3))
    data.tensors("test")
    source = LazySource(list(range(20)), decode_number, workers=0)
    list(ShuffledBatches(source, torch.arange(20), Shard(4), 3, 0, noisy))
    Toy2D("moons", samples=100, test_size=10).tensors("train")
    assert torch.equal(before, torch.get_rng_state())
