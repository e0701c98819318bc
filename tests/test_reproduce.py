"""`ebm reproduce`, against run folders made by hand: what it runs, what it writes, and what it says came true."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from stand_in import StandIn

from ebm_lightning import experiment
from ebm_lightning.cluster import snapshot
from ebm_lightning.cluster.snapshot import Source
from ebm_lightning.experiment import Claim, curves, reproduce
from ebm_lightning.experiment import slurm as slurm_of
from ebm_lightning.experiment.results import locked
from ebm_lightning.runs import RunFolder, write_atomically

HERE = {"commit": "0123456789abcdef", "dirty": False}
HARDWARE = {"versions": {"torch": "2"}, "processor": "abacus", "cores": 2}
CLAIM = {"what": "w", "run": "r.yaml", "protocol": "P", "metric": "m", "source": "Table 1"}
CURVE = {"what": "w", "runs": ["r.yaml"], "metric": "val_loss", "against": "epoch_time"}
RECORD = {"value": 0.7, "standard_error": 0.1, "seed": 0, "commit": "0123456789", "minutes": 2.0}


def _experiment(folder: Path, claims: list[dict] | None = None, curves: list[dict] | None = None) -> Path:
    """An experiment's folder with these promises; keys they lack are those of CLAIM and CURVE."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    lines = {"claims": [CLAIM | line for line in claims or []], "curves": [CURVE | line for line in curves or []]}
    (folder / "expected.yaml").write_text(yaml.safe_dump(lines))
    (folder / "README.md").write_text(f"head\n{experiment.BEGIN}\nstale\n{experiment.END}\ntail\n")
    for name in "qrs":
        (folder / f"{name}.yaml").touch()
    return folder


def _put(folder: Path, name: str, **changed: Any) -> None:
    write_atomically(folder / "results" / f"{name}.json", json.dumps(RECORD | changed))


def _read(folder: Path, name: str) -> dict:
    return json.loads((folder / "results" / f"{name}.json").read_text())


def _verdict(found: list[dict], **claim: Any) -> str:
    return experiment.verdict(Claim(id="a", **CLAIM | claim), [RECORD | one for one in found])


