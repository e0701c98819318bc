"""Text: every token at its place and in one split, the same windows after an interruption, and back into characters."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import lightning.pytorch as L
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from ebm_lightning.core import State
from ebm_lightning.data import Bytes, Characters, DataModule, HubText, Text, TextFile, Tokenizer, TokenizerFile, Windows
from ebm_lightning.data.text.corpora import cut
from ebm_lightning.generation.samples import empty_batch
from ebm_lightning.training.trainer import Trainer

DISTINCT = "".join(map(chr, range(0x4E00, 0x4E00 + 1003)))
"""A text in which every character is another one, so that a token says where it stands."""

KNOWN = Characters(DISTINCT)


@pytest.fixture
def book(tmp_path: Path) -> TextFile:
    (tmp_path / "book.txt").write_text(DISTINCT, encoding="utf-8")
    return TextFile(str(tmp_path / "book.txt"))


def same(left: list[State], right: list[State]) -> bool:
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(left, right, strict=True)
    )


def epoch(data: Text, batches: int) -> list[State]:
    return list(itertools.islice(data.train_stream(batches), batches))


# Windows


def test_a_pass_shows_every_token_of_the_training_span_once_and_no_other(book: TextFile) -> None:
    data = Text(book, KNOWN, 10, batch_size=5, valid=0.1, test=0.1, seed=0)
    assert (data.size("train"), data.size("valid"), data.size("test")) == (80, 10, 9)
    batches = epoch(data, 16)
    for name, first in (("x", 0), ("target", 1)):
        shown = torch.cat([batch[name].flatten() for batch in batches])
        assert shown.dtype == torch.int64
        assert shown.sort().values.tolist() == list(range(first, first + 800))  # the span ends at 802
    spans = {split: data.tensors(split) for split in ("train", "valid", "test")}
    seen = {split: set(torch.cat([t["x"], t["target"]]).flatten().tolist()) for split, t in spans.items()}
    assert seen == {"train": set(range(801)), "valid": set(range(802, 903)), "test": set(range(903, 994))}
    for tensors in spans.values():
        assert torch.equal(tensors["target"], tensors["x"] + 1)
    order = torch.cat([batch["x"][:, 0] for batch in batches])
    assert not torch.equal(order, order.sort().values)
    assert not torch.equal(order, torch.cat([batch["x"][:, 0] for batch in epoch(data, 32)[16:]]))


def test_a_random_offset_moves_all_windows_of_a_pass_alike_and_none_out_of_the_span(book: TextFile) -> None:
    data = Text(book, KNOWN, 10, batch_size=79, random_offset=True, valid=0.1, test=0.1, seed=0)
    assert (data.size("train"), data.size("valid")) == (79, 10)
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
def test_a_resumed_run_shows_the_remaining_windows(book: TextFile, stop: int, random_offset: bool) -> None:
    def stream():
        return Text(book, KNOWN, 10, batch_size=5, random_offset=random_offset, seed=4).train_stream(40)

    uninterrupted, begun, resumed = list(stream()), stream(), stream()
    list(itertools.islice(begun, stop))
    resumed.load_state_dict(begun.state_dict())
    assert same(list(itertools.islice(resumed, 40 - stop)), uninterrupted[stop:])


@pytest.mark.parametrize("random_offset", [False, True])
def test_ranks_share_the_windows_of_a_pass(book: TextFile, random_offset: bool) -> None:
    data = Text(book, KNOWN, 10, batch_size=6, random_offset=random_offset, valid=0.1, test=0.1, seed=4)
    passes = data.size("train") // 12
    ranks = [list(data.train_stream(passes, rank=rank, world=2)) for rank in range(2)]
    shown = torch.cat([batch["x"] for batches in ranks for batch in batches]).flatten().tolist()
    assert len(set(shown)) == len(shown) == passes * 12 * 10
    loaders = [data.eval_loader("valid", rank=rank, world=2) for rank in range(2)]
    judged = torch.cat([batch["x"][:, 0] for loader in loaders for batch in loader])
    assert torch.equal(judged.sort().values, data.tensors("valid")["x"][:, 0])


def test_windows_lie_where_their_tokens_do() -> None:
    windows = Windows(torch.arange(30, dtype=torch.uint8), 4)
    assert len(windows) == 26
    (batch,) = windows.batches([torch.tensor([25, 0])], torch.device("cpu"))
    assert batch["x"].tolist() == [[25, 26, 27, 28], [0, 1, 2, 3]]
    assert batch["target"].tolist() == [[26, 27, 28, 29], [1, 2, 3, 4]]
    assert batch["index"].tolist() == [25, 0]
    assert windows.to(torch.device("meta"), limit=29) is windows
    assert windows.to(torch.device("meta"), limit=30).tokens.device.type == "meta"


# Documents


@pytest.mark.parametrize("n", [2, 7, 50])
def test_documents_stay_whole_and_in_order(n: int) -> None:
    lengths = torch.randint(1, 200, (n,)).tolist()
    documents = [chr(65 + k) * length for k, length in enumerate(lengths)]
    spans = cut(documents, 0.2, 0.1)
    assert spans["train"] + spans["valid"] + spans["test"] == documents
    total = sum(lengths)
    for split, share in (("train", 0.7), ("valid", 0.2), ("test", 0.1)):
        assert abs(sum(map(len, spans[split])) - share * total) <= max(lengths)  # half a document at each border


def test_a_folder_is_read_in_the_order_of_names_with_an_end_token_between_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tales"
    folder.mkdir()
    for name, text in (("b", "fghij"), ("a", "abcde"), ("c", "klmno"), ("empty", "")):
        (folder / f"{name}.txt").write_text(text)
    (folder / "notes.md").write_text("not a tale")
    monkeypatch.setenv("EBM_DATA", str(tmp_path))
    assert TextFile("tales").documents() == ["abcde", "fghij", "klmno"]
    data = Text(TextFile("tales"), Marked(), 3, batch_size=1, valid=0, test=1 / 3)
    assert data.size("valid") == 0
    train = data.tensors("train")
    assert data.tokenizer.decode(torch.cat([train["x"].flatten(), train["target"][-1:, -1]])) == "abcde|fghi"
    assert data.tokenizer.decode(data.tensors("test")["x"][0]) == "klm"


class Marked(Bytes):
    """Bytes with an end token that no text holds."""

    @property
    def end(self) -> int:
        return ord("|")


def test_the_hub_is_read_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, config: str, split: str, streaming: bool) -> datasets.Dataset:
        assert (path, config, split, streaming) == ("someone/tales", "tiny", "train", False)
        return datasets.Dataset.from_dict({"text": ["abc", "", "def"], "title": ["1", "2", "3"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = HubText("someone/tales", "tiny")
    assert corpus.documents() == ["abc", "def"]
    corpus.fetch()
    with pytest.raises(ValueError, match="has the columns text, title: name the one that holds text"):
        HubText("someone/tales", "tiny", column="story").documents()


# Tokenizers


def written(folder: Path, length: int = 4) -> Path:
    """A byte-level BPE with an end token, which its file tells to cut and to fill every text to ``length``."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    made.train_from_iterator(["the theme of the other thesis, then", "these and those"] * 5, trainer)
    made.enable_truncation(length)
    made.enable_padding(length=length)
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def texts(characters: str | None = None) -> list[str]:
    """Random texts: of any character of Unicode but surrogates, or of those given."""
    random = np.random.default_rng(0)
    lengths = [0, 1, 2, *random.integers(1, 60, 100)]
    if characters:
        return ["".join(random.choice(list(characters), n)) for n in lengths]
    codes = [random.integers(0, random.choice([0x80, 0xD800, 0x110000]), n) for n in lengths]
    return ["".join(chr(code) for code in row if not 0xD800 <= code < 0xE000) for row in codes]


