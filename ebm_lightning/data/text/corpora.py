"""Where text comes from: a file, a folder of files, the Hugging Face hub; and how it is cut into splits."""

import abc
import os
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from ebm_lightning.data.base import Split


class Corpus(abc.ABC):
    """Documents in an order that is always the same. Final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def documents(self) -> list[str]:
        """All documents, none of them empty. Raises ValueError where there are none or they cannot be read."""

    def fetch(self) -> None:  # noqa: B027  (a hook)
        """Fetches what is not on this machine, from one process of each node: a hook; by default nothing is."""


@dataclass(frozen=True)
class TextFile(Corpus):
    """A text in UTF-8, which is one document, or a folder in which every .txt is one, in the order of their names.

    Args:
        path: The file or folder, below ``root`` or by itself.
        root: Folder of data sets; None takes the environment variable EBM_DATA.
    """

    path: str
    root: str | None = None

    def documents(self) -> list[str]:
        place = self._place()
        files = sorted(place.glob("*.txt")) if place.is_dir() else [place]
        return _filled([_read(file) for file in files], str(place))

    def _place(self) -> Path:
        root = self.root or os.environ.get("EBM_DATA")
        places = [Path(folder, self.path).expanduser() for folder in (root, ".") if folder]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise ValueError(
                f"there is no text {' or '.join(map(str, dict.fromkeys(places)))}: expected a file or a folder of "
                ".txt; set EBM_DATA to the folder that holds it, or give its whole path"
            )
        return found


@dataclass(frozen=True)
class HubText(Corpus):
    """A data set of the Hugging Face hub, or a folder in a layout that ``datasets`` reads; every row is a document.

    Args:
        path: The name on the hub or the folder, as ``datasets.load_dataset`` takes it.
        config: Which configuration of the set; None where it has one.
        split: Which part of the set, in the notation of ``datasets``: train, or train[:1%] where it is not streamed.
        column: Where the text is.
    """

    path: str
    config: str | None = None
    split: str = "train"
    column: str = "text"

    def documents(self) -> list[str]:
        return _filled(list(self._checked(self._loaded(streaming=False))[self.column]), str(self))

    def fetch(self) -> None:
        self._loaded(streaming=False)

    def stream(self) -> Any:
        """The rows as an ``IterableDataset`` that reads them while they are asked for."""
        return self._checked(self._loaded(streaming=True))

    def _loaded(self, streaming: bool) -> Any:
        import datasets

        try:
            return datasets.load_dataset(self.path, self.config, split=self.split, streaming=streaming)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{self} cannot be read ({problem}): check its name, or connect to the network") from None

    def _checked(self, rows: Any) -> Any:
        """The rows, if they have the column; of a stream that may not be known before the first row."""
        if rows.column_names and self.column not in rows.column_names:
            raise ValueError(f"{self} has the columns {', '.join(rows.column_names)}: name the one that holds text")
        return rows


def cut(documents: list[str], valid: float, test: float) -> dict[Split, list[str]]:
    """Three contiguous spans in the order train, valid, test, of which two hold these shares of the characters.

    A single document is cut between two characters. Several stay whole: each belongs to the span its middle lies in.
    """
    borders = 1 - valid - test, 1 - test
    if len(documents) == 1:
        (text,) = documents
        first, second = (round(border * len(text)) for border in borders)
        return {"train": [text[:first]], "valid": [text[first:second]], "test": [text[second:]]}
    ends = list(accumulate(map(len, documents)))
    middles = [end - len(document) / 2 for end, document in zip(ends, documents, strict=True)]
    first, second = (bisect_left(middles, border * ends[-1]) for border in borders)
    return {"train": documents[:first], "valid": documents[first:second], "test": documents[second:]}


def _filled(documents: list[str], where: str) -> list[str]:
    filled = [document for document in documents if document]
    if not filled:
        raise ValueError(f"{where} holds no text: expected at least one document that is not empty")
    return filled


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ValueError(f"{file} cannot be read as a text in UTF-8 ({fault}): convert it") from None
