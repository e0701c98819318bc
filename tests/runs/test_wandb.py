"""What a run sends to Weights & Biases, read back from the files of two offline starts."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import wandb
from PIL import Image
from support import TESTS, wandb_file

from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import differences
from ebm_lightning.runs.loggers import RunWandbLogger

PICTURES = ("chains/x", "chains/age", "fresh/x", "energies")
CACHES = (".cache", ".config", ".local/share/wandb")
"""Where wandb and matplotlib keep things of their own, below the home folder."""


class Logged(NamedTuple):
    run: RunFolder
    segments: list[wandb_file.Segment]
    places: dict[str, Path]


START = """
import sys
import wandb
from ebm_lightning.cli.main import main
arguments = sys.argv[1:]
for expected in (75, 0):
    wandb.finish()
    try:
        main(["fit", "-c", *arguments])
        status = 0
    except SystemExit as stop:
        status = stop.code
    assert status == expected
"""


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """tiny.yaml to step 12, where it is preempted, and on to step 15; the process completes its files."""
    places = {name: tmp_path_factory.mktemp(name) for name in ("runs", "home", "cwd")}
    foreign = ("WANDB_", "XDG_", "MPLCONFIGDIR")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environment |= {"WANDB_MODE": "offline", "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
    environment |= {"EBM_RUNS": str(places["runs"]), "HOME": str(places["home"])}
    asking = json.dumps({"class_path": "support.oracles.AsksItself", "init_args": {"rank": 0, "step": 12}})
    options = ["--trainer.max_steps", "15", f"--trainer.callbacks+={asking}"]
    command = [sys.executable, "-c", START, str(TESTS / "support" / "tiny.yaml"), *options]
    done = subprocess.run(command, env=environment, cwd=places["cwd"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = places["runs"].glob("*/*")
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime)
    return Logged(RunFolder(folder), [wandb_file.read(file) for file in files], places)


def test_a_continued_run_is_one_run_of_its_experiment_in_two_segments(logged: Logged) -> None:
    identifier = (logged.run.path / "run_id").read_text()
    assert [segment.id for segment in logged.segments] == [identifier, identifier]
    assert [segment.group for segment in logged.segments] == ["support", "support"]
    assert [segment.preempted for segment in logged.segments] == [True, False]
    for segment in logged.segments:
        assert segment.job_type == "train"
        assert segment.tags == ["DeepEnergy", "ContrastiveDivergence", "Digits"]
        assert segment.axes == {"*": "trainer/global_step"}


def test_a_run_outlives_the_process_of_weights_and_biases(tmp_path: Path) -> None:
    """A signal to all processes of a job ends that process too; the run must still save, and request a restart."""

    class Gone:
        calls = 0

        def log(self, *_: object) -> None:
            self.calls += 1
            raise ConnectionResetError("Connection lost")

        mark_preempting = log_artifact = log

    logger = RunWandbLogger(save_dir=tmp_path, offline=True)
    logger._experiment = gone = Gone()
    with pytest.warns(UserWarning, match=r"is no longer available \(Connection lost\): metrics.csv has all"):
        logger.log_metrics({"loss": 1.0}, step=3)
    logger.log_metrics({"loss": 1.0}, step=4)
    logger.log_preemption()
    logger.log_checkpoint(tmp_path)
    assert gone.calls == 1


def test_the_complete_configuration_is_sent_under_its_own_keys(logged: Logged) -> None:
    saved = logged.run.config()
    first, second = ({key: s.config[key] for key in s.config.keys() - {"_wandb", "run"}} for s in logged.segments)
    assert second == saved
    assert differences(saved, first) == []


def test_the_numbers_sent_are_those_of_metrics_csv(logged: Logged) -> None:
    with (logged.run.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    written = {(int(row["step"]), row["name"]): float(row["value"]) for row in rows}
    history = [row for segment in logged.segments for row in segment.history]
    sent = {
        (row["trainer/global_step"], name): value
        for row in history
        for name, value in row.items()
        if name in {row["name"] for row in rows}
    }
    assert sent == written
    gaps = [step for step, name in sent if name == "train/gap"]
    assert gaps == list(range(15))


@pytest.mark.parametrize("key", PICTURES)
def test_pictures_are_sent_as_images_and_are_those_of_the_run_folder(key: str, logged: Logged) -> None:
    sent = [row for segment in logged.segments for row in segment.history if f"{key}/_type" in row]
    kept = sorted((logged.run.path / "samples" / key).glob("step=*.png"))
    assert [f"step={row['trainer/global_step']:08d}" for row in sent] == [file.stem for file in kept] != []
    for row, file in zip(sent, kept, strict=True):
        assert row[f"{key}/_type"] == "images/separated"
        (name,) = row[f"{key}/filenames"]
        (image,) = logged.run.path.glob(f"wandb/offline-run-*/files/{name}")
        assert np.array_equal(np.asarray(Image.open(image)), np.asarray(Image.open(file)))


def test_nothing_is_written_outside_the_run_folder_but_caches(logged: Logged) -> None:
    assert list(logged.places["cwd"].iterdir()) == []
    assert list(logged.places["runs"].glob("*")) == [logged.run.path.parent]
    home = logged.places["home"]
    written = [file.relative_to(home) for file in home.rglob("*") if file.is_file()]
    assert [file for file in written if not any(file.is_relative_to(cache) for cache in CACHES)] == []


def test_the_reader_crosses_blocks_leaves_out_a_cut_tail_and_refuses_damage(tmp_path: Path) -> None:
    """200 rows of 200 kB in all, in blocks of 32 kB."""
    rows = [{"number": i, "text": "x" * 10 * i} for i in range(200)]
    settings = wandb.Settings(silent=True, console="off")
    with wandb.init(
        mode="offline", dir=tmp_path, id="known", group="readers", config={"a": [1]}, settings=settings
    ) as run:
        for row in rows:
            run.log(row)
    wandb.teardown()  # finishing a run does not wait for the last block
    (source,) = tmp_path.glob("wandb/offline-run-*/run-known.wandb")
    found = wandb_file.read(source)
    assert (found.id, found.group, found.config["a"]) == ("known", "readers", [1])
    assert [{key: row[key] for key in ("number", "text")} for row in found.history] == rows
    whole, copy = source.read_bytes(), tmp_path / "copy.wandb"
    copy.write_bytes(whole[: len(whole) // 2])
    cut = wandb_file.read(copy).history
    assert 100 < len(cut) < 200
    assert cut == found.history[: len(cut)]
    copy.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    with pytest.raises(ValueError, match="damaged"):
        wandb_file.read(copy)
