"""`ebm submit --local`: the same script without SLURM."""

import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from support import ROOT
from support.stand_in import StandIn
from support.submission import NET, ran

from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder


def test_local_runs_the_same_script_and_keeps_what_it_said(
    ebm, checkout: Path, slurm: StandIn, python: Path, tmp_path: Path
) -> None:
    (checkout / "site.yaml").write_text(
        yaml.safe_dump({"python": shlex.quote(str(python)), "nodes": "4", "gpus_per_node": "8"})
    )
    status, said = ebm("submit", NET, "--profile", "site.yaml", "--seeds", "0-1", "--local", 2)
    assert status == 0, said
    assert [start[-6:] for start in ran(slurm)] == [
        ["--run", str(tmp_path / "runs/paper" / name), "--trainer.num_nodes", "1", "--trainer.devices", "2"]
        for name in ("net-seed0", "net-seed1")
    ]
    log = (tmp_path / "runs" / "paper" / "net-seed1" / "slurm" / "local.out").read_text()
    assert "job without SLURM, task 1, restart 0" in log
    assert log in said
    (slurm.home / "status").write_text("9\n")
    status, said = ebm("submit", NET, "--profile", "site.yaml", "--local", 1)
    assert status == 1
    assert "net-seed3 failed with status 9: its log is" in said.splitlines()[-1]


def test_a_run_is_trained_without_slurm(
    ebm, checkout: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(tiny, "experiments/paper/tiny.yaml")
    steps = ("--trainer.max_steps", 1, "--samples.steps", 1)
    status, said = ebm("submit", "experiments/paper/tiny.yaml", "--local", 1, "--", *steps)
    assert status == 0, said
    run = RunFolder(tmp_path / "runs" / "paper" / next((tmp_path / "runs" / "paper").iterdir()).name)
    assert [event["event"] for event in run.events()] == ["start", "checkpoint", "end"]
    assert len(checkpoints.rank_files(run.checkpoints()[-1])) == 1
    assert run.config()["seed_everything"] == 3
    assert (run.path / "slurm" / "local.out").read_bytes().decode() in said
