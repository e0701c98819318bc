"""The same against a real SLURM: two nodes on this machine, which cluster/local/up starts and down ends."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from support import ROOT

from ebm_lightning.cluster import jobs, slurm
from ebm_lightning.runs.folder import RunFolder

LOCAL = ROOT / "cluster" / "local"
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")
LIMIT_S = 300

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in PROGRAMS),
        reason="needs Debian's slurm-wlm and munge",
    ),
]

SAVES = """#!/bin/bash
# A stand-in for `ebm fit`: on a signal it saves and requests a restart; the second start completes.
if [ "$1" = -c ]; then exit 0; fi
while [ $# -gt 1 ]; do if [ "$1" = --run ]; then run=$2; fi; shift; done
if [ -e "$run/saved" ]; then echo "it goes on"; exit 0; fi
trap 'touch "$run/saved" "$run/.requeue"; exit 75' USR1 TERM
echo "it runs"
while true; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout of the package and the guide's experiment, on a machine with two nodes."""
    place = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if slurm.JOB_VARIABLES.match(key)]:
            patch.delenv(key)
        done = subprocess.run([LOCAL / "up", place / "two"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        patch.setenv("SLURM_CONF", shlex.split(done.stdout)[1].removeprefix("SLURM_CONF="))
        patch.delenv("PYTHONPATH", raising=False)
        patch.setenv("EBM_RUNS", str(place / "runs"))
        try:
            checkout = place / "checkout"
            for part in ("ebm_lightning", "experiments/quickstart"):
                shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
            for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
                own = ("-c", "user.name=a", "-c", "user.email=a@b.c")
                subprocess.run(["git", *own, *command], cwd=checkout, check=True)
            yield checkout
        finally:
            subprocess.run([LOCAL / "down", place / "two"], check=True)
    assert not (place / "two").exists()


@pytest.fixture
def call(ebm, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs `ebm` in the checkout; returns what it said."""
    monkeypatch.setenv("EBM_RUNS", str(cluster.parent / "runs"))
    monkeypatch.chdir(cluster)

    def made(*arguments: object) -> str:
        status, said = ebm(*arguments)
        assert status == 0, said
        return said

    return made


@pytest.fixture
def saves(tmp_path: Path) -> str:
    """What a profile calls Python: SAVES as a program."""
    program = tmp_path / "saves"
    program.write_text(SAVES)
    program.chmod(0o755)
    return str(program)


def _wait(until: Callable[[], bool], what: Callable[[], str] = str) -> None:
    end = time.monotonic() + LIMIT_S
    while not until():
        assert time.monotonic() < end, f"waited {LIMIT_S} s for {slurm.queue()} on {slurm.nodes()}: {what()}"
        time.sleep(0.3)


def _state(folder: Path) -> str:
    return jobs.of_run(folder).job(slurm.queue()).state


def _log(folder: Path) -> str:
    return "".join(log.read_text() for log in (folder / "slurm").glob("*.out"))


def _folders(said: str) -> list[Path]:
    return [Path(line.removeprefix("run     ")) for line in said.splitlines() if line.startswith("run ")]


SMALL = ("-c", "experiments/quickstart/smoke.yaml", "--trainer.max_steps", 1, "--samples.steps", 1)
DIGITS = "experiments/quickstart/digits.yaml"


def test_a_run_on_two_nodes_an_array_of_four_seeds_and_a_sweep(call: Callable[..., str]) -> None:
    two = _folders(call("submit", DIGITS, "--profile", LOCAL / "two_nodes.yaml", "--", *SMALL))
    array = _folders(call("submit", DIGITS, "--seeds", "1-4", "--", *SMALL))
    swept = _folders(call("submit", DIGITS, "--sweep", ROOT / "cluster" / "sweep.yaml", "--", *SMALL))
    every = [*two, *array, *swept]

    def said() -> str:
        return call("jobs") + "".join(map(_log, every))

    _wait(lambda: not slurm.queue(), said)
    rows = [line.split() for line in call("jobs").splitlines()[1:]]
    assert [row[1:4] for row in rows] == [["COMPLETED", "0", "0"]] * 9, said()
    for folder, seed, ranks in zip(every, (0, 1, 2, 3, 4, 0, 0, 0, 0), (2, *[1] * 8), strict=True):
        run = RunFolder(folder)
        assert [event["event"] for event in run.events()] == ["start", "checkpoint", "end"]
        assert run.seed == seed
        assert len(list(Path(f"{run.checkpoints()[-1]}.ranks").iterdir())) == ranks
        assert run.environment()["commit"] == json.loads((folder / "meta.json").read_text())["commit"]
        assert f"run      {folder}" in call("logs", folder)
    seen = re.findall(r"^digits \((.*)\)  +train/loss +0 +(.*?)  ", call("report", two[0].parent), re.MULTILINE)
    points = [f"step_size={step_size}, steps={steps}" for step_size in (0.05, 0.1) for steps in (20, 40)]
    assert seen == sorted([*((point, "0") for point in points), ("step_size=0.1, steps=2", "0, 1, 2, 3, 4")])


def test_a_job_is_requeued_before_its_limit_and_continues_and_a_canceled_one_is_not(
    call: Callable[..., str], cluster: Path, saves: str, tmp_path: Path
) -> None:
    """In a folder whose name would run a command, or be a pattern, wherever it is not quoted."""
    place = cluster / "experiments" / "a b'\"$(touch hacked); touch hacked #%j"
    place.mkdir()
    (place / "net.yaml").write_text("seed_everything: 0\n")
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"python": saves, "nodes": "2"}))
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"python": saves}))
    (first,) = _folders(call("submit", place / "net.yaml", "--profile", tmp_path / "site.yaml"))
    second, third = _folders(call("submit", place / "net.yaml", "--profile", tmp_path / "one.yaml", "--seeds", "1-2"))
    logs = {run: partial(_log, run) for run in (first, second, third)}
    _wait(lambda: all("it runs" in log() for log in logs.values()))
    call("preempt", first)
    call("cancel", second)
    call("preempt", third)
    _wait(lambda: jobs.of_run(second).id not in slurm.queue(), logs[second])
    assert _state(second) == "CANCELLED"
    assert "not requeued: SLURM ends this job" in logs[second]()
    for run in (first, third):
        id = jobs.of_run(run).id
        _wait(lambda id=id: slurm.queue().get(id, slurm.Job(id, "?", 0)).state == "PENDING", logs[run])
        assert slurm.queue()[id].restarts == 1
        time.sleep(3)  # sooner, SLURM revokes the credential of the job
        subprocess.run(["scontrol", "update", f"JobId={id}", "StartTime=now"], check=True)
        _wait(lambda id=id: id not in slurm.queue(), logs[run])
        assert (
            logs[run]().index("requeued for restart 1")
            < logs[run]().index("restart 1, on")
            < logs[run]().index("it goes on")
        )
        assert _state(run) == "COMPLETED"
        assert not (run / ".requeue").exists()
    assert jobs.resume(second) != ""
    _wait(lambda: jobs.of_run(second).id not in slurm.queue(), logs[second])
    assert _state(second) == "COMPLETED"
    assert not list(cluster.parent.rglob("hacked"))


def test_a_node_whose_daemon_crashes_is_there_again(
    call: Callable[..., str], cluster: Path, saves: str, tmp_path: Path
) -> None:
    """As slurmd 22.05 was seen to, in a job's end: until it is back, no signal reaches the job."""
    (cluster / "experiments" / "net.yaml").write_text("seed_everything: 0\n")
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"python": saves}))
    (run,) = _folders(call("submit", cluster / "experiments" / "net.yaml", "--profile", tmp_path / "one.yaml"))
    log = partial(_log, run)
    _wait(lambda: "it runs" in log(), log)
    for node in ("n1", "n2"):
        os.kill(int((cluster.parent / "two" / f"{node}.pid").read_text()), signal.SIGKILL)
    call("cancel", run)
    _wait(lambda: not slurm.queue(), log)
    assert (run / "saved").exists()
    _wait(lambda: set(slurm.nodes().values()) == {"idle"})


def test_a_profile_that_no_node_can_serve_is_refused_in_slurms_words(
    ebm, call: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "site.yaml").write_text("partition: moon\n")
    for arguments, words in (((), "sbatch refused the job"), (("--test",), "sbatch would refuse the job")):
        status, said = ebm("submit", DIGITS, "--profile", tmp_path / "site.yaml", "--seeds", 9, *arguments)
        assert status == 1
        assert f"ebm: error: {words}: invalid partition specified: moon" in said
    assert "to start at" in call("submit", DIGITS, "--seeds", 9, "--test")


def test_an_interrupted_run_ends_as_one_that_was_left_alone(cluster: Path, tmp_path: Path) -> None:
    """The command of the guide, once: it exits with 0 where nothing differs."""
    command = [sys.executable, ROOT / "cluster" / "local" / "interruptions.py", "--number", "1", "--steps", "120"]
    place = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--folder", tmp_path / "runs"], env=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 runs of 120 steps passed, with 1 interruptions in total" in done.stdout
