"""Sources of text: a file, a folder of files, the Hugging Face hub; and the cut of a text into splits."""

import abc
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from ebm_lightning.data.base import Split
from ebm_lightning.data.hub import data_root, load_hub, with_column


class Corpus(abc.ABC):
    """Documents in an order that is always the same. Final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def documents(self) -> list[str]:
        """All documents, none of them empty. Raises ValueError if there are none or they cannot be read."""

    def fetch(self) -> None:  # noqa: B027  (a hook)
        """Download the text, from one process of each node: a hook; by default nothing."""


@dataclass(frozen=True)
class TextFile(Corpus):
    """A text in UTF-8, which is one document, or a folder in which every .txt is one, in the order of their names.

    Args:
        path: The file or folder, below ``root`` or the working directory, or absolute.
        root: Folder of data sets; None takes the environment variable EBM_DATA.
    """

    path: str
    root: str | None = None

    def documents(self) -> list[str]:
        place = self._place()
        files = sorted(place.glob("*.txt")) if place.is_dir() else [place]
        return _filled([_read(file) for file in files], str(place))

    def _place(self) -> Path:
        folders = (data_root(self.root), Path())
        places = [(folder / self.path).expanduser() for folder in folders if folder is not None]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise ValueError(
                f"there is no text {' or '.join(map(str, dict.fromkeys(places)))}: expected a file or a folder of "
                ".txt; set EBM_DATA to its parent folder, or give its absolute path"
            )
        return found


@dataclass(frozen=True)
class HubText(Corpus):
    """A data set of the Hugging Face hub, or a folder in a layout that ``datasets`` reads; every row is a document.

    Args:
        path: Name on the hub, or a folder in a layout that ``datasets`` reads.
        config: Configuration of the data set; None if it has one only.
        split: Name of the split, in the notation of ``datasets``: train, or train[:1%] if it is not streamed.
        column: Column of the text.
    """

    path: str
    config: str | None = None
    split: str = "train"
    column: str = "text"

    def documents(self) -> list[str]:
        return _filled(list(self._rows()[self.column]), str(self))

    def fetch(self) -> None:
        self._rows()

    def stream(self) -> Any:
        """The rows as an ``IterableDataset``, read one by one while iterating."""
        return self._rows(streaming=True)

    def _rows(self, streaming: bool = False) -> Any:
        fault, advice = f"{self} cannot be read", "check its name, or connect to the network"
        rows = load_hub(self.path, self.config, self.split, fault=fault, advice=advice, streaming=streaming)
        return with_column(rows, self.column, str(self), "text")


def cut(documents: list[str], val_size: float, test_size: float) -> dict[Split, list[str]]:
    """Three contiguous spans in the order train, val, test; the latter two hold these shares of the characters.

    A single document is cut between two characters. Several documents are not cut: each belongs to the span that
    contains its middle.
    """
    borders = 1 - val_size - test_size, 1 - test_size
    if len(documents) == 1:
        (text,) = documents
        first, second = (round(border * len(text)) for border in borders)
        return {"train": [text[:first]], "val": [text[first:second]], "test": [text[second:]]}
    ends = list(accumulate(map(len, documents)))
    middles = [end - len(document) / 2 for end, document in zip(ends, documents, strict=True)]
    first, second = (bisect_left(middles, border * ends[-1]) for border in borders)
    return {"train": documents[:first], "val": documents[first:second], "test": documents[second:]}


def _filled(documents: list[str], place: str) -> list[str]:
    filled = [document for document in documents if document]
    if not filled:
        raise ValueError(f"{place} has no text: expected at least one document that is not empty")
    return filled


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ValueError(f"{file} cannot be read as a text in UTF-8 ({fault}): convert it") from None