class Lab:
    """Stands for the processes that `ebm fit` and `ebm test` would be: makes the files that they make.

    ``measure`` gives what a run, by name and seed, measures; ``fault`` is a command that fails.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.said: list[tuple[str, str, int]] = []
        self.now = dict(HERE)
        self.convention: Callable[[str], str | None] = lambda name: None
        self.measure: Callable[[str, int], dict] = lambda name, seed: {"value": 1.0, "standard_error": 0.1}
        self.fault: tuple[str, str, int] | None = None

    def __call__(self, command: str, *arguments: str) -> str:
        place = self._fit(Path(arguments[1]), int(arguments[3])) if command == "fit" else Path(arguments[0])
        config = yaml.safe_load((place / "config.yaml").read_text())
        name, seed = config["name"], config["seed_everything"]
        self.said.append((command, name, seed))
        if self.said[-1] == self.fault:
            raise ValueError("the lights went out")
        if command == "test":
            self._test(place, name, seed)
        return str(place)

    def _fit(self, config: Path, seed: int) -> Path:
        place = self.runs / f"{config.stem}-{seed}"
        for part in ("checkpoints", "samples", "evaluation"):
            (place / part).mkdir(parents=True, exist_ok=True)
        made = {"name": config.stem, "seed_everything": seed, "threads": 2}
        made["evaluation"] = [{"class_path": "lab.P", "init_args": {"steps": 5}}]
        (place / "config.yaml").write_text(yaml.safe_dump(made))
        (place / "environment.json").write_text(json.dumps(HERE | HARDWARE))
        (place / "events.jsonl").write_text('{"time": 0, "event": "start"}\n{"time": 120, "event": "end"}\n')
        (place / "checkpoints" / "step=00000010.ckpt").touch()
        rows = [
            f"0,{step},{key},{value}" for step in (1, 2) for key, value in (("epoch_time", step), ("val_loss", seed))
        ]
        (place / "metrics.csv").write_text("\n".join(["time,step,name,value", *rows]) + "\n")
        Image.new("L", (2, 2), seed).save(place / "samples" / "fresh-5-steps-seed-0.png")
        return place

    def _test(self, place: Path, name: str, seed: int) -> None:
        Image.new("L", (3, 3), seed).save(place / "evaluation" / "P-histogram.png")
        found = {
            "protocol": "P(steps=5)",
            "settings": {"steps": 5},
            "split": "test",
            "convention": self.convention(name),
            "measurements": {"m": {"interval": None, "warning": "", **self.measure(name, seed)}},
            "step": 10,
            "training_minutes": 2.0,
            "environment": self.now,
        }
        (place / "evaluation" / "P.json").write_text(json.dumps(found))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab(tmp_path / "runs")
    monkeypatch.setattr(reproduce, "_ebm", made)
    monkeypatch.setattr(reproduce, "environment", lambda: made.now)
    return made


# what is run


def test_each_run_and_seed_is_trained_and_tested_once(lab: Lab, tmp_path: Path) -> None:
    claims = [{"id": "a", "seeds": [0, 1]}, {"id": "b", "seeds": [1, 2]}, {"id": "far", "scale": "cluster"}]
    folder = _experiment(tmp_path / "exp", claims)
    experiment.main([str(folder)])
    assert lab.said == [(verb, "r", seed) for seed in (0, 1, 2) for verb in ("fit", "test")]
    assert sorted(file.name for file in (folder / "results").glob("*.json")) == [
        *("a-seed0.json", "a-seed1.json", "b-seed1.json", "b-seed2.json")
    ]


def test_a_record_says_where_its_number_comes_from(lab: Lab, tmp_path: Path) -> None:
    lab.measure = lambda name, seed: {"value": -86.3, "standard_error": 0.04, "interval": [-86.5, -86.2]}
    lab.convention = lambda name: "FixedBinarisation(seed=0)"
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    experiment.main([str(folder)])
    made = _read(folder, "a-seed0")
    assert len(made.pop("config")) == 16
    assert made == {
        **{"claim": "a", "value": -86.3, "standard_error": 0.04, "interval": [-86.5, -86.2], "warning": ""},
        **{"convention": "FixedBinarisation(seed=0)", "protocol": "P(steps=5)", "split": "test", "seed": 0},
        **{"threads": 2, "minutes": 2.0, "tested_at_commit": HERE["commit"], **HERE, **HARDWARE},
    }


def test_a_number_measured_from_changed_source_is_marked(lab: Lab, tmp_path: Path) -> None:
    lab.now["dirty"] = True
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    experiment.main([str(folder)])
    assert _read(folder, "a-seed0")["dirty"] is True
    assert "| 0123456 with changes |" in experiment.table(folder)[-1]


def test_an_interruption_loses_nothing_and_the_same_command_goes_on(lab: Lab, tmp_path: Path, capsys) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a", "seeds": [0, 1]}])
    lab.fault = ("fit", "r", 1)
    with pytest.raises(ValueError, match="lights"):
        experiment.main([str(folder)])
    assert _read(folder, "a-seed0")["value"] == 1.0
    assert "; seed 1 not run |" in (folder / "README.md").read_text()
    lab.fault, before = None, len(lab.said)
    experiment.main([str(folder)])
    assert lab.said[before:] == [("fit", "r", 0), ("fit", "r", 1), ("test", "r", 1)]
    said = capsys.readouterr().out
    assert said.count("skipped: ") == 1
    assert f"skipped: `ebm test {lab.runs / 'r-0'}`, since P measured its last step at this commit (0123456)" in said
    assert "; seed 1 not run" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("change", ["commit", "no commit", "dirty now", "dirty then", "step", "settings", "file"])
def test_a_run_is_tested_again_where_anything_has_changed(lab: Lab, tmp_path: Path, change: str) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    lab.now["dirty"] = change == "dirty then"
    experiment.main([str(folder)])
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
    experiment.main([str(folder)])
    assert lab.said.count(("test", "r", 0)) == 2


def test_a_protocol_that_the_run_does_not_have_is_refused_before_the_test(lab: Lab, tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a", "protocol": "Q"}])
    with pytest.raises(ValueError, match="has no Q in its `evaluation`"):
        experiment.main([str(folder)])
    assert lab.said == [("fit", "r", 0)]


def test_a_metric_that_was_not_measured_is_named(lab: Lab, tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a", "metric": "n"}])
    with pytest.raises(ValueError, match="P measured no 'n': it has m"):
        experiment.main([str(folder)])


def test_a_readme_without_a_place_for_the_table_is_refused_before_the_training(lab: Lab, tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    for text in ("nothing", f"{experiment.END} {experiment.BEGIN}"):
        (folder / "README.md").write_text(text)
        with pytest.raises(ValueError, match="lacks the markers"):
            experiment.main([str(folder)])
    assert lab.said == []


def test_pictures_are_those_of_the_first_stated_seed(lab: Lab, tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a", "seeds": [3, 4]}])
    for seeds in ("3,4", "4"):
        experiment.main([str(folder), "--seeds", seeds])
        for name, size in (("r.png", (2, 2)), ("r-P-histogram.png", (3, 3))):
            picture = Image.open(folder / "results" / name)
            assert (picture.size, picture.getpixel((0, 0))) == (size, 3)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-2", [0, 1, 2]), ("0,3", [0, 3]), ("7", [7]), ("5, 0-1,1", [5, 0, 1]), ("2-2", [2])]
)
def test_seeds_replace_those_of_every_claim(lab: Lab, tmp_path: Path, text: str, seeds: list[int]) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a", "seeds": [0, 1]}])
    experiment.main([str(folder), "--seeds", text])
    assert [seed for verb, _, seed in lab.said if verb == "fit"] == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,", "0..2", "1.5", "0-2-4"])
def test_seeds_that_are_none_are_one_sentence(ebm, tmp_path: Path, text: str) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    status, said = ebm("reproduce", folder, f"--seeds={text}")
    assert status == 1
    assert said == f"ebm: error: --seeds takes whole numbers and rising ranges, such as 0-2 or 0,3; got {text!r}\n"


def test_only_a_miss_of_what_was_run_fails_the_command(lab: Lab, tmp_path: Path) -> None:
    """A job of one seed is not judged by another seed's result, which the table still shows."""
    folder = _experiment(tmp_path / "exp", [{"id": "a", "at_least": 0.5, "seeds": [0, 1]}])
    _put(folder, "a-seed1", value=0.1, seed=1)
    experiment.main([str(folder), "--seeds", "0"])
    assert "**short by 0.4**" in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match=r"missed: a \(short by 0.4\)"):
        experiment.main([str(folder), "--check"])
    experiment.main([str(folder), "--check", "--seeds", "0"])


