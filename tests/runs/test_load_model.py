"""Runs that build on runs: a pipeline of ordinary `ebm fit`s, found by name and seed, refused where it does not fit."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from support.configurations import component

from ebm_lightning.energies import DoubledRBM
from ebm_lightning.reproduction.reproduce import dependencies
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import flatten
from ebm_lightning.runs.load_model import load_model

BITS = {"class_path": "Bernoulli", "init_args": {"shape": [1, 3, 3]}}
DATA = {"class_path": "BarsAndStripes", "init_args": {"side": 3, "batch_size": 4}}


def loaded(run: str) -> dict:
    return component("ebm_lightning.load_model", run=run)


def config(model: dict, free: list[str], lr: float = 0.1) -> dict:
    return {
        "seed_everything": 0,
        "threads": 1,
        "trainer": {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
        "model": component(
            "EBM",
            model=model,
            objective={"class_path": "ContrastiveDivergence"},
            sampler=component("Gibbs", free=free),
            optimizer=component("torch.optim.SGD", lr=lr),
        ),
        "data": DATA,
        "checkpoint": {"every_n_steps": 3},
        "samples": {"every_n_steps": 0, "num_chains": 4, "steps": 1},
        "evaluation": [component("Likelihood", estimator={"class_path": "Exact"})],
    }


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """layer1.yaml, layer2.yaml on top of it, and the deep machine of both, which learns nothing more."""
    folder = tmp_path / "deep"
    folder.mkdir()
    first = component("DoubledRBM", rbm=component("RBM", visible={"x": BITS}, hidden=4), up=2)
    units = {"x": component("Bernoulli", shape=[4])}
    second = component("DoubledRBM", rbm=component("RBM", visible=units, hidden=2), down=2)
    deep = component("DBM", visible={"x": BITS}, hidden=[4, 2], pretrained=[loaded("layer1"), loaded("layer2")])
    files = {
        "layer1": config(first, ["h", "x"]),
        "layer2": config(component("StackedEnergy", model=second, below=loaded("layer1")), ["h", "x"]),
        "deep": config(deep, ["h1", "x", "h2"], lr=0.0),
    }
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def fit(ebm, folder: Path, *names: str) -> list[RunFolder]:
    runs = []
    for name in names:
        status, said = ebm("fit", "-c", folder / f"{name}.yaml")
        assert status == 0, said
        runs.append(RunFolder(said.split("run      ")[1].splitlines()[0]))
    return runs


def weights(run: RunFolder) -> dict:
    return checkpoints.load(run.checkpoint(3))["state_dict"]


def test_a_pipeline_of_runs_composes_what_they_learned(ebm, pipeline: Path) -> None:
    first, second, deep = fit(ebm, pipeline, "layer1", "layer2", "deep")
    lower, upper, joint = weights(first), weights(second), weights(deep)
    assert torch.equal(joint["model.weights.0"], lower["model.rbm.weight"])
    assert torch.equal(joint["model.weights.1"], upper["model.model.rbm.weight"])
    assert torch.equal(upper["model.below.rbm.weight"], lower["model.rbm.weight"])
    names = [value for key, value in flatten(deep.config()).items() if key.endswith("pretrained")]
    assert [one["init_args"]["run"] for one in names[0]] == ["layer1", "layer2"]  # what it computes, not where it lies
    status, said = ebm("test", deep.path)
    assert status == 0, said
    found = json.loads((deep.path / "evaluation" / "Likelihood.json").read_text())
    assert "test_log_prob_bound_nats" in str(found)


def test_a_run_is_loaded_with_its_weights(ebm, pipeline: Path) -> None:
    (run,) = fit(ebm, pipeline, "layer1")
    model = load_model(str(run.path))
    assert isinstance(model, DoubledRBM)
    assert torch.equal(model.rbm.weight, weights(run)["model.rbm.weight"])


def test_what_a_run_builds_on_is_trained_before_it(pipeline: Path) -> None:
    assert dependencies(pipeline, "deep.yaml") == ["layer1.yaml", "layer2.yaml"]
    (pipeline / "layer1.yaml").unlink()
    with pytest.raises(ValueError, match=r"has no layer1\.yaml, on whose run another one builds"):
        dependencies(pipeline, "deep.yaml")


def test_a_missing_run_is_named(ebm, pipeline: Path) -> None:
    status, said = ebm("fit", "-c", pipeline / "layer2.yaml")
    assert status == 1
    assert "builds on the run of layer1.yaml with seed 0, but" in said
    assert "train it first" in said


def test_two_runs_of_one_name_and_seed_are_not_guessed_between(ebm, pipeline: Path) -> None:
    fit(ebm, pipeline, "layer1")
    assert ebm("fit", "-c", pipeline / "layer1.yaml", "--model.model.init_args.up", 3.0)[0] == 0
    status, said = ebm("fit", "-c", pipeline / "layer2.yaml")
    assert status == 1
    assert "has 2 of them: " in said
    (first, *_) = sorted((pipeline.parent / "runs" / "deep").glob("layer1-*"))
    status, said = ebm("fit", "-c", pipeline / "layer2.yaml", "--model.model.init_args.below.init_args.run", first)
    assert status == 0, said


def test_a_run_of_other_data_is_refused(ebm, pipeline: Path) -> None:
    fit(ebm, pipeline, "layer1")
    status, said = ebm("fit", "-c", pipeline / "layer2.yaml", "--data", "Bars", "--data.side", 3)
    assert status == 1
    assert "was trained on other data (data.class_path: BarsAndStripes, here Bars)" in said


def test_a_run_that_continues_is_not_prepared_again(ebm, pipeline: Path, monkeypatch) -> None:
    calls: list[object] = []
    initialize = DoubledRBM.initialize
    monkeypatch.setattr(
        DoubledRBM, "initialize", lambda model, batches: (calls.append(model), initialize(model, batches))
    )
    fit(ebm, pipeline, "layer1")
    assert len(calls) == 1
    status, said = ebm("fit", "-c", pipeline / "layer1.yaml", "--trainer.max_steps", 5)
    assert status == 0, said
    assert len(calls) == 1