def test_bytes_are_those_of_utf_8() -> None:
    assert Bytes().encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert Bytes().size == 256
    assert Bytes().end is None
    for text in texts():
        assert Bytes().encode(text).dtype == torch.int64
        assert Bytes().decode(Bytes().encode(text)) == text
    assert Bytes().decode(torch.tensor([97, 0xC3])) == "a�"


def test_characters_are_numbered_in_the_order_of_code_points() -> None:
    known = "zaé\n \U0001f600"
    tokenizer = Characters(known)
    assert tokenizer.vocabulary == "\n azé\U0001f600"
    assert tokenizer.size == 6
    for text in texts(known):
        tokens = tokenizer.encode(text)
        assert tokens.tolist() == [sorted(known).index(character) for character in text]
        assert tokenizer.decode(tokens) == text


def test_a_tokenizer_file_pads_nothing_and_cuts_nothing(tmp_path: Path) -> None:
    tokenizer = TokenizerFile(str(written(tmp_path)), "<end>")
    for text in texts():
        assert tokenizer.decode(tokenizer.encode(text)) == text
    tokens = tokenizer.encode("the other theme")
    assert len(tokens) < len("the other theme")
    assert tokenizer.end == 0
    assert tokenizer.size == len(json.loads(tokenizer.vocabulary)) > int(tokens.max())
    together = tokenizer.encode_all(["the", "other", "theme"])
    assert tokenizer.decode(together) == "the<end>other<end>theme"
    assert TokenizerFile(tokenizer.path).end is None