def test_what_ebm_prints_is_passed_on_and_its_run_folder_returned(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "executable", "echo")
    assert reproduce._ebm("fit\nrun      a folder/r-0\nmetrics  m") == "a folder/r-0"
    assert "metrics  m" in capsys.readouterr().out
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(ValueError, match="`ebm test r` failed with status 1"):
        reproduce._ebm("test", "r")


# differences of two runs, and pixel conventions


def test_a_difference_trains_both_runs_and_keeps_both_parts(lab: Lab, tmp_path: Path) -> None:
    values = {"r": (-86.0, 0.3), "q": (-100.0, 0.4)}
    lab.measure = lambda name, seed: {
        **{"value": values[name][0] + seed, "standard_error": values[name][1], "interval": [0, 1]},
        "warning": "the bound is loose" if seed else "",
    }
    folder = _experiment(
        tmp_path / "exp", [{"id": "a", "minus": "q.yaml", "seeds": [0, 1]}, {"id": "b", "run": "q.yaml"}]
    )
    experiment.main([str(folder)])
    fits = [(name, seed) for verb, name, seed in lab.said if verb == "fit"]
    assert sorted(fits) == [("q", 0), ("q", 1), ("r", 0), ("r", 1)]
    made = _read(folder, "a-seed0")
    assert (made["value"], made["interval"], made["minutes"], made["warning"]) == (14.0, None, 4.0, "")
    assert made["standard_error"] == pytest.approx(0.5)
    assert [(part["run"], part["value"], part["interval"]) for part in made["parts"]] == [
        *(("r.yaml", -86.0, [0, 1]), ("q.yaml", -100.0, [0, 1]))
    ]
    assert made["config"] == made["parts"][0]["config"] != made["parts"][1]["config"]
    assert _read(folder, "a-seed1")["warning"] == "the bound is loose"


def test_a_difference_has_an_error_only_where_both_parts_have_one(lab: Lab, tmp_path: Path) -> None:
    lab.measure = lambda name, seed: {"value": 1.0, "standard_error": 0.3 if name == "r" else None}
    folder = _experiment(tmp_path / "exp", [{"id": "a", "minus": "q.yaml"}])
    experiment.main([str(folder)])
    assert _read(folder, "a-seed0")["standard_error"] is None


