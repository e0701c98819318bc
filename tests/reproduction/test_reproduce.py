"""`ebm reproduce`, against run folders made by hand: what it runs, what it writes, and what it refuses."""

import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support.lab import HARDWARE, HERE, Lab, ebm_reproduce, make_experiment, put, read, rows

from ebm_lightning import reproduction
from ebm_lightning.reproduction import reproduce
from ebm_lightning.reproduction.results import provenance
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.records import ProtocolRecord

# what is run


def test_each_run_and_seed_is_trained_and_tested_once(lab: Lab, tmp_path: Path) -> None:
    claims = [{"id": "a", "seeds": [0, 1]}, {"id": "b", "seeds": [1, 2]}, {"id": "far", "scale": "cluster"}]
    folder = make_experiment(tmp_path / "exp", claims)
    ebm_reproduce(folder)
    assert lab.said == [(verb, "r", seed) for seed in (0, 1, 2) for verb in ("fit", "test")]
    made = [(one["claim"], one["seed"]) for one in reproduction.load(folder)]
    assert made == [("a", 0), ("a", 1), ("b", 1), ("b", 2)]


def test_a_record_says_where_its_number_comes_from(lab: Lab, tmp_path: Path) -> None:
    lab.measure = lambda name, seed: {"value": -86.3, "standard_error": 0.04, "interval": [-86.5, -86.2]}
    lab.preprocessing = lambda name: "FixedBinarization(seed=0)"
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    ebm_reproduce(folder)
    made = read(folder)
    assert len(made.pop("config")) == 16
    assert made == {
        **{"claim": "a", "value": -86.3, "standard_error": 0.04, "interval": [-86.5, -86.2], "warning": ""},
        **{"preprocessing": "FixedBinarization(seed=0)", "protocol": "P(steps=5)", "split": "test", "seed": 0},
        **{"threads": 2, "minutes": 2.0, "tested_at_commit": HERE["commit"], **HERE, **HARDWARE},
    }


def test_a_number_measured_from_changed_source_is_marked(lab: Lab, tmp_path: Path) -> None:
    lab.now["dirty"] = True
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    ebm_reproduce(folder)
    assert read(folder)["dirty"] is True
    assert "at 0123456 with changes\n" in (folder / "results" / "details.md").read_text()


def test_an_interruption_loses_nothing_and_the_same_command_goes_on(lab: Lab, tmp_path: Path, capsys) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "seeds": [0, 1]}])
    lab.fault = ("fit", "r", 1)
    with pytest.raises(ValueError, match="lights"):
        ebm_reproduce(folder)
    assert read(folder)["value"] == 1.0
    assert "; seed 1 not run |" in (folder / "README.md").read_text()
    lab.fault, before = None, len(lab.said)
    ebm_reproduce(folder)
    assert lab.said[before:] == [("fit", "r", 0), ("fit", "r", 1), ("test", "r", 1)]
    said = capsys.readouterr().out
    assert said.count("skipped: ") == 1
    assert f"skipped: `ebm test {lab.runs / 'r-0'}`, since P measured its last step at this commit (0123456)" in said
    assert "; seed 1 not run" not in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "change", ["commit", "no commit", "dirty now", "dirty then", "step", "settings", "file", "form"]
)
def test_a_run_is_tested_again_where_anything_has_changed(lab: Lab, tmp_path: Path, change: str) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    lab.now["dirty"] = change == "dirty then"
    ebm_reproduce(folder)
    file = lab.runs / "r-0" / "evaluation" / "P.json"
    lab.now = {
        "commit": {"commit": "fedc", "no commit": None}.get(change, HERE["commit"]),
        "dirty": change == "dirty now",
    }
    if change == "step":
        (lab.runs / "r-0" / "checkpoints" / "step=00000020.ckpt").touch()
    if change == "settings":
        file.write_text(file.read_text().replace('"steps": 5', '"steps": 6'))
    if change == "file":
        file.unlink()
    if change == "form":
        file.write_text(file.read_text().replace('"preprocessing"', '"convention"'))
    ebm_reproduce(folder)
    assert lab.said.count(("test", "r", 0)) == 2


