"""Tokenizers: between text and integers, and the vocabulary that is learned."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_lightning.data import (
    Bytes,
    Characters,
    Text,
    TextFile,
    TokenizerFile,
)


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


def test_Bytes_are_those_of_utf_8() -> None:
    assert Bytes().encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert Bytes().size == 256
    assert Bytes().end is None
    for text in texts():
        assert Bytes().encode(text).dtype == torch.int64
        assert Bytes().decode(Bytes().encode(text)) == text
    assert Bytes().decode(torch.tensor([97, 0xC3])) == "a�"


def test_Characters_are_numbered_in_the_order_of_code_points() -> None:
    known = "zaé\n \U0001f600"
    tokenizer = Characters(known)
    assert tokenizer.vocabulary == "\n azé\U0001f600"
    assert tokenizer.size == 6
    for text in texts(known):
        tokens = tokenizer.encode(text)
        assert tokens.tolist() == [sorted(known).index(character) for character in text]
        assert tokenizer.decode(tokens) == text


def test_TokenizerFile_pads_nothing_and_truncates_nothing(tmp_path: Path) -> None:
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


def test_Characters_are_learned_from_the_training_span_alone(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcab" * 18 + "abxab" * 2)
    data = Text(TextFile(str(tmp_path / "text.txt")), Characters(), 4, val_size=0, test_size=0)
    assert data.tokenizer == Characters("abcx")
    data = Text(TextFile(str(tmp_path / "text.txt")), Characters(), 4, val_size=0, test_size=0.1)
    with pytest.raises(ValueError, match="character 'x' has no token in the vocabulary of 3"):
        data.tensors("test")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Characters(""), "expected at least one"),
        (lambda: Characters().encode("a"), "not known before a training text is read"),
        (lambda: Characters("abc").encode("abcé"), "the character 'é' has no token"),
        (lambda: Characters("abc").encode("a\n"), r"the character '\\n' has no token"),
    ],
)
def test_Characters_refuse_what_cannot_work(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_TokenizerFile_explains_its_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.json").write_text('{"a": 1}')
    path = written(tmp_path)
    for file, words in (
        (tmp_path / "none.json", "cannot be read"),
        (tmp_path / "other.json", "is not a tokenizer"),
        (__file__, "cannot be read"),
    ):
        with pytest.raises(ValueError, match=words):
            TokenizerFile(str(file)).encode("a")
    with pytest.raises(ValueError, match="has no token '<stop>'; give one that it has"):
        TokenizerFile(str(path), "<stop>").encode_all(["a"])


def test_TokenizerFile_explains_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"needs the package tokenizers.*pip install 'ebm_lightning\[text\]'"):
        TokenizerFile("tokenizer.json").encode("a")
