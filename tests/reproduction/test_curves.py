"""The curves of training, from metrics and results made by hand."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.lab import Lab, ebm_reproduce, make_experiment, read

from ebm_lightning import reproduction
from ebm_lightning.reproduction import curves
from ebm_lightning.reproduction.results import save
from ebm_lightning.runs.folder import RunFolder


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
    ebm_reproduce(folder)
    assert lab.said == [("fit", "r", 0), ("test", "r", 0), ("fit", "q", 0), ("fit", "r", 1), ("fit", "q", 1)]
    made = read(folder, curve="c", run="q.yaml", seed=1)
    assert (made["x"], made["y"], made["seed"], made["run"], made["minutes"]) == ([1, 2], [1, 1], 1, "q.yaml", 2.0)
    assert {"commit", "config", "dirty", "versions", "threads", "processor", "cores"} <= made.keys()
    assert Image.open(folder / "results" / "c.png").size[0] > 500


def test_a_curve_has_a_color_for_each_run_and_a_bold_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    folder = make_experiment(tmp_path / "exp", [], [{"id": "c", "runs": ["r.yaml", "q.yaml"]}])
    for run, seed in itertools.product("rq", (0, 1)):
        save(folder, {"curve": "c", "run": f"{run}.yaml", "seed": seed, "x": [0, 1], "y": [seed, seed]})
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: (figures.append(self), file.touch()))
    (curve,) = reproduction.expected(folder).curves
    curves.draw(folder, curve)
    (axes,) = figures[0].axes
    lines = [(line.get_color(), line.get_linewidth() > 1, list(line.get_ydata())) for line in axes.lines]
    assert lines == [(c, bold, [y, y]) for c in ("C0", "C1") for bold, y in ((False, 0), (False, 1), (True, 0.5))]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch time", "val loss")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["r", "q"]