def test_numbers_of_other_pixels_are_refused(lab: Lab, tmp_path: Path) -> None:
    lab.convention = lambda name: "Dequantised()"
    folder = _experiment(tmp_path / "exp", [{"id": "a", "convention": "FixedBinarisation(seed=0)"}])
    sentence = r"claim a: expected .* FixedBinarisation\(seed=0\), got one for Dequantised\(\): .* tens of nats"
    with pytest.raises(ValueError, match=sentence):
        experiment.main([str(folder)])
    assert not list((folder / "results").glob("*.json"))
    for other in ({"convention": "Dequantised()"}, {"parts": [{"convention": "Dequantised()"}]}):
        _put(folder, "a-seed0", **other)
        with pytest.raises(ValueError, match=sentence):
            experiment.main([str(folder), "--check"])


def test_a_difference_across_conventions_is_refused(lab: Lab, tmp_path: Path) -> None:
    lab.convention = {"r": "FixedBinarisation(seed=0)", "q": None}.get
    folder = _experiment(tmp_path / "exp", [{"id": "a", "minus": "q.yaml"}])
    with pytest.raises(ValueError, match=r"expected .* FixedBinarisation\(seed=0\), got one for none: "):
        experiment.main([str(folder)])
    parts = [{"convention": "A()", "commit": "0"}, {"convention": "B()", "commit": "0"}]
    _put(folder, "a-seed0", parts=parts, convention="A()")
    with pytest.raises(ValueError, match=r"expected .* A\(\), got one for B\(\): "):
        experiment.main([str(folder), "--check"])


def test_seeds_of_different_conventions_have_no_mean(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    _put(folder, "a-seed0", convention="A()")
    _put(folder, "a-seed1", convention=None, seed=1)
    with pytest.raises(ValueError, match="got one for none"):
        experiment.table(folder)


def test_a_record_from_before_conventions_stays_valid_where_the_claim_states_none(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    _put(folder, "a-seed0")
    _put(folder, "a-seed1", convention="A()", seed=1)
    assert "holds" in experiment.table(folder)[-1]
    _experiment(folder, [{"id": "a", "convention": "A()"}])
    with pytest.raises(ValueError, match="got one for none"):
        experiment.table(folder)


def test_the_convention_stands_beside_its_number(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}, {"id": "b", "convention": "B(seed=0)"}])
    _put(folder, "a-seed0", convention="A(seed=0)")
    assert experiment.table(folder)[2].startswith("| w, convention: A(seed=0) (Table 1) |")
    assert experiment.table(folder)[3].startswith("| w, convention: B(seed=0) (Table 1) |")


# the table and the verdict


def test_a_claim_that_falls_short_is_reported_and_fails(tmp_path: Path, capsys) -> None:
    bounds = [{"id": "a", "at_least": 0.5}, {"id": "b", "at_most": 0.5}, {"id": "c"}]
    folder = _experiment(tmp_path / "exp", [{"paper": 1.0, **line} for line in bounds])
    for name in "ab":
        _put(folder, f"{name}-seed0")
    with pytest.raises(ValueError, match=r"missed: b \(short by 0.2, 0.3 from the paper's\)"):
        experiment.main([str(folder), "--check"])
    said = capsys.readouterr().out
    assert said.count("| holds, 0.3 from the paper's |") == 1
    assert said.count("| **short by 0.2**, 0.3 from the paper's |") == 1
    assert said.count("| not run (laptop) |") == 1
    experiment.write_table(folder)
    text = (folder / "README.md").read_text()
    assert text.startswith("head\n")
    assert text.endswith("\ntail\n")
    assert "stale" not in text


def test_a_claim_that_was_not_run_does_not_fail_the_check(tmp_path: Path, capsys) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a", "at_least": 2.0, "scale": "cluster"}, {"id": "b"}])
    experiment.main([str(folder), "--check"])
    assert "not run (cluster)" in capsys.readouterr().out
    _put(folder, "a-seed0")
    with pytest.raises(ValueError, match=r"missed: a \(short by 1.3\)"):
        experiment.main([str(folder), "--check"])
    experiment.main([str(folder), "--check", "--scale", "laptop"])


