"""Sources: rows in memory and rows read while iterating give the same batches."""

from collections.abc import Callable

import pytest
import torch
from support.batches import decode_number
from support.oracles import identical

from ebm_lightning.core import State
from ebm_lightning.data import InMemory, LazySource, Shard, ShuffledBatches


@pytest.mark.parametrize("workers", [0, 2])
def test_LazySource_gives_the_batches_of_InMemory(workers: int) -> None:
    rows = torch.arange(3, 25)
    numbers = torch.arange(30)
    memory = InMemory({"x": numbers.float(), "y": numbers % 3}, first_index=100)
    lazy = LazySource(range(30), decode_number, workers, first_index=100)

    def jittered(batch: State, g: torch.Generator) -> State:
        return {**batch, "x": batch["x"] + torch.rand(len(batch["x"]), generator=g)}

    both = [list(ShuffledBatches(source, rows, Shard(4), 8, 1, jittered)) for source in (memory, lazy)]
    assert identical(*both)
    assert len(both[0]) == 8
    assert torch.equal(both[0][0]["data.index"] - 100, both[0][0]["x"].floor().long())


def test_InMemory_stays_on_the_cpu_beyond_its_limit() -> None:
    source = InMemory({"x": torch.zeros(10, dtype=torch.uint8)})
    assert source.to(torch.device("meta"), limit=9) is source
    assert source.to(torch.device("meta"), limit=10).tensors["x"].device.type == "meta"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LazySource([], decode_number, workers=-1), "worker processes"),
        (lambda: InMemory({"x": torch.zeros(3), "y": torch.zeros(4)}), "one common length"),
    ],
)
def test_LazySource_and_InMemory_refuses_what_cannot_work(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
