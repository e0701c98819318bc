"""What the guide to a cluster says: every command of it is one."""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from support import ROOT
from support.stand_in import StandIn
from support.submission import git

from ebm_lightning.cluster import jobs, wandb_sync


def test_every_command_of_the_guide_is_one(
    ebm, checkout: Path, slurm: StandIn, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for SLURM and for training; tests/test_slurm.py has a real one."""
    for part in ("cluster", "experiments/quickstart"):
        shutil.copytree(ROOT / part, checkout / part)
    (checkout / "here.yaml").write_text(yaml.safe_dump({"python": shlex.quote(str(python))}))
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "second")
    monkeypatch.setattr(wandb_sync, "subprocess", SimpleNamespace(run=lambda *a, **k: SimpleNamespace(returncode=0)))
    run = tmp_path / "runs" / "quickstart" / "digits-seed0"
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "cluster" / "README.md").read_text(), re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("ebm ")]
    assert len(commands) >= 18
    for _, verb, *rest in commands:
        arguments = [{"RUN": str(run), "runs/quickstart": str(run.parent)}.get(word, word) for word in rest]
        if "--local" in arguments:
            arguments[:0] = ["--profile", "here.yaml"]
        if verb == "sample":
            continue  # needs a trained run
        if verb in ("cancel", "preempt"):
            slurm.queue(f"{jobs.of_run(run).id}|N/A|RUNNING|0|None|")
        status, said = ebm(verb, *arguments)
        assert status == 0, f"ebm {verb} {arguments}: {said}"
        slurm.queue()
        if not (run / "config.yaml").exists() and run.exists():
            (run / "config.yaml").write_text("seed_everything: 0\n")
            (run / "metrics.csv").write_text("time,step,name,value\n0,1,train/loss,2\n0,1,train/gap,2\n")
            (run / "slurm" / "17.out").write_text("hello\n")
            (run / "wandb" / "offline-run-20300101_000000-id").mkdir(parents=True)


def test_the_table_of_interruptions_is_that_of_its_results() -> None:
    script = runpy.run_path(str(ROOT / "cluster" / "local" / "interruptions.py"))
    found = (ROOT / "cluster" / "README.md").read_text().split(script["BEGIN"])[1].split(script["END"])[0].strip()
    assert found == "\n".join(script["table"](json.loads(script["RESULTS"].read_text())))
