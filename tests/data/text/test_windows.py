"""Windows of a text: every token once and in one split, and the same windows after an interruption."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from support.oracles import identical
from support.text_runs import fitted

from ebm_lightning.core import State
from ebm_lightning.data import (
    Bytes,
    Characters,
    DataModule,
    Loading,
    Text,
    TextFile,
    Tokenizer,
    Windows,
)
from ebm_lightning.generation.samples import empty_batch

DISTINCT = "".join(map(chr, range(0x4E00, 0x4E00 + 1003)))
"""A text in which every character is another one, so that a token says where it stands."""

KNOWN = Characters(DISTINCT)


@pytest.fixture
def book(tmp_path: Path) -> TextFile:
    (tmp_path / "book.txt").write_text(DISTINCT, encoding="utf-8")
    return TextFile(str(tmp_path / "book.txt"))


def epoch(data: Text, batches: int) -> list[State]:
    return list(itertools.islice(data.train_stream(batches), batches))


def test_Text_pass_has_every_token_of_the_training_span_once_and_no_other(book: TextFile) -> None:
    data = Text(book, KNOWN, 10, batch_size=5, val_size=0.1, test_size=0.1, loading=Loading(seed=0))
    assert (data.size("train"), data.size("val"), data.size("test")) == (80, 10, 9)
    batches = epoch(data, 16)
    for name, first in (("x", 0), ("target", 1)):
        shown = torch.cat([batch[name].flatten() for batch in batches])
        assert shown.dtype == torch.int64
        assert shown.sort().values.tolist() == list(range(first, first + 800))  # the span ends at 802
    spans = {split: data.tensors(split) for split in ("train", "val", "test")}
    seen = {split: set(torch.cat([t["x"], t["target"]]).flatten().tolist()) for split, t in spans.items()}
    assert seen == {"train": set(range(801)), "val": set(range(802, 903)), "test": set(range(903, 994))}
    for tensors in spans.values():
        assert torch.equal(tensors["target"], tensors["x"] + 1)
    order = torch.cat([batch["x"][:, 0] for batch in batches])
    assert not torch.equal(order, order.sort().values)
    assert not torch.equal(order, torch.cat([batch["x"][:, 0] for batch in epoch(data, 32)[16:]]))


def test_Text_random_offset_moves_all_windows_of_a_pass_equally_and_none_out_of_the_span(book: TextFile) -> None:
    data = Text(
        book, KNOWN, 10, batch_size=79, random_offset=True, val_size=0.1, test_size=0.1, loading=Loading(seed=0)
    )
    assert (data.size("train"), data.size("val")) == (79, 10)
    offsets = []
    for batch in epoch(data, 60):
        assert torch.equal(batch["target"], batch["x"] + 1)
        starts = batch["x"][:, 0].sort().values
        assert torch.equal(starts - starts[0], torch.arange(0, 790, 10))
        offsets.append(int(starts[0]))
    assert set(offsets) <= set(range(10))
    counts = np.bincount(offsets, minlength=10)
    assert ((counts - 6.0) ** 2 / 6).sum() < 46.0  # chi-square, 9 degrees of freedom, false alarm 6e-7
    assert int(data.tensors("train")["x"].min()) == 0  # evaluation sees the windows where they are
    assert max(int(batch["target"].max()) for batch in epoch(data, 60)) <= 801


@pytest.mark.parametrize("random_offset", [False, True])
@pytest.mark.parametrize("stop", [3, 16, 19])
def test_Text_resumed_has_the_remaining_windows(book: TextFile, stop: int, random_offset: bool) -> None:
    def stream():
        return Text(book, KNOWN, 10, batch_size=5, random_offset=random_offset, loading=Loading(seed=4)).train_stream(
            40
        )

    uninterrupted, begun, resumed = list(stream()), stream(), stream()
    list(itertools.islice(begun, stop))
    resumed.load_state_dict(begun.state_dict())
    assert identical(list(itertools.islice(resumed, 40 - stop)), uninterrupted[stop:])


@pytest.mark.parametrize("random_offset", [False, True])
def test_Text_ranks_share_the_windows_of_a_pass(book: TextFile, random_offset: bool) -> None:
    data = Text(
        book, KNOWN, 10, batch_size=6, random_offset=random_offset, val_size=0.1, test_size=0.1, loading=Loading(seed=4)
    )
    passes = data.size("train") // 12
    ranks = [list(data.train_stream(passes, rank=rank, world_size=2)) for rank in range(2)]
    shown = torch.cat([batch["x"] for batches in ranks for batch in batches]).flatten().tolist()
    assert len(set(shown)) == len(shown) == passes * 12 * 10
    loaders = [data.eval_loader("val", rank=rank, world_size=2) for rank in range(2)]
    held_out = torch.cat([batch["x"][:, 0] for loader in loaders for batch in loader])
    assert torch.equal(held_out.sort().values, data.tensors("val")["x"][:, 0])


def test_Windows_are_on_the_device_of_their_tokens() -> None:
    windows = Windows(torch.arange(30, dtype=torch.uint8), 4)
    assert len(windows) == 26
    (batch,) = windows.batches([torch.tensor([25, 0])], torch.device("cpu"))
    assert batch["x"].tolist() == [[25, 26, 27, 28], [0, 1, 2, 3]]
    assert batch["target"].tolist() == [[26, 27, 28, 29], [1, 2, 3, 4]]
    assert batch["data.index"].tolist() == [25, 0]
    assert windows.to(torch.device("meta"), limit=29) is windows
    assert windows.to(torch.device("meta"), limit=30).tokens.device.type == "meta"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: Text(file, Bytes(), 0), "length=0"),
        (lambda file: Text(file, Bytes(), val_size=0.5, test_size=0.5), "with a sum below 1"),
        (lambda file: Text(file, Bytes(), test_size=-0.1), "shares of the text"),
        (
            lambda file: Text(file, Bytes(), 100, val_size=0, test_size=0).tensors("train"),
            "has 40 tokens, fewer than the 101",
        ),
        (
            lambda file: Text(file, Bytes(), 30, val_size=0.1, test_size=0).tensors("train"),
            "the val span of .* has 4 tokens",
        ),
    ],
)
def test_Text_refuses_what_cannot_work(make: Callable[[TextFile], object], words: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("0123456789" * 4)
    with pytest.raises(ValueError, match=words) as caught:
        make(TextFile(str(tmp_path / "short.txt")))
    assert "\n" not in str(caught.value)


def test_Text_continues_from_a_checkpoint_and_decodes(book: TextFile, tmp_path: Path) -> None:
    def data() -> Text:
        return Text(
            book, Characters(), 10, batch_size=5, random_offset=True, val_size=0, test_size=0, loading=Loading(seed=1)
        )

    whole = fitted(data(), 30, tmp_path / "whole.ckpt")
    begun = fitted(data(), 13, tmp_path / "begun.ckpt")
    assert identical(begun + fitted(data(), 30, tmp_path / "rest.ckpt", tmp_path / "begun.ckpt"), whole)
    kept = torch.load(tmp_path / "begun.ckpt", weights_only=True)["Text"]
    assert Characters(kept["vocabulary"]).decode(begun[0]["x"][0]) in DISTINCT


def test_Text_refuses_a_checkpoint_of_another_vocabulary(book: TextFile, tmp_path: Path) -> None:
    fitted(Text(book, Characters(), 10, val_size=0, test_size=0), 2, tmp_path / "begun.ckpt")
    others: list[tuple[Tokenizer, str, str]] = [
        (Bytes(), DISTINCT, "has 256"),
        (Characters(), DISTINCT[1:], "has 1002"),
        (Characters(), DISTINCT[1:] + "!", "has 1003"),
    ]
    for tokenizer, text, words in others:
        Path(book.path).write_text(text, encoding="utf-8")
        data = Text(book, tokenizer, 10, val_size=0, test_size=0)
        with pytest.raises(ValueError, match=rf"vocabulary of 1003 tokens \(hash \w+\).*{words} \(hash"):
            fitted(data, 4, tmp_path / "rest.ckpt", tmp_path / "begun.ckpt")


def test_Text_is_configured_by_its_signature(book: TextFile) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(DataModule, "data")
    config = parser.parse_string(
        f"""
        data:
          class_path: ebm_lightning.data.Text
          init_args:
            corpus:
              class_path: ebm_lightning.data.TextFile
              init_args: {{path: {book.path}}}
            tokenizer: {{class_path: ebm_lightning.data.Characters}}
            length: 8
            random_offset: true
            val_size: 0
        """
    )
    data = parser.instantiate_classes(config).data
    assert isinstance(data, Text)
    assert (data.shape, data.dtype, data.corpus, data.random_offset) == ((8,), torch.int64, book, True)
    assert empty_batch(data, 3, torch.device("cpu"))["x"].dtype == torch.int64
