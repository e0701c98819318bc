"""Bad input costs one clear sentence and a non-zero exit status, never a traceback and nothing that was there."""

from pathlib import Path

import pytest
import torch
import yaml

from ebm_lightning.cli.errors import format_parser_error
from ebm_lightning.runs.folder import RunFolder

ARGUMENTS = {
    "a misspelled option": (
        ["--model.sampler.init_args.stepsize", "1"],
        "model.sampler: there is no option 'stepsize': expected one of step_size, noise, clip, bounds, noise_first, "
        "free; did you mean 'step_size'?",
    ),
    "a misspelled section": (["--trainr.max_steps", "3"], "there is no option 'trainr.max_steps': expected one of"),
    "an abbreviated option": (["--trainer.max_step", "3"], "did you mean 'max_steps'?"),
    "an unknown class": (
        ["--model.sampler", "Langevn"],
        "model.sampler: there is no class 'Langevn': expected one of Ancestral, Annealed, Descent, FastWeights, Gibbs, "
        "HMC, Langevin, MALA, Masked, MeanField, ParallelTempering, ProximalSGLD, SGLD, Tempered, TrajectoryTempering; "
        "did you mean 'Langevin'?",
    ),
    "a class of no module": (
        ["--model.sampler.class_path", "no.such.Thing"],
        "; a class of your own needs its folder on PYTHONPATH",
    ),
    "a word for a number": (["--model.steps", "many"], "model.steps: expected int, got many"),
    "a step size below zero": (
        ["--model.sampler.init_args.step_size=-1"],
        "SGLD(step_size=-1.0, noise=0.05): expected step_size > 0 and noise >= 0",
    ),
    "an empty batch": (["--data.init_args.batch_size=0"], "Digits(batch_size=0): expected 1 or more examples"),
    "no steps": (["--model.steps=0"], "EBM(steps=0, backprop=0): expected steps >= 1"),
    "no checkpoint ever": (["--checkpoint.every_n_steps=0"], "RunCheckpoint(every_n_steps=0, keep=3): expected both"),
    "a run without an end": (["--trainer.max_steps=-1"], "runs are counted in steps: set trainer.max_steps"),
    "a buffer smaller than the batch": (
        ["--model.chains.init_args.size=4"],
        "SampleBuffer(size=4) cannot serve a batch of 16; make it at least 16",
    ),
    "a sampler that clamps elsewhere": (
        ["--data.init_args.bounds=[-1.0, 1.0]"],
        "SGLD clamps to (0.0, 1.0), but the values of Digits lie in (-1.0, 1.0): give both the same bounds",
    ),
    "an absent data folder": (
        ["--data=Images", "--data.name=mnist", "--data.root=/no/such/folder"],
        "/no/such/folder",
    ),
    "a device that is not there": (
        ["--trainer.accelerator=gpu"],
        "the trainer cannot be created as configured: No supported gpu backend",
    ),
}


@pytest.mark.parametrize(("arguments", "sentence"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_a_mistake_in_the_command_is_one_sentence(arguments, sentence: str, ebm, tiny: Path) -> None:
    if "gpu" in arguments[0] and torch.cuda.is_available():
        pytest.skip("there is a GPU, so asking for it is no mistake")
    status, said = ebm("fit", "-c", tiny, *arguments)
    _is_one_sentence(status, said, sentence)


FILES = {
    "a misspelled key": ({"model": {"init_args": {"stepss": 1}}}, "model: there is no option 'stepss'"),
    "a key of no section": ({"modell": {"init_args": {}, "x": 1}}, "there is no option 'modell"),
    "a key of an inner class": (
        {"model": {"init_args": {"model": {"init_args": {"net": {"init_args": {"widths": [3]}}}}}}},
        "model.model.net: there is no option 'widths': expected one of inputs, hidden, outputs, activation",
    ),
    "an unknown class": ({"data": {"class_path": "Imagess"}}, "did you mean 'Images'?"),
}


@pytest.mark.parametrize(("overlay", "sentence"), FILES.values(), ids=FILES.keys())
def test_a_mistake_in_a_file_is_one_sentence(overlay, sentence: str, ebm, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "overlay.yaml"
    file.write_text(yaml.safe_dump(overlay))
    _is_one_sentence(*ebm("fit", "-c", tiny, "-c", file), sentence)


def test_files_that_are_not_there_or_no_yaml_are_named(ebm, tmp_path: Path) -> None:
    _is_one_sentence(*ebm("fit", "-c", "no.yaml"), "there is no configuration file no.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: [1\n")
    _is_one_sentence(*ebm("fit", "-c", broken), "the configuration is not valid YAML (line 1, column 7)")
    _is_one_sentence(*ebm("test", tmp_path), "is not a run folder: it has no config.yaml")
    _is_one_sentence(*ebm("test"), "`ebm test` needs a run folder")
    _is_one_sentence(*ebm("fot"), "there is no command 'fot': expected one of fit, validate, test, sample")
    _is_one_sentence(*ebm("reproduce", tmp_path), "is no experiment: it has no expected.yaml")


def test_a_truncated_parquet_file_is_named(ebm, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(b"PAR1 and not much more")
    options = ["--data=Images", "--data.name=mnist", f"--data.root={tmp_path / 'data'}"]
    _is_one_sentence(*ebm("fit", "-c", tiny, *options), "train-00000-of-00001.parquet")


def test_a_run_folder_of_another_configuration_is_refused_and_left_alone(ebm, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "x" / "run"
    assert ebm("fit", "-c", tiny, "--run", run)[0] == 0
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    status, said = ebm("fit", "-c", tiny, "--run", run, "--model.steps", "4")
    _is_one_sentence(status, said, "belongs to another configuration (model.init_args.steps: 3 -> 4)")
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_damaged_and_foreign_checkpoints_are_named(ebm, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "x" / "run"
    assert ebm("fit", "-c", tiny, "--run", run, "--checkpoint.keep", 1)[0] == 0
    (newest,) = RunFolder(run).checkpoints()
    whole = newest.read_bytes()
    newest.write_bytes(whole[:1000])
    with pytest.warns(UserWarning, match="is damaged"):
        _is_one_sentence(*ebm("sample", run), "has no valid checkpoint")
    content = torch.load(_written(newest, whole), weights_only=True)
    content["state_dict"]["model.net.foreign"] = torch.zeros(1)
    torch.save(content, newest)
    _is_one_sentence(*ebm("sample", run), "belongs to another model (model.net.foreign is not in this model)")
    _is_one_sentence(*ebm("test", run), "belongs to another model (model.net.foreign is not in this model)")


@pytest.mark.parametrize("number", [0, -3])
def test_a_sample_of_none_is_refused(number: int, ebm, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "x" / "run"
    assert ebm("fit", "-c", tiny, "--run", run, "--trainer.max_steps", 1)[0] == 0
    status, said = ebm("sample", run, f"--num-samples={number}")
    _is_one_sentence(status, said, f"sample(num_samples={number}, steps=500): expected both")


def test_what_is_no_tree_of_reasons_is_said_as_it_is() -> None:
    assert format_parser_error("one plain\nsentence", []) == "one plain"


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def _is_one_sentence(status: int, said: str, sentence: str) -> None:
    assert status != 0
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("ebm: error: ")]
    assert len(errors) == 1, said
    assert sentence in errors[0]
