"""Tests are found where their subject is: by its module, and by the name of its class."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "ebm_lightning"
MIRRORED = ("chains", "distributions", "energies", "evaluation", "objectives", "samplers", "utils")
SHARED = {
    "energies/networks/test_networks.py",
    "energies/test_energies.py",
    "objectives/test_objectives.py",
    "samplers/test_samplers.py",
    "samplers/wrappers/test_runs.py",
}
"""What every class of a folder keeps, or several of them together."""


def _names() -> Iterator[str]:
    """What `pytest -k` looks at, without regard to case: names of files, classes and functions."""
    for file in TESTS.rglob("test_*.py"):
        yield file.stem.lower()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name.lower().startswith("test"):
                yield node.name.lower()


@pytest.mark.parametrize("folder", MIRRORED)
def test_every_file_of_tests_has_the_name_of_a_module(folder: str) -> None:
    files = {file.relative_to(TESTS).as_posix() for file in (TESTS / folder).rglob("test_*.py")}
    modules = {
        file.relative_to(PACKAGE).with_name(f"test_{file.name}").as_posix()
        for file in PACKAGE.joinpath(folder).rglob("*.py")
    }
    assert files - modules - SHARED == set()


@pytest.mark.parametrize("folder", MIRRORED[:-1])
def test_every_public_class_stands_in_the_name_of_a_test(folder: str) -> None:
    module = importlib.import_module(f"ebm_lightning.{folder}")
    names = "\n".join(_names())
    concrete = [name for name in module.__all__ if not inspect.isabstract(getattr(module, name))]
    assert [name for name in concrete if name.lower() not in names] == []