@pytest.mark.parametrize(
    ("found", "claim", "said"),
    [
        ([{}], {}, "holds"),
        ([{}], {"paper": 0.67}, "holds, 0.03 from the paper's"),
        ([{"value": 0.6}, {"value": 0.8, "seed": 1}], {"paper": 0.67, "at_least": 0.5}, "holds, 0.03 from the paper's"),
        ([{"value": 0.6}, {"value": 0.1, "seed": 1}], {"at_least": 0.5}, "**short by 0.4**"),
        ([{"value": 1234.0}], {"at_most": 0.0}, "**short by 1200**"),
        ([{"value": math.nan}], {"at_most": 0.0}, "**short by nan**"),
        ([{"value": math.nan}, {"value": 3.0, "seed": 1}], {"at_least": 5.0}, "**short by nan**"),
        ([{"warning": "the chains differ"}], {"at_least": 0.5}, "**not to be trusted**: the chains differ"),
        ([{"warning": "the chains differ"}], {}, "holds; warning: the chains differ"),
        ([{}], {"seeds": (0, 1, 2)}, "holds; seed 1, 2 not run"),
        ([], {"scale": "cluster"}, "not run (cluster)"),
    ],
)
def test_the_verdict(found: list[dict], claim: dict, said: str) -> None:
    assert _verdict(found, **claim) == said


def test_a_warning_counts_as_missed_where_there_is_a_bound(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a", "at_least": 0.5}, {"id": "b"}])
    for name in "ab":
        _put(folder, f"{name}-seed0", warning="too few chains")
    with pytest.raises(ValueError, match=r"missed: a \(not to be trusted: too few chains\)$"):
        experiment.main([str(folder), "--check"])


@pytest.mark.parametrize(
    ("found", "ours"),
    [
        ([{}], "0.7000 ± 0.1000"),
        ([{"standard_error": None}], "0.7000"),
        ([{"value": -86.312, "standard_error": 0.04}], "-86.31 ± 0.04"),
        ([{"value": -86.312, "standard_error": 0.04, "interval": [-86.5, -86.25]}], "-86.31 ± 0.04 [-86.50, -86.25]"),
        ([{"standard_error": None, "interval": [None, 1]}], "0.7000 [-inf, 1.0000]"),
        ([{"value": -86.312, "standard_error": 0.04, "interval": [-86.5, None]}], "-86.31 ± 0.04 [-86.50, inf]"),
        ([{"value": 1.0}, {"value": 2.0}, {"value": 3.0}], "2.0000 ± 1.0000 (1.0000, 2.0000, 3.0000)"),
        ([{"value": 9.0}, {"value": 11.0}, {"value": 13.0}], "11.00 ± 2.00 (9.00, 11.00, 13.00)"),
        ([{"value": 9.0}, {"value": math.nan}], "nan ± nan (9.00, nan)"),
    ],
)
def test_our_value_as_the_table_prints_it(tmp_path: Path, found: list[dict], ours: str) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    for seed, one in enumerate(found):
        _put(folder, f"a-seed{seed}", seed=seed, **one)
    assert experiment.table(folder)[-1].split(" | ")[3] == ours


def test_the_row_of_several_seeds(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a", "what": "x | y", "note": "two\nlines", "paper": 1}])
    for seed, commit in [(10, "aaaaaaaaaa"), (2, "bbbbbbbbbb"), (0, None)]:
        _put(folder, f"a-seed{seed}", seed=seed, commit=commit)
    assert experiment.table(folder)[-1] == (
        "| x \\| y (Table 1; two lines) | 1 | none | 0.7000 ± 0.0000 (0.7000, 0.7000, 0.7000) | 0, 2, 10 | 6 "
        "| unknown, bbbbbbb, aaaaaaa | holds, 0.3 from the paper's |"
    )


def test_results_of_a_longer_id_are_not_taken_for_this_one(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}, {"id": "a-seed1"}])
    _put(folder, "a-seed1-seed0")
    assert experiment.table(folder)[2].endswith("not run (laptop) |")
    assert experiment.table(folder)[3].endswith("holds |")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    (folder / "results" / "a-seed0.json").write_text("{")
    with pytest.raises(ValueError, match=r"a-seed0.json is no record"):
        experiment.table(folder)


def test_the_projects_readme_is_rewritten_where_it_has_a_place(tmp_path: Path) -> None:
    """Between its own markers only: another experiment's table and the text after it stay."""
    folder = _experiment(tmp_path / "experiments" / "one", [{"id": "a"}])
    own, other = (experiment.BEGIN.replace("results", f"results of {name}") for name in ("one", "other"))
    text = f"head\n{own}\nSTALE\n{experiment.END}\nmiddle\n{other}\nother's\n{experiment.END}\ntail\n"
    (tmp_path / "README.md").write_text(text)
    experiment.write_table(folder)
    assert (tmp_path / "README.md").read_text() == text.replace("STALE", "\n".join(experiment.table(folder)))


