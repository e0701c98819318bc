"""Commands for submitted jobs, with a job log, run folders and a stand-in for SLURM."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from support.stand_in import StandIn

from ebm_lightning.cluster import jobs
from ebm_lightning.cluster.job_log import JobLog
from ebm_lightning.runs.folder import RunFolder


@pytest.fixture
def root(ebm, tmp_path: Path, slurm: StandIn) -> Path:
    """Three runs: job 17 of a run, and the two tasks of array 18."""
    place = tmp_path / "runs"
    job_log = JobLog(place)
    for job, name, task in (("17", "a", None), ("18_0", "b", 0), ("18_1", "c", 1)):
        folder = place / "paper" / name
        (folder / "slurm").mkdir(parents=True)
        (folder / "slurm" / "job.sh").write_text(f"#!/bin/bash\n# {name}\n")
        (folder / "meta.json").write_text(json.dumps({"task": task}))
        job_log.add(job, folder, "paper-net")
    return place


def _events(folder: Path, *kinds: str) -> None:
    for kind in kinds:
        RunFolder(folder).event(kind)


def _rows(said: str) -> list[list[str]]:
    return [re.split(r"  +", line.strip()) for line in said.splitlines()]


def test_jobs_tells_state_restarts_step_and_loss(ebm, root: Path, slurm: StandIn) -> None:
    a, b, c = (root / "paper" / name for name in "abc")
    slurm.queue("17|N/A|RUNNING|2|None|", "18|1|PENDING|0|Resources|", "99|N/A|RUNNING|0|None|")
    long = "".join(f"0.5,{step},{name},{step / 8}\n" for step in range(2000) for name in ("train/loss", "buffer/age"))
    (a / "metrics.csv").write_text("time,step,name,value\n" + long)
    (b / "metrics.csv").write_text("time,step,name,value\n1,7,val/energy_data,-1.25\n")
    _events(b, "start", "start", "end")
    status, said = ebm("jobs")
    assert status == 0
    assert _rows(said) == [
        list(jobs.COLUMNS),
        ["17", "RUNNING", "2", "1999", "train/loss 249.9", str(a)],
        ["18_0", "COMPLETED", "1", "7", "val/energy_data -1.25", str(b)],
        ["18_1", "PENDING (Resources)", "0", "-", "-", str(c)],
    ]


def test_the_state_of_a_job_that_left_the_queue_is_that_of_slurm(ebm, root: Path, slurm: StandIn) -> None:
    (slurm.home / "17.job").write_text(
        "JobId=17\n   JobState=FAILED Reason=None\n   Requeue=1 Restarts=3 BatchFlag=1\n"
    )
    slurm.write("sacct", "case $* in *18_0*) echo 'CANCELLED by 0|' ;; *) exit 1 ;; esac")
    _events(root / "paper" / "c", "start", "end", "start")
    status, said = ebm("jobs")
    assert status == 0
    assert [row[:3] for row in _rows(said)[1:]] == [
        ["17", "FAILED", "3"],
        ["18_0", "CANCELLED", "0"],
        ["18_1", "GONE", "1"],
    ]


def test_logs_are_merged_and_followed_to_the_end_of_the_job(ebm, root: Path, slurm: StandIn) -> None:
    folder = root / "paper" / "a" / "slurm"
    first, second = folder / "17.out", folder / "9.out"
    second.write_text("two\n")
    first.write_text("one\n")
    os.utime(first, (0, 0))
    assert ebm("logs", root / "paper" / "a") == (0, "one\ntwo\n")
    alive = iter([True, True, False])
    following = jobs.follow(root / "paper" / "a", lambda: next(alive), poll_seconds=0.01)
    assert [next(following), next(following)] == ["one\n", "two\n"]
    with second.open("a") as file:
        file.write("three\n")
    assert next(following) == "three\n"
    (folder / "20.out").write_text("four\n")
    assert list(following) == ["four\n"]
    slurm.queue()
    assert sorted(ebm("logs", root / "paper" / "a", "-f")[1].split()) == ["four", "one", "three", "two"]
    status, said = ebm("logs", root / "paper" / "b")
    assert (status, said.count("\n")) == (1, 1)
    assert "has no log: its job has not started" in said


def test_cancel_and_preempt_name_the_job_of_the_run(ebm, root: Path, slurm: StandIn) -> None:
    slurm.queue("17|N/A|RUNNING|0|None|", "18|1|PENDING|0|Resources|")
    assert ebm("preempt", root / "paper" / "a") == (0, "job 17 was sent USR1\n")
    assert ebm("cancel", root / "paper" / "c") == (0, "job 18_1 is canceled\n")
    assert slurm.said("scancel") == ["--signal=USR1 17", "18_1"]
    for command, name, sentence in (
        ("preempt", "c", "the job 18_1 of .* is pending: only a running one can be preempted"),
        ("cancel", "b", "the job 18_0 of .* is gone: it cannot be ended"),
        ("cancel", "nowhere", "was not submitted: give the run folder that `ebm submit` printed"),
    ):
        status, said = ebm(command, root / "paper" / name)
        assert (status, said.count("\n")) == (1, 1)
        assert re.search(sentence, said)
    slurm.write("scancel", "echo 'scancel: error: Kill job error' >&2; exit 1")
    assert ebm("cancel", root / "paper" / "a")[1] == "ebm: error: scancel refused: scancel: error: Kill job error\n"


def test_resume_submits_the_same_script_into_the_same_folder(ebm, root: Path, slurm: StandIn) -> None:
    a, c = root / "paper" / "a", root / "paper" / "c"
    _events(c, "start", "end", "start")
    assert ebm("resume", a) == (0, "job     17\n")  # this stand-in's first number
    assert ebm("resume", c) == (0, "job     18_1\n")
    assert [slurm.arguments(17), slurm.arguments(18)] == [["--parsable"], ["--parsable", "--array=1"]]
    assert slurm.script(18) == (c / "slurm" / "job.sh").read_text()
    assert [line["job"] for line in JobLog(root).lines()] == ["17", "18_0", "18_1", "17", "18_1"]
    status, said = ebm("resume", a)
    assert status == 1
    assert f"the job 17 (pending) writes to the run folder {a}: wait for it" in said
    slurm.queue()
    _events(c, "end")
    status, said = ebm("resume", c)
    assert (status, said.count("\n")) == (1, 1)
    assert f"the run {c} is finished: for more steps, submit it with the same command" in said
    assert ebm("resume", root / "paper" / "nowhere")[0] == 1


def test_a_finished_run_whose_longer_job_failed_is_not_finished(ebm, root: Path, slurm: StandIn) -> None:
    a = root / "paper" / "a"
    _events(a, "start", "end")
    job_log = JobLog(root)
    time.sleep(0.02)  # times are kept to a hundredth of a second
    job_log.add("30", a, "paper-net")
    (slurm.home / "30.job").write_text("JobState=FAILED Restarts=0\n")
    assert _rows(ebm("jobs")[1])[1][:2] == ["30", "FAILED"]
    assert ebm("resume", a)[0] == 0


def test_an_error_of_squeue_is_shown(ebm, root: Path, slurm: StandIn) -> None:
    slurm.write("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    status, said = ebm("jobs")
    assert status == 1
    sentence = "squeue failed: slurm_load_jobs error: Unable to contact slurm controller"
    assert said == f"ebm: error: {sentence}\n"


def test_the_job_log_moves_with_its_runs(root: Path) -> None:
    elsewhere = root.rename(root.parent / "moved")
    assert [one.folder for one in jobs.submitted(elsewhere)] == [elsewhere / "paper" / name for name in "abc"]
    assert jobs.of_run(elsewhere / "paper" / "a").id == "17"
