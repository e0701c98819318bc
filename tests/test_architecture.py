"""Who may import whom. docs/architecture.md explains the table; this keeps it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ebm_lightning"

ALLOWED = {
    # a part of the package: the parts of the package it may import
    "core": set(),
    "kernels": {"randomness"},
    "memory": set(),
    "ranks": set(),
    "enumeration": {"kernels"},
    "schedules": {"core", "randomness"},
    "distributions": {"core", "kernels"},
    "units": {"core", "distributions", "kernels"},
    "bipartite": {"core", "enumeration", "units"},
    "randomness": set(),
    "runs": set(),
    "optim": set(),
    "models": {"bipartite", "core", "distributions", "kernels", "models", "ranks", "units"},
    "samplers": {"core"},
    "objectives": {"core", "distributions", "ranks"},
    "chains": {"core", "distributions"},
    "metrics": {"core", "distributions"},
    "pictures": {"core"},
    "loggers": set(),
    "checkpoints": set(),
    "data": {"core", "kernels", "randomness"},
    "graphs": {"core"},
    "module": {
        *("core", "chains", "checkpoints", "graphs", "kernels", "ranks"),
        *("callbacks.buffer", "callbacks.compile_choice", "callbacks.sampler_memory", "data.base"),
    },
    "sharded": {"core", "module", "ranks"},
    "trained": {"core", "checkpoints", "runs"},
    "sampling": {"core", "chains", "distributions", "module", "data.base", "pictures"},
    "callbacks": {
        *("core", "chains", "module", "sampling", "pictures", "loggers", "checkpoints", "randomness", "runs"),
        *("callbacks.buffer", "callbacks.rank_state", "data", "kernels", "metrics"),
    },
    "evaluation": {
        "core",
        "chains",
        "checkpoints",
        "distributions",
        "metrics",
        "module",
        "sampling",
        "pictures",
        "randomness",
        "runs",
        "samplers",
        "data",
        "evaluation",
        "trained",
    },
    "generation": {"chains", "core", "data", "models", "module", "randomness", "sampling"},
    "writing": {"core", "data", "generation", "models", "module", "pictures", "runs"},
    "planning": {"chains", "core", "data", "evaluation", "module", "runs"},
    "trainer": {
        *("checkpoints", "callbacks", "data", "generation", "module", "planning", "randomness", "sampling", "sharded"),
        "writing",
    },
    "mistakes": set(),
    "cli": {"cluster", "commands", "experiment", "runs"},
    "cluster": {"runs"},
    "experiment": {"cluster", "runs"},
    "commands": {
        *(
            "callbacks",
            "checkpoints",
            "chains",
            "core",
            "data",
            "distributions",
            "evaluation",
            "kernels",
            "loggers",
            "memory",
            "mistakes",
        ),
        *("models", "module", "objectives", "optim", "planning", "runs", "samplers", "schedules", "trained"),
        *("trainer", "units"),
    },
}

NEVER = {
    # a part of the package: the libraries it must not touch
    "core": {"lightning", "wandb", "numpy", "torchmetrics"},
    "distributions": {"lightning", "wandb"},
    "kernels": {"lightning", "wandb"},
    "units": {"lightning", "wandb"},
    "schedules": {"lightning", "wandb"},
    "models": {"lightning", "wandb"},
    "samplers": {"lightning", "wandb"},
    "objectives": {"lightning", "wandb"},
    "chains": {"lightning", "wandb"},
    "metrics": {"lightning", "wandb"},
    "callbacks": {"wandb"},
    "evaluation": {"wandb"},
    "runs": {"torch", "lightning", "wandb"},
    "cli": {"torch", "lightning", "wandb"},
    "cluster": {"torch", "lightning", "wandb"},
    "experiment": {"torch", "lightning", "wandb"},
}


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
def test_a_file_imports_only_what_its_part_may(file: Path) -> None:
    part = _part(file)
    if part == "__init__" or part == "__main__":
        return
    for name in _imports(file):
        library, _, inner = name.partition(".")
        if library == "ebm_lightning":
            assert any(f"{inner}.".startswith(f"{may}.") for may in ALLOWED[part] | {part, "__version__"}), (
                f"{part} may not import {name}"
            )
        else:
            assert library not in NEVER.get(part, set()), f"{part} may not import {name}"


def test_every_part_has_its_line_in_the_table() -> None:
    assert {_part(file) for file in FILES} - {"__init__", "__main__"} == set(ALLOWED)


BUILT_ON = {"layerwise.py": "rbm", "dbm.py": "layerwise", "mean_field_net.py": "dbm", "next_candidate.py": "ebt"}
"""Models that are made of another one, and which."""


@pytest.mark.parametrize("folder", ["models", "samplers", "objectives"])
def test_methods_do_not_import_one_another(folder: str) -> None:
    for file in (PACKAGE / folder).glob("*.py"):
        if file.name == "__init__.py":
            continue
        for name in _imports(file):
            inside = name.startswith(f"ebm_lightning.{folder}.")
            allowed = ("ebm_lightning.models.backbones", f"ebm_lightning.models.{BUILT_ON.get(file.name)}.")
            assert not inside or name.startswith(allowed), f"{file.name} imports {name}"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["nonsense"], ["test", "/nowhere"], ["submit", "/nowhere"], ["report", "/nowhere"]],
)
def test_help_and_mistakes_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom ebm_lightning.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "sys.exit(int('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