def test_jobs_that_end_together_lose_no_line_of_the_table(tmp_path: Path) -> None:
    names = [f"claim{number}" for number in range(12)]
    folder = _experiment(tmp_path / "exp", [{"id": name} for name in names])

    def job(name: str) -> None:
        _put(folder, f"{name}-seed0")
        experiment.write_table(folder)

    jobs = [threading.Thread(target=job, args=(name,)) for name in names]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    text = (folder / "README.md").read_text()
    assert text.count("| holds |") == len(names)
    assert text.endswith("\ntail\n")
    assert not list(folder.glob("*.partial"))


def test_a_job_waits_for_the_file_that_another_has_put_in_place_of_the_one_it_waited_for(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    readme = folder / "README.md"
    job = threading.Thread(target=experiment.write_table, args=(folder,))
    with locked(readme):
        job.start()
        job.join(0.1)
        assert job.is_alive()
        write_atomically(readme, readme.read_text().replace("head", "another head"))
        newer = locked(readme)
        newer.__enter__()
    job.join(0.1)
    assert job.is_alive()
    newer.__exit__(None, None, None)
    job.join(10)
    assert not job.is_alive()
    assert readme.read_text().startswith("another head\n")
    assert "stale" not in readme.read_text()


def test_all_experiments_are_checked_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for name, value in (("one", 0.7), ("two", 0.1)):
        folder = _experiment(tmp_path / "experiments" / name, [{"id": "a", "at_least": 0.5}, {"id": "b"}])
        _put(folder, "a-seed0", value=value)
    (tmp_path / "experiments" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"missed: two/a \(short by 0.4\)$"):
        experiment.main(["--all", "--check"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| experiment | claim | paper |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| one", "| one", "| two", "| two"]
    assert {line.count("|") for line in lines} == {10}
    with pytest.raises(ValueError, match="missed: two/a"):
        experiment.main(["--all", "--check", str(tmp_path / "experiments")])


# curves


def test_points_are_joined_by_step_and_the_later_row_counts(tmp_path: Path) -> None:
    file, run = tmp_path / "metrics.csv", RunFolder(tmp_path)
    rows = ["0,1,x,10", "0,1,y,0.1", "0,2,x,20", "0,3,y,0.3", "0,4,x,40", "0,4,y,9", "1,4,y,0.4", "1,0,y,0", "1,0,x,5"]
    file.write_text("\n".join(["time,step,name,value", *rows]) + "\n")
    assert curves.points(run, "x", "y") == ([5, 10, 40], [0, 0.1, 0.4])
    assert curves.points(run, "step", "y") == ([0, 1, 3, 4], [0, 0.1, 0.3, 0.4])
    with pytest.raises(ValueError, match=r"no step with both 'x' and 'z': .* of step, x, y"):
        curves.points(run, "x", "z")
    with pytest.raises(ValueError, match="has logged nothing"):
        curves.points(RunFolder(tmp_path / "absent"), "x", "y")


def test_the_mean_of_curves_is_taken_on_their_common_range() -> None:
    x, y = curves.mean([([0, 1, 2], [0, 1, 2]), ([3, 1, 2], [6, 2, 4]), ([0.5, 1.5, 4], [1, 1, 1])])
    assert x == [1, 1.5, 2]
    np.testing.assert_allclose(y, [(1 + 2 + 1) / 3, (1.5 + 3 + 1) / 3, (2 + 4 + 1) / 3], rtol=1e-12)
    assert curves.mean([([0, 1], [0, 1]), ([2, 3], [0, 1])]) == ([], [])
    assert curves.mean([([0, 3, 7], [5, 4, 6])]) == ([0, 3, 7], [5, 4, 6])


def test_a_curve_trains_its_runs_without_testing_them_and_is_drawn(lab: Lab, tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}], [{"id": "c", "runs": ["r.yaml", "q.yaml"], "seeds": [0, 1]}])
    experiment.main([str(folder)])
    assert lab.said == [("fit", "r", 0), ("test", "r", 0), ("fit", "q", 0), ("fit", "r", 1), ("fit", "q", 1)]
    made = _read(folder, "c-q-seed1")
    assert (made["x"], made["y"], made["seed"], made["run"], made["minutes"]) == ([1, 2], [1, 1], 1, "q.yaml", 2.0)
    assert {"commit", "config", "dirty", "versions", "threads", "processor", "cores"} <= made.keys()
    assert Image.open(folder / "results" / "c.png").size[0] > 500


def test_a_curve_has_a_colour_for_each_run_and_a_bold_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    folder = _experiment(tmp_path / "exp", [], [{"id": "c", "runs": ["r.yaml", "q.yaml"]}])
    for run, seed in itertools.product("rq", (0, 1)):
        _put(folder, f"c-{run}-seed{seed}", curve="c", run=f"{run}.yaml", x=[0, 1], y=[seed, seed])
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: (figures.append(self), file.touch()))
    (curve,) = experiment.expected(folder).curves
    curves.draw(folder, curve)
    (axes,) = figures[0].axes
    lines = [(line.get_color(), line.get_linewidth() > 1, list(line.get_ydata())) for line in axes.lines]
    assert lines == [(c, bold, [y, y]) for c in ("C0", "C1") for bold, y in ((False, 0), (False, 1), (True, 0.5))]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch time", "val loss")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["r", "q"]


