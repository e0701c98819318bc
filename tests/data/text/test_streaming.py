"""Streamed text, through ``datasets`` itself: every document once in a pass, and the same batches after a halt."""

import itertools
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.oracles import identical
from support.text_runs import fitted

from ebm_lightning.core import State
from ebm_lightning.data import Bytes, Characters, HubText, Loading, TextStream

DOCUMENTS, LENGTH = 47, 11


def document(number: int) -> str:
    """12 characters that no other document has."""
    return "".join(chr(0x4E00 + 12 * number + k) for k in range(LENGTH + 1))


KNOWN = Characters("".join(map(document, range(DOCUMENTS))))


ROWS = {
    "text": [*map(document, range(30)), "", "", *map(document, range(30, DOCUMENTS))],
    "title": list(map(str, range(DOCUMENTS + 2))),
}
"""47 documents and two empty ones, in two columns."""


@pytest.fixture
def tales(monkeypatch: pytest.MonkeyPatch) -> HubText:
    """A stream of the rows in three shards."""

    def load_dataset(path: str, config: str | None, split: str, streaming: bool) -> datasets.IterableDataset:
        assert (path, config, split, streaming) == ("someone/tales", None, "train", True)
        return datasets.Dataset.from_dict(ROWS).to_iterable_dataset(num_shards=3)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return HubText("someone/tales")


def stream(tales: HubText, batch_size: int = 4, block: int = 10, seed: int = 3, val_size: int = 3) -> TextStream:
    """A block of 10 documents has 120 tokens and so 10 windows, 8 of which make batches; the first 5 are held out."""
    return TextStream(
        tales,
        KNOWN,
        LENGTH,
        batch_size=batch_size,
        block=block,
        val_size=val_size,
        test_size=2,
        loading=Loading(seed=seed),
    )


def take(data: TextStream, number: int, **shard: int) -> list[State]:
    return list(data.train_stream(number, **shard))


def starts(batches: list[State]) -> list[int]:
    return torch.cat([batch["x"][:, 0] for batch in batches]).tolist()


def test_TextStream_pass_has_every_block_in_order_and_no_held_out_document(tales: HubText) -> None:
    data = stream(tales, batch_size=5, block=12)
    batches = take(data, 20)
    for batch in batches:
        assert torch.equal(batch["target"], batch["x"] + 1)
    # Blocks of 12 rows, the third with 2 empty ones: 144, 144, 120 and 96 tokens make 13, 13, 10 and 8 windows.
    passes = [batches[:7], batches[7:14]]
    for shown in passes:
        for block, first, count in ((shown[:2], 5, 13), (shown[2:4], 17, 13), (shown[4:6], 29, 10), (shown[6:], 39, 8)):
            found = starts(block)
            assert len(set(found)) == len(found) == 5 * len(block)
            assert set(found) <= {12 * first + 11 * k for k in range(count)}
    assert starts(passes[0]) != starts(passes[1])
    held = [set(torch.cat(list(data.tensors(split).values())).flatten().tolist()) for split in ("val", "test")]
    assert held == [set(range(34)), set(range(36, 59))]


@pytest.mark.parametrize("stop", [1, 2, 3, 7, 8, 9, 13])
def test_TextStream_resumed_repeats_the_uninterrupted_one(tales: HubText, stop: int) -> None:
    """In the middle and at the end of a block, of the last one, and in the second pass."""
    whole = take(stream(tales), 24)
    begun = stream(tales).train_stream(24)
    assert identical(list(itertools.islice(begun, stop)), whole[:stop])
    state = begun.state_dict()
    resumed = stream(tales).train_stream(24 - stop)
    resumed.load_state_dict(state)
    assert identical(list(resumed), whole[stop:])
    again = begun.state_dict()  # a second iter goes on where the first stood
    assert again == state
    assert identical(list(itertools.islice(begun, 24 - stop)), whole[stop:])


def test_TextStream_ranks_share_the_windows_of_a_block(tales: HubText) -> None:
    whole = take(stream(tales, batch_size=4), 12)
    ranks = [take(stream(tales, batch_size=2), 12, rank=rank, world_size=2) for rank in range(2)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        assert torch.equal(batch["x"], torch.cat([share["x"] for share in shares]))


def test_TextStream_order_follows_from_the_seed(tales: HubText) -> None:
    first, again, other = (starts(take(stream(tales, seed=seed), 8)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_TextStream_is_opened_once_and_its_first_block_read_once(
    tales: HubText, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_ = [], HubText.stream
    monkeypatch.setattr(HubText, "stream", lambda corpus: opened.append(1) or open_(corpus))
    data = stream(tales)
    assert data.size("train") == 10
    assert len(opened) == 2  # for the blocks, and for the held-out documents
    take(data, 8)
    assert len(opened) == 2


def test_TextStream_of_files_continues_within_a_row_group(tmp_path: Path) -> None:
    """Three files in the hub's layout, with row groups of 4: read by ``datasets`` from the disk."""
    table = pa.table(ROWS)
    for number, (start, end) in enumerate([(0, 20), (20, 26), (26, 49)]):
        pq.write_table(table[start:end], tmp_path / f"train-{number:05d}-of-00003.parquet", row_group_size=4)
    tales = HubText(str(tmp_path))
    begun = stream(tales, val_size=0).train_stream(10)
    batches = list(itertools.islice(begun, 5))
    resumed = stream(tales, val_size=0).train_stream(1)
    resumed.load_state_dict(begun.state_dict())
    assert set(starts(batches[4:]) + starts(list(resumed))) < {12 * 22 + 11 * k for k in range(10)}
    with pytest.raises(ValueError, match="has the columns text, title"):
        HubText(tales.path, column="story").stream()


def test_TextStream_continues_from_a_checkpoint(tales: HubText, tmp_path: Path) -> None:
    whole = fitted(stream(tales), 14, tmp_path / "whole.ckpt")
    begun = fitted(stream(tales), 5, tmp_path / "begun.ckpt")
    assert identical(begun + fitted(stream(tales), 14, tmp_path / "rest.ckpt", tmp_path / "begun.ckpt"), whole)
    other = TextStream(tales, Bytes(), LENGTH, batch_size=4, block=10, val_size=3, test_size=2)
    with pytest.raises(ValueError, match=r"vocabulary of 564 tokens \(hash \w+\), but that of these data has 256"):
        fitted(other, 14, tmp_path / "rest.ckpt", tmp_path / "begun.ckpt")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda tales: TextStream(tales, KNOWN, block=0), "block=0"),
        (lambda tales: TextStream(tales, KNOWN, loading=Loading(max_train=5)), "leave max_train out"),
        (lambda tales: take(stream(tales, batch_size=11), 1), "a batch of 11 on each of 1"),
        (lambda tales: take(stream(tales, val_size=60), 1), "no documents but the 62 that are held out"),
        (lambda tales: take(TextStream(tales, Characters(), 4, val_size=0, test_size=0), 1), "give it characters="),
        (
            lambda tales: TextStream(tales, KNOWN, 40, val_size=3, test_size=0).size("val"),
            "of the val split are",
        ),
        (lambda tales: HubText(tales.path, column="story").stream(), "has the columns text, title"),
    ],
)
def test_TextStream_refuses_what_cannot_work(make, words: str, tales: HubText) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make(tales)
    assert "\n" not in str(caught.value)