def test_a_protocol_that_the_run_does_not_have_is_refused_before_the_test(lab: Lab, tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "protocol": "Q"}])
    with pytest.raises(ValueError, match="has no Q in its `evaluation`"):
        ebm_reproduce(folder)
    assert lab.said == [("fit", "r", 0)]


def test_a_metric_that_was_not_measured_is_named(lab: Lab, tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "metric": "n"}])
    with pytest.raises(ValueError, match="P measured no 'n': it has m"):
        ebm_reproduce(folder)


def test_a_readme_without_a_place_for_the_table_is_refused_before_the_training(lab: Lab, tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    for text in ("nothing", f"{reproduction.END} {reproduction.BEGIN}"):
        (folder / "README.md").write_text(text)
        with pytest.raises(ValueError, match="lacks the markers"):
            ebm_reproduce(folder)
    assert lab.said == []


def test_pictures_are_those_of_the_first_stated_seed(lab: Lab, tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "seeds": [3, 4]}])
    for seeds in ("3,4", "4"):
        ebm_reproduce(folder, "--seeds", seeds)
        for name, size in (("r.png", (2, 2)), ("r-P-histogram.png", (3, 3))):
            picture = Image.open(folder / "results" / name)
            assert (picture.size, picture.getpixel((0, 0))) == (size, 3)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-2", [0, 1, 2]), ("0,3", [0, 3]), ("7", [7]), ("5, 0-1,1", [5, 0, 1]), ("2-2", [2])]
)
def test_seeds_replace_those_of_every_claim(lab: Lab, tmp_path: Path, text: str, seeds: list[int]) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "seeds": [0, 1]}])
    ebm_reproduce(folder, "--seeds", text)
    assert [seed for verb, _, seed in lab.said if verb == "fit"] == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,", "0..2", "1.5", "0-2-4"])
def test_seeds_that_are_none_are_one_sentence(ebm, tmp_path: Path, text: str) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    status, said = ebm("reproduce", folder, f"--seeds={text}")
    assert status == 1
    assert said == f"ebm: error: --seeds takes integers and increasing ranges, such as 0-2 or 0,3; got {text!r}\n"


def test_only_a_miss_of_what_was_run_fails_the_command(lab: Lab, tmp_path: Path) -> None:
    """A job of one seed does not fail because of another seed's result, which the table still shows."""
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "at_least": 0.5, "seeds": [0, 1]}])
    put(folder, value=0.1, seed=1)
    ebm_reproduce(folder, "--seeds", "0")
    assert "**missed by 0.4**" in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match=r"not reproduced: a \(missed by 0.4\)"):
        ebm_reproduce(folder, "--check")
    ebm_reproduce(folder, "--check", "--seeds", "0")


def test_what_ebm_prints_is_printed_and_its_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(sys, "executable", "echo")
    print("before")
    reproduce._ebm("fit", "-c", "r.yaml")
    assert capfd.readouterr().out == "before\n-m ebm_lightning fit -c r.yaml\n"
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(ValueError, match="`ebm test r` failed with status 1"):
        reproduce._ebm("test", "r")


def test_the_commands_that_are_run_train_a_run_and_measure_it(tiny: Path, tmp_path: Path, monkeypatch) -> None:
    """Without a stand-in: `ebm fit` and `ebm test` in processes of their own."""
    monkeypatch.setenv("EBM_RUNS", str(tmp_path / "runs"))
    claim = {"id": "a", "protocol": "TrainingCost", "metric": "gflop_per_step", "at_least": 0.0, "seeds": [3]}
    folder = make_experiment(tmp_path / "exp", [claim], [{"id": "c", "metric": "train/loss", "against": "step"}])
    evaluation = [{"class_path": "TrainingCost", "init_args": {"repeats": 1}}]
    config = yaml.safe_load(tiny.read_text()) | {"evaluation": evaluation}
    (folder / "r.yaml").write_text(yaml.safe_dump(config))
    ebm_reproduce(folder, "--seeds", "3")
    run, of_claim = RunFolder(*(tmp_path / "runs" / "exp").iterdir()), read(folder, claim="a")
    (measured,) = (run.path / "evaluation").glob("*.json")
    assert of_claim["value"] == ProtocolRecord.load(measured).measurements["gflop_per_step"].value > 0
    assert (of_claim["protocol"], of_claim["seed"], run.seed) == ("TrainingCost(repeats=1)", 3, 3)
    loss = {int(step): value for step, value in run.metrics()["train/loss"].items()}
    curve = read(folder, curve="c")
    assert dict(zip(curve["x"], curve["y"], strict=True)) == loss
    assert of_claim["config"] == curve["config"] == provenance(run)["config"]
    assert "| l | | >= 0 |" in (folder / "README.md").read_text()


