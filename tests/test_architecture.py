"""Who may import whom. docs/architecture.md explains the table; this keeps it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ebm_lightning"

TABLE = {
    # floor, rooms: the rooms that they may import, all of them on lower floors
    1: {"core": ""},
    2: {"utils": "core", "samplers": "core", "runs": "core"},
    3: {"distributions": "core utils", "data": "core utils", "cluster": "runs"},
    4: dict.fromkeys(("energies", "objectives", "chains"), "core utils distributions")
    | {"reproduction": "runs cluster"},
    5: {"training": "core utils runs distributions data chains"},
    6: {"generation": "core utils runs distributions data chains energies training"},
    7: {"evaluation": "core utils runs distributions data chains energies training generation samplers"},
    8: {"planning": "core utils runs distributions data chains energies training generation samplers evaluation"},
    9: {"cli": "*"},
}
"""Who may import whom, as docs/architecture.md has it; a room is a folder or file at the root of the package."""

ALLOWED = {room: set(below.split()) for rooms in TABLE.values() for room, below in rooms.items()}
FLOOR = {room: floor for floor, rooms in TABLE.items() for room in rooms}

MAX_ROOT_ENTRIES = 19

NEVER = {
    # rooms: the libraries that they must not touch
    "core": {"lightning", "wandb", "numpy", "torchmetrics"},
    "utils distributions energies samplers objectives chains": {"lightning", "wandb"},
    "data training generation evaluation planning": {"wandb"},
    "cluster reproduction": {"torch", "lightning", "wandb"},
}

TORCH_FREE = (
    *("cli/main.py", "cli/parser.py", "cli/configured.py", "cli/cluster.py", "cli/reproduce.py", "cli/report.py"),
    *("cluster", "reproduction", "runs/dependencies.py", "runs/errors.py", "runs/files.py", "runs/folder.py"),
    *("runs/identity.py", "runs/preemption.py", "runs/provenance.py", "runs/records.py"),
)
"""What the command line needs before a command needs torch."""


def _part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may(file: Path) -> None:
    room = _part(file)
    if room in ("__init__", "__main__"):
        return
    for name in _imports(file):
        library, _, inner = name.partition(".")
        if library != "ebm_lightning":
            assert not any(library in never for rooms, never in NEVER.items() if room in rooms.split()), name
        elif (other := inner.partition(".")[0]) not in (room, "__version__") and ALLOWED[room] != {"*"}:
            assert other in ALLOWED[room], f"{room} may not import {name}"


def test_no_arrow_runs_upwards_and_nothing_imports_the_command_line() -> None:
    for room, below in ALLOWED.items():
        assert below == {"*"} or all(FLOOR[other] < FLOOR[room] for other in below)
        assert "cli" not in below


def test_the_root_has_few_entries_and_every_room_its_place_in_the_table() -> None:
    entries = {entry.name for entry in PACKAGE.iterdir() if entry.name != "__pycache__"}
    assert len(entries) <= MAX_ROOT_ENTRIES
    assert {name.removesuffix(".py") for name in entries} - {"__init__", "__main__", "py.typed"} == set(ALLOWED)


@pytest.mark.parametrize("place", TORCH_FREE)
def test_what_starts_early_imports_no_torch(place: str) -> None:
    for file in [PACKAGE / place] if place.endswith(".py") else sorted((PACKAGE / place).rglob("*.py")):
        for node in ast.parse(file.read_text()).body:  # what a function imports waits for its call
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
                assert not {name.partition(".")[0] for name in names} & {"torch", "lightning"}, f"{file.name}: {names}"


BUILT_ON = {"layerwise.py": "rbm", "dbm.py": "layerwise", "mean_field_net.py": "dbm", "next_candidate.py": "ebt"}
"""Models that are made of another one, and which."""


@pytest.mark.parametrize("folder", ["models", "samplers", "objectives"])
def test_methods_do_not_import_one_another(folder: str) -> None:
    for file in (PACKAGE / folder).glob("*.py"):
        if file.name == "__init__.py":
            continue
        for name in _imports(file):
            inside = name.startswith(f"ebm_lightning.{folder}.")
            allowed = ("ebm_lightning.energies.networks", f"ebm_lightning.energies.{BUILT_ON.get(file.name)}.")
            assert not inside or name.startswith(allowed), f"{file.name} imports {name}"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["nonsense"], ["test", "/nowhere"], ["submit", "/nowhere"], ["report", "/nowhere"]],
)
def test_help_and_mistakes_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom ebm_lightning.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "sys.exit(int('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
