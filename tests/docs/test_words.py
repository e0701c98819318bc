"""Public names, help texts and pages use the field's terms (docs/glossary.md) and American spelling."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import ROOT

from ebm_lightning.cli.main import COMMANDS

NAMES = (
    *("Manner", "Written", "Reading", "InSteps", "InOnePass", "OnTop", "Doubled", "Held", "AtData", "ClassGaussians"),
    *("rebirth", "birth_noise", "born", "unwatched", "watched", "as_seen", "rate_factor", "rate_floor", "spare_biases"),
    *("own_rate", "keep_path", "makes_room", "runs_below", "name_runs_below", "check_data_below", "built_on"),
    *("Thinking", "Thought", "PASS", "Ball", "Findings", "Pieces", "Staircase", "Reciprocal", "Scheduled", "Diverged"),
    *("FREE_KEYS", "FORMS", "WORTHWHILE", "max_gb", "memory_gb", "ShortestDescription", "ImportanceLikelihood"),
    *("TwoSample", "Filters", "OnStream", "Streaming", "Noised", "Noisy", "AddedNoise", "imagine", "dream", "recall"),
    *("asked", "begun", "blank", "told", "mend", "verdict", "rider"),
)
"""Names of classes, functions and arguments that were replaced."""

WORDS = (
    *("rebirth", "reborn", "born", "unwatched", "riders?", "mend(s|ed|ing)?", "dream(s|ed|t|ing)?", "verdicts?"),
    *(
        "imagin(e|es|ed|ing)",
        "short by",
        "not to be trusted",
        "pixel conventions?",
        "in words",
        "told apart",
        "a person",
    ),
    "so many",
)
"""Words of prose that were replaced."""

BRITISH = (
    *("colours?", "coloured", "colouring", "neighbours?", "neighbouring", "behaviours?", "favours?", "grey"),
    *(
        "(un)?labelled",
        "labelling",
        "centred?",
        "centres",
        "modelled",
        "modelling",
        "cancelled",
        "misspelt",
        "artefacts?",
    ),
    r"(initial|normal|general|regular|optim|minim|maxim|recogn|summar|parametr|parameter|discret|factor|real)is(e|es|ed|ing|ation)",
)
"""Spellings that are not American."""


def files() -> list[Path]:
    """The pages and configurations for the user."""
    patterns = ("README.md", "CHANGELOG.md", "docs/*.md", "cluster/README.md", "benchmarks/README.md")
    found = [file for pattern in patterns for file in ROOT.glob(pattern)]
    return sorted([*found, *ROOT.glob("experiments/*/README.md"), *ROOT.glob("experiments/*/*.yaml")])


def public_names(file: Path) -> Iterator[str]:
    """The names of classes, functions, arguments and fields that a file defines, without private ones."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name) and target.id.isupper())


def replaced(text: str) -> list[str]:
    """The replaced words of a text, and the replaced names in its code spans and class paths."""
    prose = re.compile(rf"\b({'|'.join((*WORDS, *BRITISH))})\b", re.IGNORECASE)
    found = [match[0] for match in prose.finditer(re.sub(r"\s+", " ", text))]
    code = " ".join(re.findall(r"`[^`\n]+`|class_path: \S+|^ *\w+:", text, re.MULTILINE))
    return found + [match[0] for match in re.finditer(rf"\b({'|'.join(NAMES)})\b", code)]


def test_replaced_finds_words_spellings_and_names_in_code() -> None:
    assert replaced("Chains are born in grey, `Manner`, so\nmany.") == ["born", "grey", "so many", "Manner"]
    assert replaced("class_path: AtData\nmax_gb: 3\n# Reading the table; a list of Pieces") == ["AtData", "max_gb"]
    assert replaced("A chain is initialized from `DataInit`; the color is gray.") == []


@pytest.mark.parametrize("file", sorted((ROOT / "ebm_lightning").rglob("*.py")), ids=lambda file: file.stem)
def test_public_names_are_the_terms_of_the_glossary(file: Path) -> None:
    names = {name for name in public_names(file) if not name.startswith("_")}
    british = re.compile(rf"(?<![a-z])({'|'.join(BRITISH)})(?![a-z])")
    assert sorted(names & set(NAMES)) == []
    assert sorted(name for name in names if british.search(name.lower())) == []


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_pages_and_configurations_use_the_terms_of_the_glossary(file: Path) -> None:
    assert replaced(file.read_text()) == []


def test_configurations_name_the_present_classes_and_keys() -> None:
    """Keys and values of every YAML, wherever they stand."""
    for file in ROOT.glob("experiments/*/*.yaml"):
        assert sorted(set(map(str, leaves(yaml.safe_load(file.read_text())))) & set(NAMES)) == [], file


def leaves(tree: object) -> Iterator[object]:
    """All keys and values of nested mappings and lists; the last name of a class path."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from leaves(value)
    elif isinstance(tree, list):
        for part in tree:
            yield from leaves(part)
    else:
        yield tree.rpartition(".")[2] if isinstance(tree, str) else tree


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The help of the program and of each command, by name, from a process that knows no classes of the tests."""
    code = (
        "import contextlib, io, json, sys\n"
        "from ebm_lightning.cli.main import run\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):\n"
        "        run([*name.split(), '--help'])\n"
        "    found[name] = text.getvalue()\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "", *COMMANDS], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_uses_the_terms_of_the_glossary(command: str, helps: dict[str, str]) -> None:
    assert "usage: ebm" in helps[command]
    assert replaced(helps[command]) == []
    assert re.findall(rf"\b({'|'.join(NAMES)})\b", helps[command]) == []
