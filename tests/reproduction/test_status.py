"""The status of claims, whose results are made by hand, and what `ebm reproduce --check` says of it."""

import math
from pathlib import Path

import pytest
from support.lab import ebm_reproduce, make_experiment, put, status

from ebm_lightning import reproduction
from ebm_lightning.reproduction.status import ours

FACT, REASON = "the effective sample size of 100 chains is 1.8", "log Z is unreliable, since AIS errs on the low side"
TARGET = {"at_least": 0.5}


@pytest.mark.parametrize(
    ("found", "claim", "kind", "text"),
    [
        ([{}], {}, "reported", "reported"),
        ([{}], {"paper": 0.67}, "reported", "reported"),
        ([{}], TARGET, "reproduced", "reproduced"),
        ([{"value": 0.5}], {"at_least": 0.5, "at_most": 0.5}, "reproduced", "reproduced"),
        ([{"value": 0.6}, {"value": 0.8, "seed": 1}], TARGET, "reproduced", "reproduced"),
        ([{"value": 0.6}, {"value": 0.1, "seed": 1}], TARGET, "missed", "**missed by 0.4**"),
        ([{"value": 1234.0}], {"at_most": 0.0}, "missed", "**missed by 1200**"),
        ([{"value": -3.0}], {"at_least": -2.0, "at_most": 0.0}, "missed", "**missed by 1**"),
        ([{"value": math.nan}], {"at_most": 0.0}, "missed", "**missed by nan**"),
        ([{"value": math.nan}, {"value": 3.0, "seed": 1}], {"at_least": 5.0}, "missed", "**missed by nan**"),
        ([{"warning": f"{FACT}: {REASON}"}], TARGET, "unreliable", f"**unreliable**: {FACT}"),
        ([{"warning": "no sample is valid"}], {}, "reported", "reported, with a warning"),
        ([{}], TARGET | {"seeds": (0, 1, 2)}, "reproduced", "reproduced; seed 1, 2 not run"),
        ([{}], {"seeds": (0, 1)}, "reported", "reported; seed 1 not run"),
        ([], TARGET | {"scale": "cluster"}, "not run", "not run (cluster)"),
        ([], {}, "not run", "not run (laptop)"),
    ],
)
def test_status(found: list[dict], claim: dict, kind: str, text: str) -> None:
    one = status(found, **claim)
    assert (one.kind, one.text) == (kind, text)
    assert one.fails == (kind in ("missed", "unreliable"))
    assert one.warnings == tuple(record["warning"] for record in found if "warning" in record)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([{}], "0.7000 ± 0.1000"),
        ([{"standard_error": None}], "0.7000"),
        ([{"value": -86.312, "standard_error": 0.04}], "-86.31 ± 0.04"),
        ([{"value": -86.312, "standard_error": 0.04, "interval": [-86.5, -86.25]}], "-86.31 ± 0.04 [-86.50, -86.25]"),
        ([{"standard_error": None, "interval": [None, 1]}], "0.7000 [-inf, 1.0000]"),
        ([{"value": -86.312, "standard_error": 0.04, "interval": [-86.5, None]}], "-86.31 ± 0.04 [-86.50, inf]"),
        ([{"value": 1.0}, {"value": 2.0}, {"value": 3.0}], "2.0000 ± 1.0000"),
        ([{"value": 9.0}, {"value": 11.0}, {"value": 13.0}], "11.00 ± 2.00"),
        ([{"value": 9.0}, {"value": math.nan}], "nan ± nan"),
    ],
)
def test_ours_as_the_table_prints_it(found: list[dict], text: str) -> None:
    plain = {"value": 0.7, "standard_error": 0.1}
    assert ours([plain | one for one in found]) == text


def test_a_missed_claim_is_shown_and_fails_the_check(tmp_path: Path, capsys) -> None:
    lines = [{"id": "a", "at_least": 0.5}, {"id": "b", "at_most": 0.5}, {"id": "c", "at_most": 1}]
    folder = make_experiment(tmp_path / "exp", [{"paper": 1.0, **line} for line in lines])
    for name in "ab":
        put(folder, claim=name)
    with pytest.raises(ValueError, match=r"^not reproduced: b \(missed by 0.2\)$"):
        ebm_reproduce(folder, "--check")
    said = capsys.readouterr().out
    assert [said.count(f"| {word} |") for word in ("reproduced", "**missed by 0.2**", "not run (laptop)")] == [1, 1, 1]
    assert said.splitlines()[-1].startswith("3 claims: 1 reproduced, 1 missed, 0 unreliable, 1 not run; 0 measurements")


def test_a_claim_that_was_not_run_does_not_fail_the_check(tmp_path: Path, capsys) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "at_least": 2.0, "scale": "cluster"}, {"id": "b"}])
    ebm_reproduce(folder, "--check")
    assert "not run (cluster)" in capsys.readouterr().out
    put(folder)
    with pytest.raises(ValueError, match=r"not reproduced: a \(missed by 1.3\)"):
        ebm_reproduce(folder, "--check")
    ebm_reproduce(folder, "--check", "--scale", "laptop")


def test_a_warning_makes_a_claim_unreliable_but_not_a_measurement(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "at_least": 0.5}, {"id": "b"}])
    for name in "ab":
        put(folder, claim=name, warning="too few chains")
    with pytest.raises(ValueError, match=r"^not reproduced: a \(unreliable: too few chains\)$"):
        ebm_reproduce(folder, "--check")


def test_summary_counts_claims_and_measurements_apart(tmp_path: Path) -> None:
    target = {"at_least": 0.5}
    lines = [{"id": name, **target} for name in "abcd"] + [{"id": name} for name in "efg"]
    folder = make_experiment(tmp_path / "exp", lines)
    for name, changed in {"a": {}, "b": {"value": 0.0}, "c": {"warning": "w"}, "e": {}, "f": {"warning": "w"}}.items():
        put(folder, claim=name, **changed)
    assert reproduction.summary(reproduction.statuses(folder)) == (
        "4 claims: 1 reproduced, 1 missed, 1 unreliable, 1 not run; 3 measurements: 2 reported, 1 not run"
    )
    put(folder, claim="g")
    assert reproduction.summary(reproduction.statuses(folder)).endswith("; 3 measurements: 3 reported")


def test_all_experiments_are_checked_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for name, value in (("one", 0.7), ("two", 0.1)):
        folder = make_experiment(tmp_path / "experiments" / name, [{"id": "a", "at_least": 0.5}, {"id": "b"}])
        put(folder, value=value)
    (tmp_path / "experiments" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"not reproduced: two/a \(missed by 0.4\)$"):
        ebm_reproduce("--all", "--check")
    claims, measurements, summary = (part.splitlines() for part in capsys.readouterr().out.split("\n\n"))
    assert claims[0] == "| experiment | claim | paper | target | ours | seeds | status |"
    assert measurements[0] == "| experiment | measurement | paper | ours | seeds | status |"
    for lines, columns in ((claims, 7), (measurements, 6)):
        assert [line.split(" | ")[0] for line in lines[2:]] == ["| one", "| two"]
        assert {line.count("|") for line in lines} == {columns + 1}
    assert summary == [
        "2 claims: 1 reproduced, 1 missed, 0 unreliable, 0 not run; 2 measurements: 0 reported, 2 not run"
    ]
    with pytest.raises(ValueError, match="not reproduced: two/a"):
        ebm_reproduce("--all", "--check", str(tmp_path / "experiments"))
