"""`ebm submit`: the calls of SLURM, the files in the run folders, and messages of errors."""

import json
import os
import re
import shlex
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from support.stand_in import StandIn
from support.submission import EVIL, NET, git, ran, run_script

from ebm_lightning.cluster.job_log import JobLog
from ebm_lightning.runs.folder import RunFolder


def test_a_dry_run_shows_everything_and_writes_nothing(ebm, checkout: Path, slurm: StandIn, tmp_path: Path) -> None:
    status, said = ebm(
        "submit", NET, "--seeds", "0-1", "--max-parallel", 1, "--after", 16, "--test", "--", "--a", "b c"
    )
    assert status == 0, said
    shown = said.splitlines()
    assert shown[0] == "#!/bin/bash"
    assert "command sbatch --parsable --array=0-1%1 --dependency=afterok:16 < " in said
    assert "SLURM   Job 7 to start at 2030-01-01T00:00:00 on n1" in shown
    assert [line.split("paper/")[1][:10] for line in shown if line.startswith("run ")] == ["net-seed0-", "net-seed1-"]
    assert "--a 'b c' --seed_everything 1 --run" in said
    assert not (tmp_path / "runs").exists()
    assert not list(slurm.home.glob("*.sh"))


def test_a_job_is_submitted_with_all_that_it_needs(
    ebm, checkout: Path, slurm: StandIn, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (checkout / "site.yaml").write_text(yaml.safe_dump({"python": shlex.quote(str(python)), "devices": "2"}))
    (checkout / "mine=a.yaml").write_text("model: {steps: 7}\n")
    (checkout / "code.py").write_text("new = 2\n")
    status, said = ebm("submit", NET, "--profile", "site.yaml", "--", "-c", "mine=a.yaml", "--config=code.py")
    assert status == 0, said
    assert "warning: the tree has uncommitted changes" in said
    assert "warning: mine=a.yaml is not in git: a job reads its content at the start" in said
    job, run = said.splitlines()[:2]
    folder = Path(run.removeprefix("run     "))
    assert job == "job     17"
    assert slurm.arguments(17) == ["--parsable"]
    assert slurm.script(17) == (folder / "slurm" / "job.sh").read_text()
    assert f"#SBATCH --output={folder}/slurm/%j.out" in slurm.script(17)
    code = (folder / "code").resolve()
    assert (code / "code.py").read_text() == "new = 2\n"
    assert os.readlink(folder / "code") == f"../../.code/{code.name}"
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["command"][:3] == ["ebm", "submit", NET]
    assert (meta["commit"], meta["dirty"]) == (git(checkout, "rev-parse", "HEAD").strip(), True)
    assert meta["untracked"] == ["mine=a.yaml", "site.yaml"]
    assert f"torch=={metadata.version('torch')}" in meta["packages"]
    assert meta["id"] == (folder / "run_id").read_text() == RunFolder(folder).id
    (line,) = JobLog(tmp_path / "runs").lines()
    assert (line["job"], line["folder"]) == ("17", f"paper/{folder.name}")
    (slurm.home / "state").write_text("RUNNING\n")
    assert run_script(slurm.script(17), slurm, folder, SLURM_JOB_ID="17", SLURM_JOB_NODELIST="n")[0] == 0
    (start,) = ran(slurm)
    files = [f"{code}/{NET}", "-c", str(checkout / "mine=a.yaml"), f"--config={code}/code.py"]
    assert start[:3] == [str(checkout), str(code), "disabled"]
    assert start[6:] == [
        *("fit", "-c", *files, "--seed_everything", "3", "--run", str(folder)),
        *("--trainer.num_nodes", "1", "--trainer.devices", "2"),
    ]


def test_the_tasks_of_an_array_have_a_folder_and_a_log_each(ebm, checkout: Path, slurm: StandIn) -> None:
    (checkout / "grid.yaml").write_text("model.steps: [1, 2]\nmodel.rate: [0.1, 0.2]\n")
    status, said = ebm("submit", NET, "--seeds", "0-1", "--sweep", "grid.yaml", "--max-parallel", 3)
    assert status == 0, said
    folders = [Path(line.split(maxsplit=1)[1]) for line in said.splitlines() if line.startswith("run ")]
    assert len(set(folders)) == 8
    assert slurm.arguments(17) == ["--parsable", "--array=0-7%3"]
    (output,) = re.findall("#SBATCH --output=(.*)", slurm.script(17))
    for number, folder in enumerate(folders):
        log = Path(output.replace("%a", str(number)).replace("%A", "17"))
        assert log.resolve() == folder / "slurm" / f"17_{number}.out"
        assert json.loads((folder / "meta.json").read_text())["task"] == number
    assert [line["job"] for line in JobLog(folders[0].parent.parent).lines()] == [f"17_{k}" for k in range(8)]


def test_a_folder_whose_job_is_alive_is_refused_and_an_ended_one_continues(
    ebm, checkout: Path, slurm: StandIn, tmp_path: Path
) -> None:
    assert ebm("submit", NET, "--seeds", "0-1")[0] == 0
    slurm.queue("17|1|RUNNING|0|None|")
    status, said = ebm("submit", NET, "--seeds", "1-2")
    folder = tmp_path / "runs" / "paper" / "net-seed1"
    assert status == 1
    assert f"the job 17_1 (running) writes to the run folder {folder}: wait for it, or end it with `ebm cancel" in said
    assert not (tmp_path / "runs" / "paper" / "net-seed2").exists()
    slurm.queue()
    before = RunFolder(folder).id
    assert ebm("submit", NET, "--seeds", "1-2")[0] == 0
    assert RunFolder(folder).id == before
    assert JobLog(tmp_path / "runs").newest()["paper/net-seed1"]["job"] == "18_0"


def test_a_job_does_not_inherit_the_one_it_is_submitted_from(
    ebm, checkout: Path, slurm: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.write("sbatch", "env >{home}/environment; echo 17")
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_CONF", "MASTER_ADDR", "RANK", "LOCAL_RANK", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "0")
    assert ebm("submit", NET)[0] == 0
    inherited = {line.partition("=")[0] for line in (slurm.home / "environment").read_text().splitlines()}
    assert {"SLURM_CONF", "SBATCH_ACCOUNT", "PATH"} <= inherited
    assert not {"SLURM_JOB_ID", "SLURM_NTASKS", "MASTER_ADDR", "RANK", "LOCAL_RANK"} & inherited


def test_an_error_of_sbatch_is_shown(ebm, checkout: Path, slurm: StandIn, tmp_path: Path) -> None:
    (slurm.home / "refuses").touch()
    status, said = ebm("submit", NET)
    assert (status, said) == (1, "ebm: error: sbatch refused the job: invalid partition specified: moon\n")
    assert JobLog(tmp_path / "runs").lines() == []
    status, said = ebm("submit", NET, "--test")
    assert said.splitlines()[-1] == "ebm: error: sbatch would refuse the job: invalid partition specified: moon"


def test_without_slurm_or_git_there_is_one_sentence(
    ebm, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = shutil.which("git")
    assert git is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    status, said = ebm("submit", NET)
    assert (status, said.count("\n")) == (1, 1)
    assert "on PATH, so there is no SLURM here: `ebm submit --local 1` and" in said
    assert not list((tmp_path / "runs").glob("*/*"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    status, said = ebm("submit", checkout / NET)
    assert (status, said.count("\n")) == (1, 1)
    assert "is not in a git repository, and jobs run from a snapshot of one" in said
    subprocess.run([git, "init", "-q"], check=True)
    assert "has no commit, and jobs run from a snapshot of one: commit first" in ebm("submit", checkout / NET)[1]


def test_hostile_names_of_experiments_and_overrides_are_carried_literally(
    ebm, checkout: Path, slurm: StandIn, python: Path, tmp_path: Path
) -> None:
    place = checkout / "experiments" / EVIL
    place.mkdir()
    (place / f"{EVIL}.yaml").write_text("seed_everything: 0\n")
    (checkout / "site.yaml").write_text(yaml.safe_dump({"python": shlex.quote(str(python))}))
    value = "a\nb; $(touch hacked)"
    status, said = ebm("submit", place / f"{EVIL}.yaml", "--profile", "site.yaml", "--", "--x", value)
    assert status == 0, said
    (folder,) = (tmp_path / "runs" / EVIL).iterdir()
    assert "%%j" in slurm.script(17), "a percent sign of a path is no pattern"
    assert run_script(slurm.script(17), slurm, folder, SLURM_JOB_ID="17", SLURM_JOB_NODELIST="n")[0] == 0
    assert ran(slurm)[0][6:11] == ["fit", "-c", str(place / f"{EVIL}.yaml"), "--x", value]
    assert not list(tmp_path.rglob("hacked"))
    broken = checkout / "experiments" / "a\nb"
    broken.mkdir()
    (broken / "net.yaml").write_text("seed_everything: 0\n")
    status, said = ebm("submit", broken / "net.yaml")
    assert status == 1
    assert "has a line break or control character" in said
