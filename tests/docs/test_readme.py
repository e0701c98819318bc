"""What README.md says can be done is done here, on a small scale."""

import re
import shlex
from pathlib import Path

import pytest
from support import ROOT

from ebm_lightning import reproduction

TEXT = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


EXPERIMENTS = [file.parent for file in sorted(ROOT.glob("experiments/*/expected.yaml"))]

COMMANDS = [line.split("&& ")[-1] for block in _blocks("bash") for line in block.strip().splitlines()]


@pytest.fixture
def run(ebm, tmp_path: Path, monkeypatch) -> Path:
    """A small run of the quickstart, to stand where the README says RUN."""
    monkeypatch.chdir(ROOT)
    place = tmp_path / "runs" / "quickstart" / "run"
    files = ["-c", "experiments/quickstart/digits.yaml", "-c", "experiments/quickstart/smoke.yaml"]
    assert ebm("fit", *files, "--run", place)[0] == 0
    return place


def test_every_command_works_on_a_small_scale(ebm, run: Path) -> None:
    commands = [shlex.split(command) for command in COMMANDS if command.startswith("ebm ")]
    assert len(commands) >= 7
    for _, verb, *rest in commands:
        arguments = [str(run) if "RUN" in argument else argument for argument in rest]
        if verb == "fit" and "--print_config" not in arguments:
            arguments[2:2] = ["-c", "experiments/quickstart/smoke.yaml"]
        if verb == "sample":
            arguments = ["3" if argument in ("64", "500") else argument for argument in arguments]
        if verb == "test":
            arguments += ["--evaluation", "[]"]
        status, said = ebm(verb, *arguments)
        if "--check" in arguments:
            _assert_checked(status, said, list(map(Path, arguments[:1])) if "--all" not in arguments else EXPERIMENTS)
        else:
            assert status == 0, f"ebm {verb} {arguments}: {said}"


def _assert_checked(status: int, said: str, folders: list[Path]) -> None:
    """`ebm reproduce --check` counts what the results say, and fails with the name of each claim that fails."""
    found = [one for folder in folders for one in reproduction.statuses(folder)]
    failed = [claim.id for claim, one in found if one.fails]
    assert reproduction.summary(found) in said.splitlines()
    assert status == int(bool(failed))
    assert ("ebm: error: not reproduced: " in said) == bool(failed)
    error = said.rpartition("not reproduced: ")[2]
    assert all(f"{name} (" in error for name in failed)


def test_the_python_trains(tmp_path: Path, monkeypatch) -> None:
    (code,) = _blocks("python")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.replace("max_steps=200", "max_steps=3, enable_progress_bar=False"), names)
    assert names["module"].chains.seen == 3 * 256


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert any(line in ci for block in _blocks("bash") for line in block.splitlines() if " pytest" in line)


def test_every_link_leads_somewhere() -> None:
    for document in (ROOT / "README.md", *ROOT.glob("experiments/*/README.md"), *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"
