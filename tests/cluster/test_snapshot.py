"""The source that a job imports: a commit with its changes, and no later edit."""

import json
from pathlib import Path

import pytest
from support.submission import git

from ebm_lightning.cluster import snapshot
from ebm_lightning.runs import provenance
from ebm_lightning.runs.folder import RunFolder


def test_a_snapshot_is_the_commit_with_its_changes_and_no_later_edit(checkout: Path, tmp_path: Path) -> None:
    clean = snapshot.source(checkout / "experiments")
    assert (clean.root, clean.dirty, clean.untracked, clean.diff) == (checkout.resolve(), False, (), b"")
    (checkout / "code.py").write_text("new = 2\n")
    (checkout / "binary").write_bytes(bytes(range(256)))
    git(checkout, "add", "binary")
    (checkout / "notes with spaces.txt").touch()
    changed = snapshot.source(checkout)
    assert (changed.dirty, changed.untracked) == (True, ("notes with spaces.txt",))
    assert changed.key.startswith(f"{clean.commit[:12]}-")
    places = [snapshot.take(source, checkout / "runs" / ".code") for source in (clean, changed)]
    (checkout / "code.py").write_text("later = 3\n")
    assert [(place / "code.py").read_text() for place in places] == ["old = 1\n", "new = 2\n"]
    assert (places[1] / "binary").read_bytes() == bytes(range(256))
    assert not (places[1] / "notes with spaces.txt").exists()
    facts = json.loads((places[1] / "snapshot.json").read_text())
    assert (facts["commit"], facts["dirty"]) == (clean.commit, True)
    assert facts["untracked"] == ["notes with spaces.txt"]
    assert "+new = 2" in facts["diff"]
    assert snapshot.take(changed, checkout / "runs" / ".code") == places[1]
    assert sorted(path.name for path in (checkout / "runs" / ".code").iterdir()) == sorted(p.name for p in places)


def test_what_reproduce_writes_makes_no_tree_dirty(checkout: Path) -> None:
    (checkout / "README.md").write_text("a table\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "second")
    (checkout / "README.md").write_text("another table\n")
    source = snapshot.source(checkout)
    assert (source.dirty, b"another table" in source.diff) == (False, True)


def test_a_job_of_a_snapshot_knows_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"commit": "abc", "dirty": True, "diff": "+new = 2", "untracked": []}
    (tmp_path / "snapshot.json").write_text(json.dumps(facts))
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "ebm_lightning" / "runs" / "provenance.py"))
    RunFolder(tmp_path / "run").acquire({"seed_everything": 0}, [])
    found = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (found["commit"], found["dirty"], found["diff"]) == ("abc", True, "+new = 2")