def test_characters_are_learned_from_the_training_span_alone(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcab" * 18 + "abxab" * 2)
    data = Text(TextFile(str(tmp_path / "text.txt")), Characters(), 4, valid=0, test=0)
    assert data.tokenizer == Characters("abcx")
    data = Text(TextFile(str(tmp_path / "text.txt")), Characters(), 4, valid=0, test=0.1)
    with pytest.raises(ValueError, match="character 'x' has no token, since it is none of the 3 that are known"):
        data.tensors("test")


# Faults


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: Text(file, Bytes(), 0), "length=0"),
        (lambda file: Text(file, Bytes(), valid=0.5, test=0.5), "that leave some to train on"),
        (lambda file: Text(file, Bytes(), test=-0.1), "shares of the text"),
        (lambda file: Text(file, Bytes(), 100, valid=0, test=0).tensors("train"), "has 40 tokens, fewer than the 101"),
        (lambda file: Text(file, Bytes(), 30, valid=0.1, test=0).tensors("train"), "the valid span of .* has 4 tokens"),
        (lambda file: TextFile(f"{file.path}x").documents(), "there is no text .*set EBM_DATA"),
        (lambda file: TextFile(str(Path(file.path).parent / "empty")).documents(), "holds no text"),
        (lambda file: TextFile(str(Path(file.path).parent / "empty.txt")).documents(), "holds no text"),
        (lambda file: TextFile(str(Path(file.path).parent / "latin.txt")).documents(), "cannot be read as a text in"),
        (lambda file: Characters(""), "expected at least one"),
        (lambda file: Characters().encode("a"), "not known before a training text is read"),
        (lambda file: Characters("abc").encode("abcé"), "the character 'é' has no token"),
        (lambda file: Characters("abc").encode("a\n"), r"the character '\\n' has no token"),
    ],
)
def test_faults_are_told_in_one_sentence(make: Callable[[TextFile], object], words: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("0123456789" * 4)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match=words) as caught:
        make(TextFile(str(tmp_path / "short.txt")))
    assert "\n" not in str(caught.value)


def test_faults_of_a_tokenizer_file_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.json").write_text('{"a": 1}')
    path = written(tmp_path)
    for file, words in (
        (tmp_path / "none.json", "cannot be read"),
        (tmp_path / "other.json", "is no tokenizer"),
        (__file__, "cannot be read"),
    ):
        with pytest.raises(ValueError, match=words):
            TokenizerFile(str(file)).encode("a")
    with pytest.raises(ValueError, match="has no token '<stop>'; name one of its own"):
        TokenizerFile(str(path), "<stop>").encode_all(["a"])


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"needs the package tokenizers.*pip install 'ebm_lightning\[text\]'"):
        TokenizerFile("tokenizer.json").encode("a")


def test_the_hub_out_of_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach 'someone/tales' on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"'someone/tales'.* cannot be read .*connect to the network") as caught:
        Text(HubText("someone/tales"), Bytes()).prepare_data()
    assert "\n" not in str(caught.value)


# Under a trainer


class Reader(L.LightningModule):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.shown: list[State] = []

    def training_step(self, batch: State, batch_idx: int) -> Tensor:
        self.shown.append(batch)
        return self.weight * batch["x"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(steps: int) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fitted(data: DataModule, steps: int, path: Path, start: Path | None = None) -> list[State]:
    module, fit = Reader(), trainer(steps)
    fit.fit(module, datamodule=data, ckpt_path=start)
    fit.save_checkpoint(path)
    return module.shown


def test_a_checkpoint_goes_on_and_decodes(book: TextFile, tmp_path: Path) -> None:
    def data() -> Text:
        return Text(book, Characters(), 10, batch_size=5, random_offset=True, valid=0, test=0, seed=1)

    whole = fitted(data(), 30, tmp_path / "whole.ckpt")
    begun = fitted(data(), 13, tmp_path / "begun.ckpt")
    assert same(begun + fitted(data(), 30, tmp_path / "rest.ckpt", tmp_path / "begun.ckpt"), whole)
    kept = torch.load(tmp_path / "begun.ckpt", weights_only=True)["Text"]
    assert Characters(kept["vocabulary"]).decode(begun[0]["x"][0]) in DISTINCT


def test_a_checkpoint_of_another_vocabulary_is_refused(book: TextFile, tmp_path: Path) -> None:
    fitted(Text(book, Characters(), 10, valid=0, test=0), 2, tmp_path / "begun.ckpt")
    others: list[tuple[Tokenizer, str, str]] = [
        (Bytes(), DISTINCT, "has 256"),
        (Characters(), DISTINCT[1:], "has 1002"),
        (Characters(), DISTINCT[1:] + "!", "has 1003"),
    ]
    for tokenizer, text, words in others:
        Path(book.path).write_text(text, encoding="utf-8")
        data = Text(book, tokenizer, 10, valid=0, test=0)
        with pytest.raises(ValueError, match=rf"vocabulary of 1003 tokens \(hash \w+\).*{words} \(hash"):
            fitted(data, 4, tmp_path / "rest.ckpt", tmp_path / "begun.ckpt")


def test_text_is_configured_by_its_signature(book: TextFile) -> None:
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
            valid: 0
        """
    )
    data = parser.instantiate_classes(config).data
    assert isinstance(data, Text)
    assert (data.shape, data.dtype, data.corpus, data.random_offset) == ((8,), torch.int64, book, True)
    assert empty_batch(data, 3, torch.device("cpu"))["x"].dtype == torch.int64
