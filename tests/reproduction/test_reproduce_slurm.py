"""`ebm reproduce --submit`, against a stand-in for SLURM: its jobs, and that they do what one command does."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.lab import Lab, ebm_reproduce, make_experiment
from support.stand_in import StandIn

from ebm_lightning import reproduction
from ebm_lightning.cluster import snapshot
from ebm_lightning.cluster.snapshot import Source
from ebm_lightning.reproduction import reproduce
from ebm_lightning.reproduction import slurm as slurm_of

PYTHON = """
if [ "$1" = -c ]; then exit 0; fi
printf '%s\\0' "${{@:3}}" $'\\1' >>{home}/ran
"""


@pytest.fixture
def jobs(slurm: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """Runs the tasks of all jobs that were submitted, through bash; returns the arguments of `ebm` in each."""
    monkeypatch.setenv("EBM_RUNS", str(tmp_path / "runs"))
    for command in (["init", "-q"], ["commit", "-q", "-m", "first", "--allow-empty"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(sys, "executable", str(slurm.write("python $(touch hacked)", PYTHON)))

    def run() -> list[list[str]]:
        for line in slurm.home.joinpath("queue").read_text().splitlines():
            job, task = line.split("|")[:2]
            number = {"SLURM_ARRAY_TASK_ID": task} if task != "N/A" else {}
            place = {"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "n"}
            script = slurm.home / f"{job}.sh"
            subprocess.run(["bash", script], env={**os.environ, **place, **number}, capture_output=True, check=True)
        return [start.split("\0") for start in (slurm.home / "ran").read_text().split("\0\1\0")[:-1]]

    return run


def test_each_run_and_seed_is_one_job(lab: Lab, slurm: StandIn, jobs, tmp_path: Path, capsys) -> None:
    claims = [{"id": "a", "seeds": [0, 1]}, {"id": "b"}, {"id": "z", "scale": "cluster"}]
    folder = make_experiment(tmp_path / "exp", claims, [{"id": "c", "runs": ["r.yaml", "s.yaml"]}])
    ebm_reproduce(folder, "--submit")

    def job(ids: str, run: str, seed: int) -> list[str]:
        options = [word for name in ids for word in ("--claim", name)]
        return ["reproduce", str(folder), *options, "--run", f"{run}.yaml", "--scale", "laptop", "--seeds", str(seed)]

    assert jobs() == [job("abc", "r", 0), job("c", "s", 0), job("a", "r", 1)]
    assert slurm.arguments(17) == ["--parsable", "--array=0-2"]
    places = [tmp_path / "runs" / "exp" / f"reproduce-{name}" for name in ("r-seed0", "s-seed0", "r-seed1")]
    assert capsys.readouterr().out == "\n".join(["job     17", *(f"folder  {place}" for place in places)]) + "\n"
    assert json.loads((places[2] / "meta.json").read_text())["command"] == ["ebm", "reproduce", str(folder), "--submit"]
    assert lab.said == []


def test_the_jobs_together_do_what_one_command_does(lab: Lab, jobs, tmp_path: Path) -> None:
    claims = [{"id": "a", "seeds": [0, 1]}, {"id": "d", "run": "s.yaml", "minus": "q.yaml"}]
    folder = make_experiment(tmp_path / "exp", claims, [{"id": "c", "runs": ["r.yaml", "s.yaml"]}])
    ebm_reproduce(folder)
    wanted = {file.name: file.read_bytes() for file in (folder / "results").iterdir()}
    ebm_reproduce(folder, "--submit")
    for file in (folder / "results").iterdir():
        file.unlink()
    fits = [call for call in lab.said if call[0] == "fit"]
    lab.said.clear()
    for _, *arguments in jobs():
        ebm_reproduce(*arguments)
    assert {file.name: file.read_bytes() for file in (folder / "results").iterdir()} == wanted
    assert sorted(call for call in lab.said if call[0] == "fit") == sorted(fits)


def test_a_run_of_several_ranks_has_their_cores_and_gpus_in_one_task(slurm: StandIn, jobs, tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    (folder / "r.yaml").write_text("trainer:\n  devices: 2\n")
    (tmp_path / "site.yaml").write_text("gpus_per_node: a100:2\ncpus_per_task: 4\n")
    with pytest.raises(ValueError, match=r"r.yaml trains on 2 ranks, and a job without a profile is for 1: give"):
        ebm_reproduce(folder, "--submit")
    ebm_reproduce(folder, "--submit", "--profile", str(tmp_path / "site.yaml"))
    script = (slurm.home / "17.sh").read_text()
    asked = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"nodes=1", "ntasks-per-node=1", "cpus-per-task=8", "gres=gpu:a100:2"} <= asked
    assert not any(option.startswith("gpus-per-node") for option in asked)


def test_runs_that_a_difference_ties_are_one_job(tmp_path: Path) -> None:
    tied = [{"id": "a"}, {"id": "b", "minus": "q.yaml"}, {"id": "c", "run": "s.yaml", "seeds": [0, 1]}]
    folder = make_experiment(tmp_path / "exp", tied)
    assert slurm_of.jobs(reproduction.expected(folder)) == [(0, ["r.yaml", "q.yaml"]), (0, ["s.yaml"]), (1, ["s.yaml"])]


def test_no_name_can_run_a_command(jobs, tmp_path: Path) -> None:
    evil = "x'; touch hacked; `touch hacked` $(touch hacked)"
    folder = make_experiment(tmp_path / evil, [{"id": "a", "run": f"{evil}.yaml"}])
    (folder / f"{evil}.yaml").touch()
    ebm_reproduce(folder, "--submit")
    ((*start, run, _, _, _, _),) = jobs()
    assert [*start, run] == ["reproduce", str(folder), "--claim", "a", "--run", f"{evil}.yaml"]
    assert not list(tmp_path.rglob("hacked"))


def test_what_cannot_be_submitted_is_one_sentence(slurm: StandIn, jobs, tmp_path: Path, monkeypatch) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    (tmp_path / "two.yaml").write_text("gpus_per_node: 2\n")
    (tmp_path / "nodes.yaml").write_text("nodes: 2\n")
    for options, sentence in (
        (["--submit", "--check"], "give only one of them"),
        (["--profile", "site.yaml"], "--profile is a profile of jobs: give --submit too"),
        (
            ["--submit", "--profile", str(tmp_path / "two.yaml")],
            r"r.yaml trains on 1 rank, and .*two.yaml is for 2: give",
        ),
        (["--submit", "--profile", str(tmp_path / "nodes.yaml")], "trains on one node, and .*nodes.yaml is for 2: use"),
        (["--submit", "--profile", "absent.yaml"], "there is no profile absent.yaml"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ebm_reproduce(folder, *options)
    (slurm.home / "refuses").touch()
    with pytest.raises(ValueError, match="sbatch refused the job: invalid partition specified: moon"):
        ebm_reproduce(folder, "--submit")
    for name in ("sbatch", "squeue"):
        (slurm.bin / name).unlink()
    monkeypatch.setenv("PATH", ":".join(p for p in os.environ["PATH"].split(":") if not Path(p, "squeue").exists()))
    monkeypatch.setattr(snapshot, "source", lambda place: Source(place, "0" * 40, b"", False, ()))
    with pytest.raises(ValueError, match=r"squeue is not on PATH.*`ebm reproduce` without --submit need none"):
        ebm_reproduce(folder, "--submit")


@pytest.mark.parametrize("name", ["USR1", "TERM"])
def test_a_reproduction_that_is_preempted_forwards_the_signal_and_ends_with_status_75(
    slurm: StandIn, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = signal.getsignal(signal.Signals[f"SIG{name}"])
    saves = f"trap 'echo saved; exit 75' {name}; kill -{name} $PPID; for _ in $(seq 500); do sleep 0.02; done"
    for code in (saves, f"kill -{name} $PPID; sleep 0.1; exec sleep 0", "exit 75"):
        monkeypatch.setattr(sys, "executable", str(slurm.write("python", code.replace("{", "{{").replace("}", "}}"))))
        with pytest.raises(SystemExit) as end:
            reproduce._ebm("fit")
        assert end.value.code == 75
    assert signal.getsignal(signal.Signals[f"SIG{name}"]) == before