# SLURM


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
    folder = _experiment(tmp_path / "exp", claims, [{"id": "c", "runs": ["r.yaml", "s.yaml"]}])
    experiment.main([str(folder), "--submit"])

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
    folder = _experiment(tmp_path / "exp", claims, [{"id": "c", "runs": ["r.yaml", "s.yaml"]}])
    experiment.main([str(folder)])
    wanted = {file.name: file.read_bytes() for file in (folder / "results").iterdir()}
    experiment.main([str(folder), "--submit"])
    for file in (folder / "results").iterdir():
        file.unlink()
    fits = [call for call in lab.said if call[0] == "fit"]
    lab.said.clear()
    for _, *arguments in jobs():
        experiment.main(arguments)
    assert {file.name: file.read_bytes() for file in (folder / "results").iterdir()} == wanted
    assert sorted(call for call in lab.said if call[0] == "fit") == sorted(fits)


def test_a_run_of_several_ranks_has_their_cores_and_gpus_in_one_task(slurm: StandIn, jobs, tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    (folder / "r.yaml").write_text("trainer:\n  devices: 2\n")
    (tmp_path / "site.yaml").write_text("gpus_per_node: a100:2\ncpus_per_task: 4\n")
    with pytest.raises(ValueError, match=r"r.yaml trains on 2 ranks, and a job without a profile is for 1: give"):
        experiment.main([str(folder), "--submit"])
    experiment.main([str(folder), "--submit", "--profile", str(tmp_path / "site.yaml")])
    script = (slurm.home / "17.sh").read_text()
    asked = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"nodes=1", "ntasks-per-node=1", "cpus-per-task=8", "gres=gpu:a100:2"} <= asked
    assert not any(option.startswith("gpus-per-node") for option in asked)


def test_runs_that_a_difference_ties_are_one_job(tmp_path: Path) -> None:
    tied = [{"id": "a"}, {"id": "b", "minus": "q.yaml"}, {"id": "c", "run": "s.yaml", "seeds": [0, 1]}]
    folder = _experiment(tmp_path / "exp", tied)
    assert slurm_of.jobs(experiment.expected(folder)) == [(0, ["r.yaml", "q.yaml"]), (0, ["s.yaml"]), (1, ["s.yaml"])]


def test_no_name_can_run_a_command(jobs, tmp_path: Path) -> None:
    evil = "x'; touch hacked; `touch hacked` $(touch hacked)"
    folder = _experiment(tmp_path / evil, [{"id": "a", "run": f"{evil}.yaml"}])
    (folder / f"{evil}.yaml").touch()
    experiment.main([str(folder), "--submit"])
    ((*start, run, _, _, _, _),) = jobs()
    assert [*start, run] == ["reproduce", str(folder), "--claim", "a", "--run", f"{evil}.yaml"]
    assert not list(tmp_path.rglob("hacked"))


