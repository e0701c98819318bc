"""`ebm report` and `ebm sync`, against run folders made by hand."""

import csv
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.lab import protocol_record

from ebm_lightning.reproduction import report
from ebm_lightning.runs.records import MeasurementRecord

VALUES = {0: 1.5, 1: 2.25, 2: -4.0}


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """Three seeds of one configuration, and a sweep of two points of another with one seed each."""
    folder = tmp_path / "runs" / "paper"
    for seed, value in VALUES.items():
        _run(folder / f"net-seed{seed}", {"seed_everything": seed, "model": {"steps": 3}}, value)
    for steps, name in ((10, "0123abcd"), (2, "89abcdef")):
        _run(folder / f"other-seed0-{name}", {"seed_everything": 0, "model": {"steps": steps}}, float(steps))
    return folder


def _run(folder: Path, config: dict, value: float, last: int = 9) -> None:
    (folder / "evaluation").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    measured = {"length_bits": MeasurementRecord(10 * value, label="length, bits"), "ess": MeasurementRecord(1.0)}
    protocol_record(measured, step=last).save(folder / "evaluation" / "Likelihood.json")
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("time", "step", "name", "value"))
        for step in range(last + 1):
            rows.writerows([(0, step, "train/loss", value * step / last), (0, step, "buffer/age", 1)])


def _cells(said: str) -> dict[tuple[str, str], list[str]]:
    lines = [re.split(r"  +", line) for line in said.split("\n\n")[0].splitlines()[1:]]
    return {(run, value): rest for run, value, *rest in lines}


def test_runs_that_differ_in_their_seed_are_averaged(ebm, group: Path) -> None:
    status, said = ebm("report", group)
    assert status == 0
    cells = _cells(said)
    assert list(cells) == [
        (run, value)
        for run in ("net", "other (steps=2)", "other (steps=10)")
        for value in ("Likelihood length, bits", "Likelihood ess", "train/loss")
    ]
    mean, deviation = statistics.fmean(VALUES.values()), float(np.std(list(VALUES.values()), ddof=1))
    assert cells["net", "train/loss"] == ["9", "0, 1, 2", f"{mean:.4g}", f"{deviation:.4g}", "1.5, 2.25, -4"]
    assert cells["net", "Likelihood length, bits"][2:4] == [f"{10 * mean:.4g}", f"{10 * deviation:.4g}"]
    assert cells["other (steps=2)", "train/loss"] == ["9", "0", "2", "-", "2"]
    assert said.splitlines()[-1] == f"train/loss over steps: {group / 'report.png'}"
    assert Image.open(group / "report.png").size == (768, 504)


def test_values_and_the_curve_can_be_named(ebm, group: Path, tmp_path: Path) -> None:
    _run(group / "net-seed3", {"seed_everything": 3, "model": {"steps": 3}}, float("nan"), last=4)
    status, said = ebm("report", "paper", "--value", "age", "--value", "loss", "--plot", "buffer/age")
    assert status == 0
    cells = _cells(said)
    assert cells["net", "buffer/age"] == ["4 to 9", "0, 1, 2, 3", "1", "0", "1, 1, 1, 1"]
    assert cells["net", "train/loss"][2:4] == ["nan", "nan"]
    assert "buffer/age over steps" in said


def test_runs_that_build_on_those_of_their_seed_are_one_group(tmp_path: Path) -> None:
    for seed in range(2):
        below = {"class_path": "ebm_lightning.load_model", "init_args": {"run": f"layer1-seed{seed}"}}
        _run(tmp_path / f"top-seed{seed}", {"seed_everything": seed, "model": below}, 1.0)
    assert {name: len(runs) for name, runs in report.groups(tmp_path).items()} == {"top": 2}


def test_what_cannot_be_reported_is_one_sentence(ebm, group: Path, tmp_path: Path) -> None:
    for arguments, sentence in (
        ((tmp_path,), "holds no run: give the folder of an experiment's runs"),
        (
            (group, "--value", "FID"),
            "no run has a value of FID: expected part of one of Likelihood ess, Likelihood length",
        ),
        ((group, "--plot", "FID"), "has logged no step with both 'step' and 'FID'"),
    ):
        status, said = ebm("report", *arguments)
        assert status == 1
        assert re.search(f"^ebm: error: .*{re.escape(sentence)}", said, re.MULTILINE)


def test_sync_sends_all_starts_of_each_run_in_order(ebm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["offline-run-20300101_000000-id", "offline-run-20300101_235959-id", "offline-run-20300102_000000-id"]
    for name in reversed(names):
        (tmp_path / "a" / "wandb" / name).mkdir(parents=True)
    (tmp_path / "a" / "wandb" / "latest-run").symlink_to(names[-1])
    (tmp_path / "b" / "wandb").mkdir(parents=True)
    called: list[tuple[list[str], dict]] = []

    def call(command: list[str], env: dict, check: bool) -> subprocess.CompletedProcess:
        called.append((command, env))
        return subprocess.CompletedProcess(command, len(called) - 1)

    monkeypatch.setattr("subprocess.run", call)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert ebm("sync", tmp_path / "a", "--", "--dry-run")[0] == 0
    ((command, environment),) = called
    places = [str(tmp_path / "a" / "wandb" / name) for name in names]
    assert command == [sys.executable, "-m", "wandb", "sync", "--dry-run", *places]
    assert environment == {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
    status, said = ebm("sync", tmp_path / "a", tmp_path / "b")
    assert (status, len(called)) == (1, 1), "nothing is sent where a run has nothing"
    assert "b has no wandb/offline-run-*: it was not started with WANDB_MODE=offline" in said
    assert "`wandb sync` failed with status 1" in ebm("sync", tmp_path / "a")[1]
