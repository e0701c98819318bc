"""Atomic writes of text files."""

from collections.abc import Iterable
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically: it has the old text or all of the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def write_between(file: Path, begin: str, lines: Iterable[str], end: str) -> None:
    """Replace the lines between two markers of a text file."""
    head, _, rest = file.read_text().partition(begin)
    write_atomically(file, "\n".join([head + begin, *lines, end]) + rest.partition(end)[2])
