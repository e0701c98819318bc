"""What `ebm reproduce` says came true: the table, the verdicts and the curves of results made by hand."""

import itertools
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.lab import Lab, make_experiment, put, read, verdict

from ebm_lightning import reproduction
from ebm_lightning.reproduction import curves
from ebm_lightning.reproduction.results import locked
from ebm_lightning.runs.files import write_atomically
from ebm_lightning.runs.folder import RunFolder

# the table and the verdict


def test_a_claim_that_falls_short_is_reported_and_fails(tmp_path: Path, capsys) -> None:
    bounds = [{"id": "a", "at_least": 0.5}, {"id": "b", "at_most": 0.5}, {"id": "c"}]
    folder = make_experiment(tmp_path / "exp", [{"paper": 1.0, **line} for line in bounds])
    for name in "ab":
        put(folder, f"{name}-seed0")
    with pytest.raises(ValueError, match=r"missed: b \(short by 0.2, 0.3 from the paper's\)"):
        reproduction.main([str(folder), "--check"])
    said = capsys.readouterr().out
    assert said.count("| holds, 0.3 from the paper's |") == 1
    assert said.count("| **short by 0.2**, 0.3 from the paper's |") == 1
    assert said.count("| not run (laptop) |") == 1
    reproduction.write_table(folder)
    text = (folder / "README.md").read_text()
    assert text.startswith("head\n")
    assert text.endswith("\ntail\n")
    assert "stale" not in text


def test_a_claim_that_was_not_run_does_not_fail_the_check(tmp_path: Path, capsys) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "at_least": 2.0, "scale": "cluster"}, {"id": "b"}])
    reproduction.main([str(folder), "--check"])
    assert "not run (cluster)" in capsys.readouterr().out
    put(folder, "a-seed0")
    with pytest.raises(ValueError, match=r"missed: a \(short by 1.3\)"):
        reproduction.main([str(folder), "--check"])
    reproduction.main([str(folder), "--check", "--scale", "laptop"])


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
    assert verdict(found, **claim) == said


def test_a_warning_counts_as_missed_where_there_is_a_bound(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "at_least": 0.5}, {"id": "b"}])
    for name in "ab":
        put(folder, f"{name}-seed0", warning="too few chains")
    with pytest.raises(ValueError, match=r"missed: a \(not to be trusted: too few chains\)$"):
        reproduction.main([str(folder), "--check"])


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
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    for seed, one in enumerate(found):
        put(folder, f"a-seed{seed}", seed=seed, **one)
    assert reproduction.table(folder)[-1].split(" | ")[3] == ours


def test_the_row_of_several_seeds(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", "what": "x | y", "note": "two\nlines", "paper": 1}])
    for seed, commit in [(10, "aaaaaaaaaa"), (2, "bbbbbbbbbb"), (0, None)]:
        put(folder, f"a-seed{seed}", seed=seed, commit=commit)
    assert reproduction.table(folder)[-1] == (
        "| x \\| y (Table 1; two lines) | 1 | none | 0.7000 ± 0.0000 (0.7000, 0.7000, 0.7000) | 0, 2, 10 | 6 "
        "| unknown, bbbbbbb, aaaaaaa | holds, 0.3 from the paper's |"
    )


def test_results_of_a_longer_id_are_not_taken_for_this_one(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}, {"id": "a-seed1"}])
    put(folder, "a-seed1-seed0")
    assert reproduction.table(folder)[2].endswith("not run (laptop) |")
    assert reproduction.table(folder)[3].endswith("holds |")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    (folder / "results" / "a-seed0.json").write_text("{")
    with pytest.raises(ValueError, match=r"a-seed0.json is no record"):
        reproduction.table(folder)


def test_the_projects_readme_is_rewritten_where_it_has_a_place(tmp_path: Path) -> None:
    """Between its own markers only: another experiment's table and the text after it stay."""
    folder = make_experiment(tmp_path / "experiments" / "one", [{"id": "a"}])
    own, other = (reproduction.BEGIN.replace("results", f"results of {name}") for name in ("one", "other"))
    text = f"head\n{own}\nSTALE\n{reproduction.END}\nmiddle\n{other}\nother's\n{reproduction.END}\ntail\n"
    (tmp_path / "README.md").write_text(text)
    reproduction.write_table(folder)
    assert (tmp_path / "README.md").read_text() == text.replace("STALE", "\n".join(reproduction.table(folder)))


def test_jobs_that_end_together_lose_no_line_of_the_table(tmp_path: Path) -> None:
    names = [f"claim{number}" for number in range(12)]
    folder = make_experiment(tmp_path / "exp", [{"id": name} for name in names])

    def job(name: str) -> None:
        put(folder, f"{name}-seed0")
        reproduction.write_table(folder)

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
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    readme = folder / "README.md"
    job = threading.Thread(target=reproduction.write_table, args=(folder,))
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
        folder = make_experiment(tmp_path / "experiments" / name, [{"id": "a", "at_least": 0.5}, {"id": "b"}])
        put(folder, "a-seed0", value=value)
    (tmp_path / "experiments" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"missed: two/a \(short by 0.4\)$"):
        reproduction.main(["--all", "--check"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| experiment | claim | paper |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| one", "| one", "| two", "| two"]
    assert {line.count("|") for line in lines} == {10}
    with pytest.raises(ValueError, match="missed: two/a"):
        reproduction.main(["--all", "--check", str(tmp_path / "experiments")])


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
    folder = make_experiment(
        tmp_path / "exp", [{"id": "a"}], [{"id": "c", "runs": ["r.yaml", "q.yaml"], "seeds": [0, 1]}]
    )
    reproduction.main([str(folder)])
    assert lab.said == [("fit", "r", 0), ("test", "r", 0), ("fit", "q", 0), ("fit", "r", 1), ("fit", "q", 1)]
    made = read(folder, "c-q-seed1")
    assert (made["x"], made["y"], made["seed"], made["run"], made["minutes"]) == ([1, 2], [1, 1], 1, "q.yaml", 2.0)
    assert {"commit", "config", "dirty", "versions", "threads", "processor", "cores"} <= made.keys()
    assert Image.open(folder / "results" / "c.png").size[0] > 500


def test_a_curve_has_a_color_for_each_run_and_a_bold_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    folder = make_experiment(tmp_path / "exp", [], [{"id": "c", "runs": ["r.yaml", "q.yaml"]}])
    for run, seed in itertools.product("rq", (0, 1)):
        put(folder, f"c-{run}-seed{seed}", curve="c", run=f"{run}.yaml", x=[0, 1], y=[seed, seed])
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: (figures.append(self), file.touch()))
    (curve,) = reproduction.expected(folder).curves
    curves.draw(folder, curve)
    (axes,) = figures[0].axes
    lines = [(line.get_color(), line.get_linewidth() > 1, list(line.get_ydata())) for line in axes.lines]
    assert lines == [(c, bold, [y, y]) for c in ("C0", "C1") for bold, y in ((False, 0), (False, 1), (True, 0.5))]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch time", "val loss")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["r", "q"]
