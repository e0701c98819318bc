"""The command `ebm`: what it writes, finds again, accepts and refuses."""

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support import TESTS

from ebm_lightning import __version__
from ebm_lightning.chains import NoiseChains
from ebm_lightning.cli.main import main
from ebm_lightning.core import run_chain
from ebm_lightning.data import Digits
from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import MLP
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import differences, flatten
from ebm_lightning.runs.provenance import git
from ebm_lightning.runs.records import FitResult
from ebm_lightning.samplers import SGLD
from ebm_lightning.utils.random import isolated

STEP_SIZE = "model.init_args.sampler.init_args.step_size"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tiny.yaml, for the tests that do not train it further."""
    folder = tmp_path_factory.mktemp("paper") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["ebm"])
        main(["fit", "-c", str(TESTS / "support" / "tiny.yaml"), "--run", str(folder)])
    return folder


def _metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def _model(folder: Path, weights: str = "state_dict") -> DeepEnergy:
    """The model of tiny.yaml with the weights of a run's newest checkpoint, built without the command line."""
    model = DeepEnergy(MLP(64, [16]))
    state = torch.load(RunFolder(folder).checkpoints()[-1], weights_only=True)[weights]
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    return model.eval()


def test_fit_writes_everything_that_makes_a_run(trained: Path) -> None:
    config = flatten(yaml.safe_load((trained / "config.yaml").read_text()))
    assert config[STEP_SIZE] == 0.1
    assert config["model.init_args.sampler.init_args.noise_first"] is False, "a default must be written out"
    assert config["trainer.inference_mode"] is False
    assert config["guard.max_gap"] == 1e4
    assert len((trained / "run_id").read_text()) == 10
    assert json.loads((trained / "environment.json").read_text())["versions"]["torch"] == metadata.version("torch")
    events = [(event["event"], event.get("step")) for event in RunFolder(trained).events()]
    assert events == [("start", None), ("checkpoint", 4), ("checkpoint", 8), ("checkpoint", 12), ("end", 12)]
    pictures = {str(file.relative_to(trained / "samples")) for file in (trained / "samples").rglob("*.png")}
    drawn = {
        f"{key}/step={step:08d}.png" for key in ("fresh/x", "chains/x", "chains/age", "energies") for step in (6, 12)
    }
    assert pictures == drawn | {"fresh-2-steps-seed-0.png"}


