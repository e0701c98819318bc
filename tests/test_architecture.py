"""Who may import whom. docs/architecture.md explains the table; this keeps it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ebm_lightning"

TABLE = {
    # layer, packages: the packages that they may import, all of them in lower layers
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
"""Who may import whom, as docs/architecture.md has it; a package is a folder or file at the root of ebm_lightning."""

ALLOWED = {package: set(below.split()) for packages in TABLE.values() for package, below in packages.items()}
LAYER = {package: layer for layer, packages in TABLE.items() for package in packages}

MAX_ROOT_ENTRIES = 19

NEVER = {
    # packages: the libraries that they must not import
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
def test_a_file_imports_only_what_its_package_may(file: Path) -> None:
    package = _part(file)
    if package in ("__init__", "__main__"):
        return
    for name in _imports(file):
        library, _, inner = name.partition(".")
        if library != "ebm_lightning":
            assert not any(library in never for packages, never in NEVER.items() if package in packages.split()), name
        elif (other := inner.partition(".")[0]) not in (package, "__version__") and ALLOWED[package] != {"*"}:
            assert other in ALLOWED[package], f"{package} may not import {name}"


def test_packages_import_from_lower_layers_and_none_imports_the_command_line() -> None:
    for package, below in ALLOWED.items():
        assert below == {"*"} or all(LAYER[other] < LAYER[package] for other in below)
        assert "cli" not in below


def test_the_root_has_few_entries_and_every_package_its_place_in_the_table() -> None:
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


METHODS = ("energies", "samplers", "objectives", "chains")
SHARED = {"energies/helmholtz.py": "energies.boltzmann.units", "chains/persistent.py": "chains.nonpersistent"}
"""Files outside of a family that share a piece with another file, and which."""


def _foreign(file: Path) -> list[str]:
    """What a file of a method's package imports from the same package, but from outside of its family.

    A family is a subfolder. Energies may also import networks; networks import nothing but networks.
    """
    package, *family, _ = file.relative_to(PACKAGE).parts
    allowed = ["energies.networks", *([".".join((package, *family))] if family else [])]
    allowed += [SHARED[place]] if (place := str(file.relative_to(PACKAGE))) in SHARED else []
    inside = [name.removeprefix("ebm_lightning.") for name in _imports(file)]
    return [
        name
        for name in inside
        if name.startswith(f"{package}.") and not any(name.startswith(f"{prefix}.") for prefix in allowed)
    ]


@pytest.mark.parametrize("package", METHODS)
def test_methods_do_not_import_one_another(package: str) -> None:
    files = [file for file in sorted((PACKAGE / package).rglob("*.py")) if file.name != "__init__.py"]
    assert files
    assert {str(file.relative_to(PACKAGE)): names for file in files if (names := _foreign(file))} == {}


def test_every_shared_piece_is_imported_by_its_file() -> None:
    for place, shared in SHARED.items():
        assert any(name.startswith(f"ebm_lightning.{shared}.") for name in _imports(PACKAGE / place)), place


def test_foreign_finds_an_import_from_another_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "energies" / "boltzmann").mkdir(parents=True)
    lines = [
        f"from ebm_lightning.energies.{name}"
        for name in ("jem import JEM", "networks import MLP", "boltzmann.rbm import RBM")
    ]
    for place, foreign in (("jem2.py", ["boltzmann.rbm.RBM", "jem.JEM"]), ("boltzmann/dbm2.py", ["jem.JEM"])):
        file = tmp_path / "energies" / place
        file.write_text("\n".join(lines))
        assert sorted(_foreign(file)) == [f"energies.{name}" for name in foreign]


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


def test_the_package_loads_no_torch_and_each_sub_package_when_it_is_first_used() -> None:
    code = (
        "import sys, ebm_lightning as root\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(sys.argv[1:]) <= set(dir(root))\n"  # before an import of one of them loads others
        "assert all(getattr(root, name).__name__ == f'ebm_lightning.{name}' for name in sys.argv[1:])\n"
        "assert all(hasattr(root, name) for name in root.__all__)\n"
    )
    packages = sorted(set(ALLOWED) - {"cli"})
    done = subprocess.run([sys.executable, "-c", code, *packages], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
