"""Data sets in a local folder or on the Hugging Face hub."""

import os
from pathlib import Path
from typing import Any


def data_root(root: str | None = None) -> Path | None:
    """The folder of data sets: ``root``, or else the environment variable EBM_DATA; None if neither is given."""
    folder = root or os.environ.get("EBM_DATA")
    return Path(folder).expanduser() if folder else None


def load_hub(path: str, config: str | None, split: str, *, fault: str, advice: str, streaming: bool = False) -> Any:
    """A split of a data set, as ``datasets.load_dataset`` returns it.

    Args:
        path: Name on the hub, or a folder in a layout that ``datasets`` reads.
        config: Configuration of the data set; None if it has one only.
        split: Name of the split, in the notation of ``datasets``: train, validation, train[:10%].
        fault: Beginning of the error's message.
        advice: End of the error's message.
        streaming: Whether rows are read one by one, without a complete download.

    Raises:
        ValueError: "<fault> (<first line of the library's message>): <advice>", if the data cannot be read.
    """
    import datasets

    try:
        return datasets.load_dataset(path, config, split=split, streaming=streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{fault} ({problem}): {advice}") from None


def with_column(rows: Any, column: str, name: str, content: str) -> Any:
    """The rows of ``load_hub``. Raises ValueError if they lack a column; those of a stream may be unknown."""
    if rows.column_names and column not in rows.column_names:
        raise ValueError(f"{name} has the columns {', '.join(rows.column_names)}: give the column of {content}")
    return rows