def test_metrics_are_rows_of_time_step_name_and_value(trained: Path) -> None:
    assert (trained / "metrics.csv").read_text().splitlines()[0] == "time,step,name,value"
    rows = _metrics(trained)
    steps = {name: [int(row["step"]) for row in rows if row["name"] == name] for name in {r["name"] for r in rows}}
    every_step = ("train/loss", "train/gap", "train/grad_norm", "sampler/energy", "chains/age", "chains/fill")
    for name in every_step:
        assert steps[name] == list(range(12)), name
    assert len(steps["val/energy_data"]) == 2
    assert all(math.isfinite(float(row["value"])) for row in rows)
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_a_continued_run_only_appends_to_its_numbers(ebm, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x" / "run"
    assert ebm("fit", "-c", tiny, "--run", folder, "--trainer.max_steps", 6)[0] == 0
    before = {name: (folder / name).read_bytes() for name in ("metrics.csv", "events.jsonl", "run_id")}
    assert ebm("fit", "-c", tiny, "--run", folder)[0] == 0
    for name, content in before.items():
        assert (folder / name).read_bytes().startswith(content), name
    gaps = [int(row["step"]) for row in _metrics(folder) if row["name"] == "train/gap"]
    assert gaps == list(range(12))
    assert (folder / "metrics.csv").read_text().count("time,step") == 1


def test_the_same_command_finds_its_run_and_another_value_makes_another(ebm, tiny: Path, tmp_path: Path) -> None:
    short = ("fit", "-c", tiny, "--trainer.max_steps", 1)
    assert ebm(*short)[0] == 0
    (folder,) = (tmp_path / "runs").glob("*/*")
    assert folder.parent.name == tiny.parent.name
    assert re.fullmatch(r"tiny-[0-9a-f]{8}", folder.name)
    assert ebm("fit", "-c", tiny, "--trainer.max_steps", 2)[0] == 0
    assert [event["event"] for event in RunFolder(folder).events()].count("start") == 2
    assert list((tmp_path / "runs").glob("*/*")) == [folder]
    assert ebm(*short, f"--{STEP_SIZE}", 0.2)[0] == 0
    assert len(list((tmp_path / "runs").glob("*/*"))) == 2
    status, said = ebm(*short, f"--{STEP_SIZE}", 0.3, "--run", folder)
    assert status == 1
    assert f"{STEP_SIZE}: 0.1 -> 0.3" in said


@pytest.mark.parametrize(("given", "kind"), [("1", int), ("1.0", float), ("0.5", float), ("null", type(None))])
def test_one_batch_is_not_all_of_them(given: str, kind: type, ebm, tiny: Path) -> None:
    """In every part of a run: Lightning takes an int for batches, and a float for a share of them."""
    parts = [f"limit_{part}_batches" for part in ("train", "val", "test", "predict")]
    options = [f"--trainer.{part}={given}" for part in parts]
    status, said = ebm("fit", "-c", tiny, *options, "--print_config")
    assert status == 0, said
    found = yaml.safe_load(said)["trainer"]
    assert {type(found[part]) for part in parts} == {kind}


def test_print_config_shows_the_configuration_that_fit_would_keep(ebm, tiny: Path, trained: Path) -> None:
    status, said = ebm("fit", "-c", tiny, "--print_config")
    assert status == 0
    printed = yaml.safe_load(said)
    assert printed.pop("run") is None
    assert printed == RunFolder(trained).config()
    for key in ("model.sampler.init_args.step_size", STEP_SIZE):
        status, said = ebm("fit", "-c", tiny, f"--{key}", 0.3, "--print_config")
        assert status == 0
        assert differences(printed, yaml.safe_load(said)) == [f"{STEP_SIZE}: 0.1 -> 0.3"]


def test_configuration_files_are_merged_and_the_last_word_counts(ebm, tiny: Path, tmp_path: Path) -> None:
    overlays = [
        {"checkpoint": {"keep": 1}, "model": {"init_args": {"sampler": {"init_args": {"noise": 0.2}}, "steps": 5}}},
        {"model": {"init_args": {"steps": 7}}, "trainer": {"gradient_clip_val": 2.0}},
    ]
    files = [tmp_path / f"overlay{number}.yaml" for number in range(2)]
    for file, overlay in zip(files, overlays, strict=True):
        file.write_text(yaml.safe_dump(overlay))
    merged = ("fit", "-c", tiny, "-c", files[0], "-c", files[1], "--trainer.gradient_clip_val", 3.0, "--print_config")
    before, after = (
        flatten(yaml.safe_load(ebm(*command)[1])) for command in (("fit", "-c", tiny, "--print_config"), merged)
    )
    assert before.keys() == after.keys()
    assert {key: after[key] for key in after if after[key] != before[key]} == {
        "checkpoint.keep": 1,
        "model.init_args.sampler.init_args.noise": 0.2,
        "model.init_args.steps": 7,
        "trainer.gradient_clip_val": 3.0,
    }


def test_checkpoints_hold_tensors_and_plain_values_and_the_averaged_weights(trained: Path) -> None:
    files = RunFolder(trained).checkpoints()
    assert [checkpoints.step_of(file) for file in files] == [4, 8, 12]
    for file in files:
        content = torch.load(file, weights_only=True)
        assert content["global_step"] == checkpoints.step_of(file)
        averaged, raw = content["state_dict"], content["current_model_state"]
        assert averaged.keys() == raw.keys()
        assert not any(torch.equal(averaged[name], raw[name]) for name in averaged)
        (side,) = checkpoints.rank_folder(file).iterdir()
        shard = torch.load(side, weights_only=True)
        (chains,) = (value for key, value in shard.items() if "Buffer" in key)
        assert chains["store.x"].shape == (64, 1, 8, 8)


def test_sample_draws_from_the_averaged_weights_and_writes_tiles_and_energies(ebm, trained: Path) -> None:
    """The same three steps of SGLD, taken here from the checkpoint's weights; the raw weights lead elsewhere."""
    status, said = ebm("sample", trained, "--num-samples", 5, "--steps", 3)
    assert status == 0
    picture, arrays = (trained / "samples" / f"fresh-3-steps-seed-0.{kind}" for kind in ("png", "npz"))
    assert said.splitlines()[:2] == [str(picture), str(arrays)]
    with np.load(arrays) as stored:
        x, energy = torch.from_numpy(stored["x"]), torch.from_numpy(stored["energy"])
    models, ends = {name: _model(trained, name) for name in ("state_dict", "current_model_state")}, {}
    sampler = SGLD(0.1, noise=0.05, bounds=(0.0, 1.0))
    for name, model in models.items():
        with isolated(0), torch.no_grad():
            ends[name] = run_chain(sampler, model, NoiseChains().start({"x": torch.zeros(5, 1, 8, 8)}, ("x",)), 3)[0][
                "x"
            ]
    assert torch.allclose(x, ends["state_dict"], atol=1e-6)
    assert (x - ends["current_model_state"]).abs().max() > 1e-4
    with torch.no_grad():
        assert torch.allclose(energy, models["state_dict"].energy({"x": x}), rtol=1e-5)
    tiles = np.asarray(Image.open(picture)).copy()
    assert tiles.shape == (2 * 58 + 2, 3 * 58 + 2)
    for i in range(5):
        top, left = 2 + i // 3 * 58, 2 + i % 3 * 58
        shown = tiles[top : top + 56 : 7, left : left + 56 : 7].astype(float) / 255
        assert np.abs(shown - x[i, 0].numpy()).max() <= 0.5 / 255 + 1e-6
        tiles[top : top + 56, left : left + 56] = 128
    assert (tiles == 128).all()


def test_a_seed_gives_its_own_samples_every_time(ebm, trained: Path, tmp_path: Path) -> None:
    drawn = []
    for seed in (1, 2, 1):
        assert ebm("sample", trained, "--num-samples", 2, "--steps", 3, "--seed", seed)[0] == 0
        with np.load(trained / "samples" / f"fresh-3-steps-seed-{seed}.npz") as stored:
            drawn.append(stored["x"])
    assert np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], drawn[1])


