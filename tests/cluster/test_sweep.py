"""Which runs a submission makes, their folders, and what is refused before anything is submitted."""

import re
from pathlib import Path

import pytest
from support.stand_in import StandIn
from support.submission import NET

from ebm_lightning.cluster.sweep import points, seeds


def _folders(root: Path, *arguments: object) -> list[str]:
    made = points(Path(NET), *arguments)  # type: ignore[arg-type]
    return [str(point.folder(Path(NET), root).relative_to(root)) for point in made]


def test_a_run_folder_is_named_by_experiment_seed_and_overrides(checkout: Path, tmp_path: Path) -> None:
    assert _folders(tmp_path, None, None, []) == ["paper/net-seed3"]
    assert _folders(tmp_path, "0-1,4", None, []) == ["paper/net-seed0", "paper/net-seed1", "paper/net-seed4"]
    longer = ["--trainer.max_steps", "9", "--checkpoint.keep=2"]
    assert _folders(tmp_path, "0", None, longer) == ["paper/net-seed0"], "a longer run is the same run"
    (other,) = _folders(tmp_path, "0", None, ["--model.steps", "-1", *longer])
    assert other.startswith("paper/net-seed0-")
    assert _folders(tmp_path, "0", None, [*longer, "--model.steps=-1"]) == [other]
    assert _folders(tmp_path, "0", None, ["--model.steps", "-2"]) != [other]
    assert seeds("0-2,1") == (0, 1, 2)


def test_a_sweep_is_all_combinations_or_a_list_of_points(checkout: Path, tmp_path: Path) -> None:
    (checkout / "grid.yaml").write_text("model.steps: [1.0, 1e3]\nmodel.rate: [0.5, 1e-3]\n")
    made = points(Path(NET), "0-1", Path("grid.yaml"), ["--a", "b"])
    expected = [(steps, rate, seed) for steps in ("1", "1000") for rate in ("0.5", "0.001") for seed in (0, 1)]
    assert [(p.overrides, p.seed) for p in made] == [
        (("--a", "b", "--model.steps", steps, "--model.rate", rate), seed) for steps, rate, seed in expected
    ]
    assert len(set(_folders(tmp_path, "0-1", Path("grid.yaml"), []))) == 8
    (checkout / "list.yaml").write_text("- {model.steps: 1}\n- {model.on: true, model.none: null, model.l: [1, a]}\n")
    assert [point.overrides for point in points(Path(NET), None, Path("list.yaml"), [])] == [
        ("--model.steps", "1"),
        ("--model.on", "true", "--model.none", "null", "--model.l", '[1, "a"]'),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent.yaml"], "there is no configuration file absent.yaml"),
        ([NET, "--profile", "absent.yaml"], "there is no profile absent.yaml"),
        ([NET, "--sweep", "absent.yaml"], "there is no sweep file absent.yaml"),
        ([NET, "--sweep", "code.py"], "code.py is not a sweep: expected dotted keys with lists"),
        ([NET, "--sweep", "bad-key.yaml"], "'model steps' is not a dotted key"),
        ([NET, "--sweep", "seeds.yaml"], "seed_everything cannot be swept: give seeds as --seeds"),
        ([NET, "--sweep", "twice.yaml"], "two jobs would write to the run folder .*net-seed3-"),
        ([NET, "--seeds", "2-0"], "--seeds takes integers and increasing ranges"),
        ([NET, "--after", "the last one"], "--after takes the number of a job, such as 17"),
        ([NET, "--local", "0"], "take a number of at least 1"),
        ([NET, "--", "--seed_everything=1"], "--seed_everything is not allowed after the --: give seeds as --seeds"),
        ([NET, "--", "--trainer.devices", "2"], "--trainer.devices is not allowed after the --: give the profile's"),
        ([NET, "--", "--run", "x"], "--run is not allowed after the --"),
        ([NET, "--", "-c", "absent.yaml"], "there is no configuration file absent.yaml"),
    ],
)
def test_a_mistake_in_a_submission_is_one_sentence(
    ebm, checkout: Path, slurm: StandIn, arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    for name, text in (("bad-key", "model steps: [1]"), ("seeds", "seed_everything: [1]"), ("twice", "a.b: [1, 1]")):
        (checkout / f"{name}.yaml").write_text(text)
    status, said = ebm("submit", *arguments)
    assert (status, said.count("\n")) == (1, 1), said
    assert re.search(f"^ebm: error: .*{sentence}", said)
    assert not (tmp_path / "runs").exists()