# differences of two runs, and preprocessings


def test_a_difference_trains_both_runs_and_keeps_both_parts(lab: Lab, tmp_path: Path) -> None:
    values = {"r": (-86.0, 0.3), "q": (-100.0, 0.4)}
    lab.measure = lambda name, seed: {
        **{"value": values[name][0] + seed, "standard_error": values[name][1], "interval": [0, 1]},
        "warning": "the bound is loose" if seed else "",
    }
    folder = make_experiment(
        tmp_path / "exp", [{"id": "a", "minus": "q.yaml", "seeds": [0, 1]}, {"id": "b", "run": "q.yaml"}]
    )
    ebm_reproduce(folder)
    fits = [(name, seed) for verb, name, seed in lab.said if verb == "fit"]
    assert sorted(fits) == [("q", 0), ("q", 1), ("r", 0), ("r", 1)]
    made = read(folder, claim="a", seed=0)
    assert (made["value"], made["interval"], made["minutes"], made["warning"]) == (14.0, None, 4.0, "")
    assert made["standard_error"] == pytest.approx(0.5)
    assert [(part["run"], part["value"], part["interval"]) for part in made["parts"]] == [
        *(("r.yaml", -86.0, [0, 1]), ("q.yaml", -100.0, [0, 1]))
    ]
    assert made["config"] == made["parts"][0]["config"] != made["parts"][1]["config"]
    assert read(folder, claim="a", seed=1)["warning"] == "the bound is loose"


def test_a_difference_has_an_error_only_where_both_parts_have_one(lab: Lab, tmp_path: Path) -> None:
    lab.measure = lambda name, seed: {"value": 1.0, "standard_error": 0.3 if name == "r" else None}
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "minus": "q.yaml"}])
    ebm_reproduce(folder)
    assert read(folder)["standard_error"] is None


def test_numbers_of_other_pixels_are_refused(lab: Lab, tmp_path: Path) -> None:
    lab.preprocessing = lambda name: "Dequantized()"
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "preprocessing": "FixedBinarization(seed=0)"}])
    sentence = r"claim a: expected .* FixedBinarization\(seed=0\), got one for Dequantized\(\): .* tens of nats"
    with pytest.raises(ValueError, match=sentence):
        ebm_reproduce(folder)
    assert not reproduction.load(folder)
    for other in ({"preprocessing": "Dequantized()"}, {"parts": [{"preprocessing": "Dequantized()"}]}):
        put(folder, **other)
        with pytest.raises(ValueError, match=sentence):
            ebm_reproduce(folder, "--check")


def test_a_difference_across_preprocessing_is_refused(lab: Lab, tmp_path: Path) -> None:
    lab.preprocessing = {"r": "FixedBinarization(seed=0)", "q": None}.get
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "minus": "q.yaml"}])
    with pytest.raises(ValueError, match=r"expected .* FixedBinarization\(seed=0\), got one for none: "):
        ebm_reproduce(folder)
    parts = [{"preprocessing": "A()", "commit": "0"}, {"preprocessing": "B()", "commit": "0"}]
    put(folder, parts=parts, preprocessing="A()")
    with pytest.raises(ValueError, match=r"expected .* A\(\), got one for B\(\): "):
        ebm_reproduce(folder, "--check")


def test_seeds_of_different_preprocessing_have_no_mean(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    put(folder, preprocessing="A()")
    put(folder, preprocessing=None, seed=1)
    with pytest.raises(ValueError, match="got one for none"):
        reproduction.table(folder)


def test_a_record_from_before_preprocessing_was_recorded_stays_valid_if_the_claim_states_none(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    put(folder)
    put(folder, preprocessing="A()", seed=1)
    assert "reported" in rows(folder)[0]
    make_experiment(folder, [{"id": "a", "preprocessing": "A()"}])
    with pytest.raises(ValueError, match="got one for none"):
        reproduction.table(folder)


def test_details_name_the_preprocessing(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}, {"id": "b", "preprocessing": "B(seed=0)"}])
    put(folder, preprocessing="A(seed=0)")
    measured = [line for line in reproduction.details(folder) if line.startswith("- measured:")]
    assert measured == [
        "- measured: `m` of `P(steps=5)`; r.yaml; preprocessing A(seed=0)",
        "- measured: `m` of `P`; r.yaml; preprocessing B(seed=0)",
    ]