def test_validate_tells_the_energy_of_the_validation_data(ebm, trained: Path) -> None:
    status, said = ebm("validate", trained)
    assert status == 0
    (printed,) = re.findall(r"val/energy_data\D+?(-?\d+\.\d+(?:e-?\d+)?)", said)
    with torch.no_grad():
        expected = _model(trained).energy(Digits(batch_size=16).tensors("val")).mean()
    assert float(printed) == pytest.approx(float(expected), rel=1e-4)


def test_test_writes_what_its_protocols_found_with_where_it_comes_from(ebm, trained: Path) -> None:
    status, said = ebm("test", trained)
    assert status == 0
    record = json.loads((trained / "evaluation" / "MMD.json").read_text())
    (protocol,) = RunFolder(trained).config()["evaluation"]
    assert record["settings"] == protocol["init_args"]
    assert (record["settings"]["num_samples"], record["split"], record["seed"]) == (100, "test", 3)
    assert record["protocol"].startswith("MMD(num_samples=100, steps=3")
    assert record["environment"]["commit"] == git("rev-parse", "HEAD")
    assert record["environment"]["versions"]["torch"] == metadata.version("torch")
    assert record["training_minutes"] == round(RunFolder(trained).minutes(), 1)
    sets = {"trained model", "untrained model", "independent pixels", "training data"}
    assert record["measurements"].keys() == {f"mmd2_{name.replace(' ', '_')}" for name in sets}
    for found in record["measurements"].values():
        assert f"{found['value']:.4f} +- {found['standard_error']:.2g}" in said
    drawn = {file.name for file in (trained / "evaluation").glob("*.png")}
    assert drawn == {f"MMD-{name.replace(' ', '-')}.png" for name in sets}


def test_findings_name_the_training_step_they_are_about(ebm, trained: Path) -> None:
    assert ebm("test", trained)[0] == 0
    assert json.loads((trained / "evaluation" / "MMD.json").read_text())["step"] == 12


