"""Corpora: documents whole and in order, from files and from the hub."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch

from ebm_lightning.data import (
    Bytes,
    HubText,
    Text,
    TextFile,
)
from ebm_lightning.data.text.corpora import cut


@pytest.mark.parametrize("n", [2, 7, 50])
def test_cut_keeps_documents_whole_and_in_order(n: int) -> None:
    lengths = torch.randint(1, 200, (n,)).tolist()
    documents = [chr(65 + k) * length for k, length in enumerate(lengths)]
    spans = cut(documents, 0.2, 0.1)
    assert spans["train"] + spans["val"] + spans["test"] == documents
    total = sum(lengths)
    for split, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        assert abs(sum(map(len, spans[split])) - share * total) <= max(lengths)  # half a document at each border


def test_TextFile_folder_is_read_in_the_order_of_names_with_an_end_token_between_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tales"
    folder.mkdir()
    for name, text in (("b", "fghij"), ("a", "abcde"), ("c", "klmno"), ("empty", "")):
        (folder / f"{name}.txt").write_text(text)
    (folder / "notes.md").write_text("not a tale")
    monkeypatch.setenv("EBM_DATA", str(tmp_path))
    assert TextFile("tales").documents() == ["abcde", "fghij", "klmno"]
    data = Text(TextFile("tales"), Marked(), 3, batch_size=1, val_size=0, test_size=1 / 3)
    assert data.size("val") == 0
    train = data.tensors("train")
    assert data.tokenizer.decode(torch.cat([train["x"].flatten(), train["target"][-1:, -1]])) == "abcde|fghi"
    assert data.tokenizer.decode(data.tensors("test")["x"][0]) == "klm"


class Marked(Bytes):
    """Bytes with an end token that no text holds."""

    @property
    def end(self) -> int:
        return ord("|")


def test_HubText_is_read_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, config: str, split: str, streaming: bool) -> datasets.Dataset:
        assert (path, config, split, streaming) == ("someone/tales", "tiny", "train", False)
        return datasets.Dataset.from_dict({"text": ["abc", "", "def"], "title": ["1", "2", "3"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = HubText("someone/tales", "tiny")
    assert corpus.documents() == ["abc", "def"]
    corpus.fetch()
    with pytest.raises(ValueError, match="has the columns text, title: give the column of text"):
        HubText("someone/tales", "tiny", column="story").documents()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: TextFile(f"{file.path}x").documents(), "there is no text .*set EBM_DATA"),
        (lambda file: TextFile(str(Path(file.path).parent / "empty")).documents(), "has no text"),
        (lambda file: TextFile(str(Path(file.path).parent / "empty.txt")).documents(), "has no text"),
        (lambda file: TextFile(str(Path(file.path).parent / "latin.txt")).documents(), "cannot be read as a text in"),
    ],
)
def test_TextFile_refuses_what_cannot_work(make: Callable[[TextFile], object], words: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("0123456789" * 4)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match=words) as caught:
        make(TextFile(str(tmp_path / "short.txt")))
    assert "\n" not in str(caught.value)


def test_HubText_explains_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach 'someone/tales' on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"'someone/tales'.* cannot be read .*connect to the network") as caught:
        Text(HubText("someone/tales"), Bytes()).prepare_data()
    assert "\n" not in str(caught.value)