def test_what_cannot_be_submitted_is_one_sentence(slurm: StandIn, jobs, tmp_path: Path, monkeypatch) -> None:
    folder = _experiment(tmp_path / "exp", [{"id": "a"}])
    (tmp_path / "two.yaml").write_text("gpus_per_node: 2\n")
    (tmp_path / "nodes.yaml").write_text("nodes: 2\n")
    for options, sentence in (
        (["--submit", "--check"], "give one of them"),
        (["--profile", "site.yaml"], "--profile says how jobs are asked for: give --submit too"),
        (
            ["--submit", "--profile", str(tmp_path / "two.yaml")],
            r"r.yaml trains on 1 rank, and .*two.yaml is for 2: give",
        ),
        (["--submit", "--profile", str(tmp_path / "nodes.yaml")], "trains on one node, and .*nodes.yaml is for 2: use"),
        (["--submit", "--profile", "absent.yaml"], "there is no profile absent.yaml"),
    ):
        with pytest.raises(ValueError, match=sentence):
            experiment.main([str(folder), *options])
    (slurm.home / "refuses").touch()
    with pytest.raises(ValueError, match="sbatch refused the job: invalid partition specified: moon"):
        experiment.main([str(folder), "--submit"])
    for name in ("sbatch", "squeue"):
        (slurm.bin / name).unlink()
    monkeypatch.setenv("PATH", ":".join(p for p in os.environ["PATH"].split(":") if not Path(p, "squeue").exists()))
    monkeypatch.setattr(snapshot, "source", lambda place: Source(place, "0" * 40, b"", False, ()))
    with pytest.raises(ValueError, match=r"no squeue on PATH.*`ebm reproduce` without --submit need none"):
        experiment.main([str(folder), "--submit"])


@pytest.mark.parametrize("name", ["USR1", "TERM"])
def test_a_reproduction_that_is_asked_to_make_room_hands_it_on_and_asks_to_be_started_again(
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


# mistakes


@pytest.mark.parametrize(
    ("claims", "curves", "sentence"),
    [
        ([{"id": "a", "protocl": "P"}], [], "the claim 'a' has the unknown key protocl: the keys are id, what, run"),
        ([], [{"id": "c", "run": "r.yaml"}], "the curve 'c' has the unknown key run: the keys are id, what, runs"),
        ([{"what": "w"}], [], "the claim .* lacks the key id"),
        ([{"id": "a", "run": "absent.yaml"}], [], "a names the run absent.yaml, but there is no file"),
        ([{"id": "a", "minus": "absent.yaml"}], [], "a names the run absent.yaml, but there is no file"),
        ([], [{"id": "c", "runs": ["r.yaml", "absent.yaml"]}], "c names the run absent.yaml, but there is no file"),
        ([{"id": "a"}, {"id": "a"}], [], "has the id a 2 times"),
        ([{"id": "a"}], [{"id": "a"}], "has the id a 2 times"),
        ([{"id": "c-r"}], [{"id": "c"}], "would write the same results/c-r-seed0.json"),
        ([{"id": "a"}], [{"id": "r"}], "would write the same results/r.png"),
        ([{"id": "../a"}], [], "the id '../a' names files: use letters"),
        ([{"id": "a", "paper": "1e-3"}], [], "paper must be a number .*, not '1e-3'"),
        ([{"id": "a", "seeds": []}], [], "seeds must be a list of whole numbers"),
        ([{"id": "a", "seeds": 3}], [], "seeds must be a list of whole numbers, not 3"),
        ([], [{"id": "c", "runs": "r.yaml"}], "runs must be a list of texts, not 'r.yaml'"),
        ([{"id": "a", "scale": "moon"}], [], "scale must be laptop or cluster, not 'moon'"),
        ([{"id": 1}], [], "id must be text, not 1"),
    ],
)
def test_a_mistake_in_the_claims_is_one_sentence(
    ebm, tmp_path: Path, claims: list[dict], curves: list[dict], sentence: str
) -> None:
    folder = _experiment(tmp_path / "exp", claims, curves)
    with pytest.raises(ValueError, match=sentence):
        experiment.claims(folder)
    status, said = ebm("reproduce", folder, "--check")
    assert (status, said.count("\n"), said[:12]) == (1, 1, "ebm: error: ")


@pytest.mark.parametrize("text", ["", "- a", "claims: 3", "claims: [3]", "claim: []", "claims: ["])
def test_what_is_no_list_of_claims_is_one_sentence(ebm, tmp_path: Path, text: str) -> None:
    folder = _experiment(tmp_path / "exp")
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
    _experiment(tmp_path / "exp", [{"id": "a"}])
    monkeypatch.chdir(tmp_path)
    status, said = ebm("reproduce", *arguments)
    assert (status, said.count("\n")) == (1, 1)
    assert sentence in said
