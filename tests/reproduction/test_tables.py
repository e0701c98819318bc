"""The tables in the READMEs and the details, from results made by hand."""

import threading
from pathlib import Path

import pytest
from support.lab import ebm_reproduce, make_experiment, put

from ebm_lightning import reproduction
from ebm_lightning.reproduction.results import locked
from ebm_lightning.runs.files import write_atomically

LINES = [
    {"id": "a", "label": "x | y", "note": "two\nlines", "paper": 1, "at_least": 0.5},
    {"id": "b", "label": "z, nats", "paper": 2, "no_target": "the paper\ndoes not say how", "note": "unverified"},
]


def test_a_table_has_claims_and_then_measurements_in_a_fold(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", LINES)
    for seed in (10, 2, 0):
        put(folder, seed=seed)
    put(folder, claim="b", value=-86.3, interval=[-87, None])
    *lines, blank, legend = reproduction.table(folder)
    assert lines == [
        "| claim | paper | target | ours | seeds | status |",
        "|---|---|---|---|---|---|",
        "| x \\| y | 1 | >= 0.5 | 0.7000 ± 0.0000 | 3 | reproduced |",
        "",
        "<details>",
        "<summary>Measurements (1)</summary>",
        "",
        "| measurement | paper | ours | seeds | status |",
        "|---|---|---|---|---|",
        "| z, nats | 2 (unverified) | -86.30 ± 0.10 [-87.00, inf] | 1 | reported |",
        "",
        "</details>",
    ]
    assert blank == ""
    assert legend.endswith(": [details](results/details.md).")


def test_details_say_where_each_number_comes_from(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", LINES)
    for seed, commit, value in [(10, "aaaaaaaaaa", 0.5), (2, "bbbbbbbbbb", 0.7), (0, None, 0.9)]:
        put(folder, seed=seed, commit=commit, value=value, warning="w: because" if seed == 2 else "")
    assert reproduction.details(folder)[4:] == [
        "## Claims",
        "",
        "### a: x | y",
        "",
        "- what: w",
        "- source: Table 1; paper 1, from which ours differs by -0.3; two lines",
        "- measured: `m` of `P(steps=5)`; r.yaml",
        "- seeds: 0: 0.9000 ± 0.1000; 2: 0.7000 ± 0.1000; 10: 0.5000 ± 0.1000; "
        "6 minutes of training at unknown, bbbbbbb, aaaaaaa",
        "- warning: w: because",
        "",
        "## Measurements",
        "",
        "### b: z, nats",
        "",
        "- what: w",
        "- source: Table 1; paper 2; unverified",
        "- no target: the paper does not say how",
        "- measured: `m` of `P`; r.yaml",
    ]


def test_results_of_a_longer_id_are_not_taken_for_this_one(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}, {"id": "a-seed1"}])
    put(folder, claim="a-seed1")
    assert [one.kind for _, one in reproduction.statuses(folder)] == ["not run", "reported"]


def test_write_tables_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", LINES)
    put(folder)
    reproduction.write_tables(folder)
    table = "\n".join(reproduction.table(folder))
    expected = f"head\n{reproduction.BEGIN}\n{table}\n{reproduction.END}\ntail\n"
    assert (folder / "README.md").read_text() == expected
    assert (folder / "results" / "details.md").read_text().splitlines() == reproduction.details(folder)


def test_the_command_writes_tables_without_running_anything(tmp_path: Path, capsys) -> None:
    folder = make_experiment(tmp_path / "exp", LINES)
    put(folder)
    ebm_reproduce(folder, "--tables")
    assert "| reproduced |" in (folder / "README.md").read_text()
    assert capsys.readouterr().out.endswith("0 not run; 1 measurements: 0 reported, 1 not run\n")


def test_the_projects_readme_has_tables_where_it_has_a_place(tmp_path: Path) -> None:
    """Between its own markers only: another experiment's table and the text after it stay."""
    folder = make_experiment(tmp_path / "experiments" / "one", LINES)
    make_experiment(tmp_path / "experiments" / "two", [{"id": "a"}])
    (folder / "README.md").write_text(f"# one: first things\n{reproduction.BEGIN}\n{reproduction.END}\n")
    put(folder)
    own, other, every = (
        reproduction.BEGIN.replace("results", f"results of {name}") for name in ("one", "other", "all experiments")
    )
    text = (
        f"head\n{own}\nSTALE\n{reproduction.END}\nmiddle\n{other}\nother's\n{reproduction.END}\n"
        f"{every}\nOLD\n{reproduction.END}\ntail\n"
    )
    (tmp_path / "README.md").write_text(text)
    reproduction.write_tables(folder)
    table = "\n".join(reproduction.table(folder, "experiments/one/results/details.md"))
    overview = "\n".join(
        (
            "1 claims: 1 reproduced, 0 missed, 0 unreliable, 0 not run; 2 measurements: 0 reported, 2 not run.",
            "",
            "| experiment | what | reproduced | missed | unreliable | not run | measurements |",
            "|---|---|---|---|---|---|---|",
            "| [one](experiments/one/README.md) | first things | 1 | | | | |",
            "| [two](experiments/two/README.md) | | | | | | |",
        )
    )
    assert (tmp_path / "README.md").read_text() == text.replace("STALE", table).replace("OLD", overview)


def test_jobs_that_end_together_lose_no_record_and_no_line(tmp_path: Path) -> None:
    names = [f"claim{number}" for number in range(12)]
    folder = make_experiment(tmp_path / "exp", [{"id": name} for name in names])

    def job(name: str) -> None:
        put(folder, claim=name)
        reproduction.write_tables(folder)

    jobs = [threading.Thread(target=job, args=(name,)) for name in names]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert sorted(one["claim"] for one in reproduction.load(folder)) == sorted(names)
    text = (folder / "README.md").read_text()
    assert text.count("| reported |") == len(names)
    assert text.endswith("\ntail\n")
    assert not list(folder.rglob("*.partial"))


def test_a_job_waits_for_the_file_that_another_has_put_in_place_of_the_one_it_waited_for(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a"}])
    readme = folder / "README.md"
    job = threading.Thread(target=reproduction.write_tables, args=(folder,))
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


@pytest.mark.parametrize(
    ("target", "text"),
    [({}, ""), ({"at_least": -0.3}, ">= -0.3"), ({"at_most": 2}, "<= 2"), ({"at_least": 1, "at_most": 2}, "1 to 2")],
)
def test_the_target_as_the_table_prints_it(tmp_path: Path, target: dict, text: str) -> None:
    folder = make_experiment(tmp_path / "exp", [{"id": "a", **target}])
    (claim,) = reproduction.claims(folder)
    assert (claim.target, claim.has_target) == (text, bool(target))
