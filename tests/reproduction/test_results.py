"""The file of an experiment's records: every value comes back, and each provenance stands in it once."""

import json
import math
from pathlib import Path

import pytest
from support.lab import HARDWARE, HERE, make_experiment, put

from ebm_lightning import reproduction
from ebm_lightning.reproduction.results import FILE, load, save

FROM = {"config": "c0", "threads": 2, **HERE, **HARDWARE}


def _lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results" / FILE).read_text().splitlines()]


def test_records_come_back_as_they_were_saved(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp")
    part = {**FROM, "value": 1 / 3, "interval": [None, 1e-300], "preprocessing": None}
    made = [
        {"claim": "a", "seed": 0, "label": "größer | ±", **FROM},
        {"claim": "a", "seed": 1, "dirty": True, "parts": [{"run": "r.yaml", **part}, {"run": "q.yaml", "value": 2}]},
        {"claim": "b", "seed": 0, **part},
        {"curve": "a", "run": "r.yaml", "seed": 0, "x": [0.1, 2], "y": [1, 2.5], **FROM, "commit": "f00"},
    ]
    save(folder, *made)
    assert load(folder) == made
    assert isinstance(load(folder)[3]["x"][1], int)


def test_each_provenance_stands_once(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp")
    for seed in range(3):
        save(folder, {"claim": "a", "seed": seed, **FROM}, {"claim": "b", "seed": seed, **FROM, "cores": 9})
    lines = _lines(folder)
    assert [line.keys() & {"cores", "claim"} for line in lines] == [{"cores"}] * 2 + [{"claim"}] * 6
    assert len({line["provenance"] for line in lines}) == 2


def test_a_record_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    """And the provenance to which none refers any more is left out; the order does not depend on that of writing."""
    one, other = (make_experiment(tmp_path / name) for name in ("one", "other"))
    made = [{"claim": name, "seed": seed, **FROM} for name in "ab" for seed in (0, 10, 2)]
    save(one, *made)
    for record in reversed(made):
        save(other, record | {"commit": "old"})
    for record in made[::2] + made[1::2]:
        save(other, record)
    assert (one / "results" / FILE).read_bytes() == (other / "results" / FILE).read_bytes()


def test_a_record_that_is_not_a_number_comes_back(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    put(folder, value=math.nan)
    assert math.isnan(load(folder)[0]["value"])


@pytest.mark.parametrize("line", ["{", "[]", '"claim"', "{}", '{"claim": "a", "seed": 0, "provenance": "gone"}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    put(folder)
    file = folder / "results" / FILE
    file.write_text(file.read_text() + line + "\n")
    number = len(file.read_text().splitlines())
    with pytest.raises(ValueError, match=rf"results.jsonl, line {number}, is no record .*: delete the line and run"):
        reproduction.table(folder)


def test_an_experiment_without_results_has_no_records(tmp_path: Path) -> None:
    assert load(make_experiment(tmp_path / "exp")) == []