# mistakes


@pytest.mark.parametrize(
    ("claims", "curves", "sentence"),
    [
        ([{"id": "a", "protocl": "P"}], [], "the claim 'a' has the unknown key protocl: the keys are id, label, run"),
        ([], [{"id": "c", "run": "r.yaml"}], "the curve 'c' has the unknown key run: the keys are id, what, runs"),
        ([{"what": "w"}], [], "the claim .* lacks the key id"),
        ([{"id": "a", "paper": 1}], [], "a has the paper's value 1 and no target: give at_least or at_most"),
        ([{"id": "a", "at_most": 1, "no_target": "none"}], [], "a has a target and says why it has none: remove one"),
        ([{"id": "a", "run": "absent.yaml"}], [], "a names the run absent.yaml, but there is no file"),
        ([{"id": "a", "minus": "absent.yaml"}], [], "a names the run absent.yaml, but there is no file"),
        ([], [{"id": "c", "runs": ["r.yaml", "absent.yaml"]}], "c names the run absent.yaml, but there is no file"),
        ([{"id": "a"}, {"id": "a"}], [], "has the id a 2 times"),
        ([{"id": "a"}], [{"id": "a"}], "has the id a 2 times"),
        ([{"id": "a"}], [{"id": "r"}], "would write the same results/r.png"),
        ([{"id": "../a"}], [], "the id '../a' names files: use letters"),
        ([{"id": "a", "paper": "1e-3"}], [], "paper must be a number .*, not '1e-3'"),
        ([{"id": "a", "seeds": []}], [], "seeds must be a list of integers"),
        ([{"id": "a", "seeds": 3}], [], "seeds must be a list of integers, not 3"),
        ([], [{"id": "c", "runs": "r.yaml"}], "runs must be a list of texts, not 'r.yaml'"),
        ([{"id": "a", "scale": "moon"}], [], "scale must be laptop or cluster, not 'moon'"),
        ([{"id": 1}], [], "id must be text, not 1"),
    ],
)
def test_a_mistake_in_the_claims_is_one_sentence(
    ebm, tmp_path: Path, claims: list[dict], curves: list[dict], sentence: str
) -> None:
    folder = make_experiment(tmp_path / "exp", claims, curves)
    with pytest.raises(ValueError, match=sentence):
        reproduction.claims(folder)
    status, said = ebm("reproduce", folder, "--check")
    assert (status, said.count("\n"), said[:12]) == (1, 1, "ebm: error: ")


@pytest.mark.parametrize("text", ["", "- a", "claims: 3", "claims: [3]", "claim: []", "claims: ["])
def test_what_is_no_list_of_claims_is_one_sentence(ebm, tmp_path: Path, text: str) -> None:
    folder = make_experiment(tmp_path / "exp")
    (folder / "expected.yaml").write_text(text)
    status, said = ebm("reproduce", folder, "--check")
    assert (status, said.count("\n"), said[:12]) == (1, 1, "ebm: error: ")
    assert "expected.yaml" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "needs an experiment's folder, or --all"),
        (["--all"], "there is no experiment below experiments"),
        (["exp", "--claim", "b"], "exp has no claim b of scale laptop"),
        (["exp", "--claim", "a", "--claim", "b"], "exp has no claim b of scale laptop"),
        (["exp", "--run", "q.yaml"], "exp has no claim of scale laptop"),
        (["exp", "--scale", "cluster"], "exp has no claim of scale cluster"),
        (["elsewhere"], "elsewhere is no experiment: it has no expected.yaml"),
    ],
)
def test_what_cannot_be_chosen_is_one_sentence(
    ebm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    make_experiment(tmp_path / "exp", [{"id": "a"}])
    monkeypatch.chdir(tmp_path)
    status, said = ebm("reproduce", *arguments)
    assert (status, said.count("\n")) == (1, 1)
    assert sentence in said