def test_looking_at_a_run_leaves_its_numbers_and_checkpoints_alone(ebm, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "x" / "run"
    shutil.copytree(trained, copy)
    kept = [file for file in copy.rglob("*") if file.is_file() and not {"samples", "evaluation"} & set(file.parts)]
    before = {file: file.read_bytes() for file in kept}
    for command in (("validate", copy), ("test", copy), ("sample", copy, "--num-samples", 2, "--steps", 2)):
        assert ebm(*command)[0] == 0
    assert {file: file.read_bytes() for file in kept} == before
    new = {file.relative_to(copy).parts[0] for file in copy.rglob("*") if file.is_file() and file not in before}
    assert new <= {"samples", "evaluation"}


def _without(config: dict, dotted: str) -> dict:
    *path, last = dotted.split(".")
    place = config
    for part in path:
        place = place[part]
    del place[last]
    return config


def test_max_steps_must_be_given(ebm, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "endless.yaml"
    file.write_text(yaml.safe_dump(_without(yaml.safe_load(tiny.read_text()), "trainer.max_steps")))
    status, said = ebm("fit", "-c", file)
    assert status == 1
    assert "ebm: error: runs are counted in steps: set trainer.max_steps" in said


@pytest.mark.parametrize(
    ("overlay", "word"),
    [
        ({"trainer": {"max_step": 3}}, "max_step"),
        ({"modle": {"steps": 3}}, "modle"),
        ({"model": {"init_args": {"stepps": 3}}}, "stepps"),
        ({"model": {"init_args": {"steps": "many"}}}, "many"),
        ({"model": {"init_args": {"sampler": {"init_args": {"stepsize": 0.1}}}}}, "stepsize"),
        ({"model": {"init_args": {"sampler": {"class_path": "NoSuchSampler"}}}}, "NoSuchSampler"),
        ({"checkpoint": {"every_n_step": 3}}, "every_n_step"),
        ({"data": {"init_args": {"batchsize": 3}}}, "batchsize"),
        ({"model": {"init_args": {"sampler": {"init_args": {"bounds": [0.0, 2.0]}}}}}, "SGLD clamps to (0.0, 2.0)"),
    ],
)
def test_a_mistake_in_a_configuration_is_one_sentence(
    overlay: dict, word: str, ebm, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mistake.yaml"
    file.write_text(yaml.safe_dump(overlay))
    status, said = ebm("fit", "-c", tiny, "-c", file)
    assert status == 1
    assert re.search(rf"^ebm: error: .*{re.escape(word)}", said, re.MULTILINE)
    assert "Traceback" not in said
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train",), "there is no command 'train': expected one of fit, validate, test, sample"),
        (("test",), "`ebm test` needs a run folder"),
        (("sample", "{tmp}"), "is not a run folder: it has no config.yaml"),
        (("fit", "-c", "{tmp}/absent.yaml"), "there is no configuration file"),
        (("sample", "{run}", "--num-samples", 0), "sample(num_samples=0, steps=500): expected both to be at least 1"),
    ],
)
def test_a_mistake_in_the_command_is_one_sentence(
    arguments: tuple, words: str, ebm, trained: Path, tmp_path: Path
) -> None:
    status, said = ebm(*(str(argument).format(tmp=tmp_path, run=trained) for argument in arguments))
    assert status == 1
    assert said.splitlines()[-1].startswith("ebm: error: ")
    assert words in said


def test_a_run_without_a_checkpoint_is_refused(ebm, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "config.yaml", tmp_path / "run")
    for command in ("validate", "test", "sample"):
        status, said = ebm(command, tmp_path / "run")
        assert status == 1
        assert "has no valid checkpoint: train it first with `ebm fit`" in said


def test_fit_writes_where_its_run_is_and_how_far_it_came(ebm, tiny: Path, tmp_path: Path) -> None:
    """When it trains, when it continues, and when there is nothing left to do; the option is no part of the run."""
    folder, file = tmp_path / "x" / "run", tmp_path / "result.json"
    for given, step in ((5, 5), (12, 12), (12, 12), (7, 12)):
        file.unlink(missing_ok=True)
        command = ("fit", "-c", tiny, "--run", folder, "--trainer.max_steps", given, "--result", file)
        assert ebm(*command)[0] == 0
        assert FitResult.load(file) == FitResult(folder, step)
    assert "result" not in RunFolder(folder).config()
    assert [event["step"] for event in RunFolder(folder).events() if event["event"] == "end"] == [5, 12, 12, 12]
    status, said = ebm("fit", "-c", tiny, "--result", tmp_path / "absent" / "result.json")
    assert status == 1
    assert f"there is no folder {tmp_path / 'absent'}: create it first" in said


def test_help_and_version_answer(ebm) -> None:
    command = [sys.executable, "-m", "ebm_lightning", "--help"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ebm COMMAND")
    assert ebm("--help") == ebm() == (0, done.stdout)
    assert ebm("--version") == (0, f"ebm_lightning {__version__}\n")
