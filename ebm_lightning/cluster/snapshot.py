"""Snapshots of the source at submission, so that later edits do not affect waiting jobs."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ebm_lightning.runs.provenance import GENERATED_PATHS

DIFF_OPTIONS = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
"""Options of `git diff` that make its output independent of the user's configuration."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A git checkout: its last commit and its uncommitted changes.

    Args:
        root: the top of the checkout.
        commit: the hash of HEAD.
        diff: the changes of tracked files, as git writes them.
        dirty: whether there are changes outside of the files that `ebm reproduce` writes.
        untracked: files that git neither tracks nor ignores; they are not part of a snapshot.
    """

    root: Path
    commit: str
    diff: bytes
    dirty: bool
    untracked: tuple[str, ...]

    @property
    def key(self) -> str:
        """A name for this state of the source: the commit, and a hash of the changes if there are any."""
        changes = f"-{hashlib.sha256(self.diff).hexdigest()[:8]}" if self.diff else ""
        return self.commit[:12] + changes

    def has(self, file: Path) -> bool:
        """Whether a file is part of a snapshot."""
        inside = file.resolve()
        return inside.is_relative_to(self.root) and bool(_git(self.root, "ls-files", "--", f":(literal){inside}"))


def source(folder: Path) -> Source:
    """The checkout that contains a folder.

    Raises:
        ValueError: if the folder is in no git repository, or in one without a commit.
    """
    top = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=folder, capture_output=True, check=False)
    if top.returncode:
        raise ValueError(
            f"{folder.absolute()} is not in a git repository, and jobs run from a snapshot of one: submit from the "
            "checkout, or create one with `git init` and commit"
        )
    root = Path(os.fsdecode(top.stdout.rstrip(b"\n")))
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, check=False)
    if head.returncode:
        raise ValueError(f"the git repository {root} has no commit, and jobs run from a snapshot of one: commit first")
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    return Source(
        root,
        head.stdout.decode().strip(),
        _git(root, "diff", *DIFF_OPTIONS, "HEAD"),
        bool(_git(root, "diff", "--name-only", "HEAD", "--", ":(top)", *GENERATED_PATHS)),
        tuple(os.fsdecode(name) for name in untracked.split(b"\0") if name),
    )


def warn_of_changes(source: Source) -> None:
    """Warn on standard error if a job will run uncommitted code."""
    if source.dirty:
        print("ebm: warning: the tree has uncommitted changes: they are part of the snapshot", file=sys.stderr)


def take(source: Source, folder: Path) -> Path:
    """The snapshot of a source in ``folder/<key>``, created if it is missing: HEAD with its changes applied.

    Its ``snapshot.json`` has the commit, the changes and the names of untracked files.
    """
    target = folder / source.key
    if target.is_dir():
        return target
    partial = folder / f".{source.key}.{os.getpid()}"
    partial.mkdir(parents=True)
    archive = _git(source.root, "archive", "--format=tar", "HEAD")
    subprocess.run(["tar", "-x", "-C", str(partial)], input=archive, check=True)
    if source.diff:
        # Below another checkout, git would apply the changes to paths of that one.
        outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(partial.resolve().parent)}
        subprocess.run(["git", "apply", "--whitespace=nowarn"], cwd=partial, env=outside, input=source.diff, check=True)
    facts = {
        "commit": source.commit,
        "dirty": source.dirty,
        "diff": source.diff.decode(errors="replace"),
        "untracked": source.untracked,
    }
    (partial / "snapshot.json").write_text(json.dumps(facts, indent=1))
    try:
        partial.rename(target)
    except OSError:  # another submission was first
        shutil.rmtree(partial)
    return target


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True).stdout
