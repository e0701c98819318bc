"""`ebm submit`: the profile, the script as bash runs it, the snapshot, the folders, and what SLURM is asked."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from stand_in import StandIn

from ebm_lightning import checkpoints, runs
from ebm_lightning.cluster import jobs, offline, profile, snapshot
from ebm_lightning.cluster.ledger import Ledger
from ebm_lightning.cluster.profile import Profile
from ebm_lightning.cluster.script import Task, script
from ebm_lightning.cluster.tasks import points, seeds
from ebm_lightning.runs import RunFolder

ROOT = Path(__file__).parent.parent

EVIL = "x'; touch hacked; `touch hacked` $(touch hacked) \"&# %j"
"""A name that would run a command wherever it is not quoted."""

PYTHON = """
if [ "$1" = -c ]; then exit 0; fi
printf '%s\\0' "$PWD" "$PYTHONPATH" "$WANDB_MODE" "$MASTER_ADDR" "$MASTER_PORT" "$SRUN_CPUS_PER_TASK" \\
    "${{@:3}}" $'\\1' >>{home}/ran
if [ -e {home}/saves ]; then
    mkdir -p -- "$(cat {home}/folder)/checkpoints"
    touch -- "$(cat {home}/folder)/checkpoints/step=$(cat {home}/saves).ckpt"
fi
if [ -e {home}/asks ]; then
    read -r count <{home}/asks
    if [ "$count" -gt 0 ]; then echo $((count - 1)) >{home}/asks; touch -- "$(cat {home}/folder)/.requeue"; exit 143; fi
fi
exit "$(cat {home}/status 2>/dev/null || echo 0)"
"""


def _git(place: Path, *arguments: str) -> str:
    own = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(["git", *own, *arguments], cwd=place, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository, the working directory, with experiments/paper/net.yaml and a profile that runs no Python."""
    place = tmp_path / "checkout"
    (place / "experiments" / "paper").mkdir(parents=True)
    (place / "experiments" / "paper" / "net.yaml").write_text("seed_everything: 3\nmodel: {steps: 5}\n")
    (place / "code.py").write_text("old = 1\n")
    _git(place, "init", "-q")
    _git(place, "add", ".")
    _git(place, "commit", "-q", "-m", "first")
    monkeypatch.chdir(place)
    monkeypatch.setenv("EBM_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("EBM_DATA", raising=False)
    return place


NET = "experiments/paper/net.yaml"


# the profile


def test_a_profile_is_the_options_of_sbatch_and_of_the_trainer(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "partition: gpu\ntime: 24:00:00\ngpus_per_node: a100:4\nnodes: 2\ncpus_per_task: 8\nmem: 64G\naccount: '0042'\n"
        "qos: high\nconstraint: ib\nexclude: n[1-3]\nextra: {exclusive: '', mail-type: END}\n"
        "setup: [module load cuda]\n"
    )
    made = profile.read(file)
    assert dict(made.sbatch()) == {
        **{"nodes": "2", "ntasks-per-node": "4", "gpus-per-node": "a100:4", "cpus-per-task": "8", "mem": "64G"},
        **{"time": "24:00:00", "partition": "gpu", "account": "0042", "qos": "high", "constraint": "ib"},
        **{"exclude": "n[1-3]", "exclusive": "", "mail-type": "END"},
    }
    assert made.trainer() == ["--trainer.num_nodes", "2", "--trainer.devices", "4"]
    assert made.setup == ("module load cuda",)
    assert profile.read(None) == Profile()
    assert (Profile().ranks, Profile(devices=3).ranks, Profile(gpus_per_node="2").ranks) == (1, 3, 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partitoin: gpu", "there is no key 'partitoin': .* did you mean 'partition'?"),
        ("nodes: two", "nodes must be a whole number, not 'two'"),
        ("nodes: 0", "nodes must be at least 1, not 0"),
        ("devices: 0", "ranks must be at least 1, not 0"),
        ("gpus_per_node: many", "gpus_per_node must end with a number, as 4 or a100:4, not 'many'"),
        ("gpus_per_node: 4\ndevices: 8", "devices is 8 and gpus_per_node 4: each GPU is one rank"),
        ("partition:", "partition must be text in one line, not ''"),
        ("setup: module load cuda", "setup must be a list of texts"),
        ('partition: "a\\nb"', "partition must be text in one line"),
        ("env: {A-B: 1}", "'A-B' is no name of an environment variable"),
        ("extra: {partition: gpu}", "extra: partition is set by `ebm submit` or by a key of the profile"),
        ("extra: {output: x}", "extra: output is set by `ebm submit`"),
        ("extra: {--mail-type: END}", "'--mail-type' is no option of sbatch: write it without dashes"),
        ("- gpu", "is no profile: expected keys with values"),
        ("{", "is no YAML"),
    ],
)
def test_a_mistake_in_a_profile_is_one_sentence(ebm, checkout: Path, text: str, sentence: str) -> None:
    (checkout / "site.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"site.yaml.*{sentence}"):
        profile.read(checkout / "site.yaml")
    status, said = ebm("submit", NET, "--profile", "site.yaml", "--dry-run")
    assert (status, said.count("\n"), said[:12]) == (1, 1, "ebm: error: ")


# the script, as bash runs it


@pytest.fixture
def python(slurm: StandIn) -> Path:
    """An interpreter that writes down what it would run; it may ask to be requeued, or fail."""
    return slurm.write("python", PYTHON)


def _run(text: str, slurm: StandIn, folder: Path, **job: str) -> tuple[int, str]:
    """Runs a script as SLURM would, or without it where ``job`` is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    (slurm.home / "folder").write_text(str(folder))
    file = slurm.home / "job.sh"
    file.write_text(text)
    done = subprocess.run(
        ["bash", str(file)], env={**os.environ, **job}, capture_output=True, text=True, check=False, cwd=slurm.home
    )
    return done.returncode, done.stdout + done.stderr


def _ran(slurm: StandIn) -> list[list[str]]:
    """Directory, four variables and the arguments of the interpreter, one list for each start."""
    return [start.split("\0") for start in (slurm.home / "ran").read_text().split("\0\1\0")[:-1]]


def _script(python: Path, tasks: list[Task], **changed: object) -> str:
    asked = Profile(python=shlex.quote(str(python)), **changed)  # type: ignore[arg-type]
    place = tasks[0].folder.parent
    facts = {"code": place / "code", "directory": place, "environment": {"WANDB_MODE": "offline"}}
    return script(asked, tasks, name="job", output="out", **facts)  # type: ignore[arg-type]


def test_no_name_path_or_word_can_run_a_command(slurm: StandIn, python: Path, tmp_path: Path) -> None:
    folder = tmp_path / EVIL / EVIL
    words = ("fit", EVIL, f"--x={EVIL}", "two\nlines\n#SBATCH --uid=0\n$(touch hacked)", "", "-c", "it's")
    asked = Profile(
        **{"python": shlex.join([str(python)]), "partition": EVIL, "env": {"A": EVIL}, "srun": (f"--x={EVIL}",)},
        extra={"comment": EVIL},
    )
    place = {"code": tmp_path / EVIL / "code", "directory": folder, "environment": {"WANDB_MODE": EVIL}}
    text = script(asked, [Task(folder, words)], name=EVIL, output=f"{folder}/slurm/%j.out", **place)
    status, said = _run(text, slurm, folder, SLURM_JOB_ID="12345", SLURM_JOB_NODELIST=EVIL, PYTHONPATH="")
    assert status == 0, said
    assert _ran(slurm) == [[str(folder), str(tmp_path / EVIL / "code"), EVIL, "n1", "22345", "1", *words]]
    assert not list(tmp_path.rglob("hacked"))
    options = [shlex.split(line)[1] for line in text.splitlines() if line.startswith("#SBATCH ") and "uid" not in line]
    assert options[:2] == [f"--job-name={EVIL}", f"--output={folder}/slurm/%j.out"]
    assert f"--partition={EVIL}" in options
    assert options[-1] == f"--comment={EVIL}"
    assert text.index("#SBATCH --uid") > text.index("task="), "sbatch reads options before the first command alone"


def test_a_name_that_sbatch_could_not_read_is_refused(tmp_path: Path) -> None:
    place = {"code": tmp_path, "directory": tmp_path, "environment": {}}
    with pytest.raises(ValueError, match="holds a line break or control character"):
        script(Profile(), [Task(tmp_path, ())], name="a\n#SBATCH --uid=0", output="o", **place)
    with pytest.raises(ValueError, match="holds a colon"):
        script(Profile(), [Task(tmp_path, ())], name="a", output="o", **{**place, "code": tmp_path / "a:b"})


def test_each_task_of_an_array_runs_its_own_words(slurm: StandIn, python: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    text = _script(python, [Task(folder, ("fit", folder.name)) for folder in folders])
    for task in ("1", "0"):
        assert _run(text, slurm, folders[0], SLURM_ARRAY_TASK_ID=task)[0] == 0
    assert [start[6:] for start in _ran(slurm)] == [["fit", "b"], ["fit", "a"]]
    status, said = _run(text, slurm, folders[0], SLURM_ARRAY_TASK_ID="2")
    assert (status, said) == (2, "this job has no task 2\n")


def test_a_run_that_asks_for_it_is_requeued_and_one_that_fails_is_not(
    slurm: StandIn, python: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    text = _script(python, [Task(folder, ("fit",))], max_restarts=3)
    job = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n"}

    def end(asks: str, status: str, state: str = "RUNNING", **more: str) -> tuple[int, str, bool]:
        (slurm.home / "scontrol").unlink(missing_ok=True)
        for name, content in (("asks", asks), ("status", status), ("state", state)):
            (slurm.home / name).write_text(f"{content}\n")
        ended, said = _run(text, slurm, folder, **job, **more)
        assert not (folder / ".requeue").exists()
        return ended, said.splitlines()[-1], "requeue 17" in slurm.said("scontrol")

    assert end("0", "0")[::2] == (0, False)
    assert end("0", "1")[::2] == (1, False)
    assert end("1", "0") == (0, "requeued for restart 1", True)
    assert end("0", "75")[::2] == (0, True)
    assert end("1", "0", SLURM_RESTART_COUNT="2") == (0, "requeued for restart 3", True)
    assert end("1", "0", SLURM_RESTART_COUNT="3") == (
        *(1, "not requeued: this job was restarted 3 times, as often as its profile's max_restarts allows"),
        False,
    )
    assert end("1", "0", "COMPLETING") == (143, "not requeued: SLURM ends this job itself (COMPLETING)", False)
    end("1", "0", SLURM_ARRAY_JOB_ID="17", SLURM_ARRAY_TASK_ID="0")
    assert slurm.said("squeue")[-1] == "--noheader --jobs=17_0 --format=%T"
    assert slurm.said("scontrol")[-1] == "requeue 17_0", "the whole array would be requeued"
    (folder / ".requeue").touch()
    assert end("0", "1")[::2] == (1, False), "the file of an earlier start counted"


def test_a_killed_run_is_requeued_where_it_had_come_any_further(slurm: StandIn, python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    text = _script(python, [Task(folder, ("fit",))])
    (slurm.home / "state").write_text("RUNNING\n")

    def killed(status: int = 137) -> int:
        (slurm.home / "status").write_text(f"{status}\n")
        return _run(text, slurm, folder, SLURM_JOB_ID="17", SLURM_JOB_NODELIST="n")[0]

    assert killed() == 137, "nothing was saved"
    for step in ("00000998", "00001000"):
        (slurm.home / "saves").write_text(step)
        assert killed() == 0
        assert killed() == 137, "the checkpoint was there before"
    (slurm.home / "saves").write_text("00001002")
    assert killed(1) == 1, "it failed by itself"
    assert [call for call in slurm.said("scontrol") if call.startswith("requeue")] == ["requeue 17"] * 2


def test_without_slurm_the_script_starts_itself_again(slurm: StandIn, python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    text = _script(python, [Task(folder, ("fit",))], max_restarts=2)
    (slurm.home / "asks").write_text("2\n")
    status, said = _run(text, slurm, folder)
    assert status == 0, said
    assert len(_ran(slurm)) == 3
    assert "task 0, restart 2" in said
    (slurm.home / "asks").write_text("3\n")
    status, said = _run(text, slurm, folder)
    assert status == 1
    assert "not requeued: this job was restarted 2 times" in said
    assert slurm.said("scontrol") == []


def test_the_lines_of_the_site_come_before_everything_else(slurm: StandIn, python: Path, tmp_path: Path) -> None:
    text = _script(python, [Task(tmp_path / "run", ("fit",))], setup=("module() { LOADED=$1; }", "module cuda"))
    assert "loaded cuda" in _run(text.replace("rm -f", 'echo "loaded $LOADED"; rm -f', 1), slurm, tmp_path / "run")[1]


# the snapshot


def test_a_snapshot_is_the_commit_with_its_changes_and_no_later_edit(checkout: Path, tmp_path: Path) -> None:
    clean = snapshot.source(checkout / "experiments")
    assert (clean.root, clean.dirty, clean.untracked, clean.diff) == (checkout.resolve(), False, (), b"")
    (checkout / "code.py").write_text("new = 2\n")
    (checkout / "binary").write_bytes(bytes(range(256)))
    _git(checkout, "add", "binary")
    (checkout / "notes with spaces.txt").touch()
    changed = snapshot.source(checkout)
    assert (changed.dirty, changed.untracked) == (True, ("notes with spaces.txt",))
    assert changed.key.startswith(f"{clean.commit[:12]}-")
    places = [snapshot.take(source, checkout / "runs" / ".code") for source in (clean, changed)]
    (checkout / "code.py").write_text("later = 3\n")
    assert [(place / "code.py").read_text() for place in places] == ["old = 1\n", "new = 2\n"]
    assert (places[1] / "binary").read_bytes() == bytes(range(256))
    assert not (places[1] / "notes with spaces.txt").exists()
    facts = json.loads((places[1] / "snapshot.json").read_text())
    assert (facts["commit"], facts["dirty"]) == (clean.commit, True)
    assert facts["untracked"] == ["notes with spaces.txt"]
    assert "+new = 2" in facts["diff"]
    assert snapshot.take(changed, checkout / "runs" / ".code") == places[1]
    assert sorted(path.name for path in (checkout / "runs" / ".code").iterdir()) == sorted(p.name for p in places)


def test_what_reproduce_writes_makes_no_tree_dirty(checkout: Path) -> None:
    (checkout / "README.md").write_text("a table\n")
    _git(checkout, "add", ".")
    _git(checkout, "commit", "-q", "-m", "second")
    (checkout / "README.md").write_text("another table\n")
    source = snapshot.source(checkout)
    assert (source.dirty, b"another table" in source.diff) == (False, True)


def test_a_job_of_a_snapshot_knows_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"commit": "abc", "dirty": True, "diff": "+new = 2", "untracked": []}
    (tmp_path / "snapshot.json").write_text(json.dumps(facts))
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "ebm_lightning" / "runs.py"))
    RunFolder(tmp_path / "run").claim({"seed_everything": 0}, [])
    found = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (found["commit"], found["dirty"], found["diff"]) == ("abc", True, "+new = 2")


# the folders


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
        ([NET, "--sweep", "code.py"], "code.py is no sweep: expected dotted keys with lists"),
        ([NET, "--sweep", "bad-key.yaml"], "'model steps' is no dotted key"),
        ([NET, "--sweep", "seeds.yaml"], "seed_everything cannot be swept: give seeds as --seeds"),
        ([NET, "--sweep", "twice.yaml"], "two jobs would write the run folder .*net-seed3-"),
        ([NET, "--seeds", "2-0"], "--seeds takes whole numbers and rising ranges"),
        ([NET, "--after", "the last one"], "--after takes the number of a job, such as 17"),
        ([NET, "--local", "0"], "take a number of at least 1"),
        ([NET, "--", "--seed_everything=1"], "--seed_everything cannot stand after the --: give seeds as --seeds"),
        ([NET, "--", "--trainer.devices", "2"], "--trainer.devices cannot stand after the --: give the profile's"),
        ([NET, "--", "--run", "x"], "--run cannot stand after the --"),
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


# what is submitted


def test_a_dry_run_shows_everything_and_writes_nothing(ebm, checkout: Path, slurm: StandIn, tmp_path: Path) -> None:
    status, said = ebm(
        "submit", NET, "--seeds", "0-1", "--max-parallel", 1, "--after", 16, "--test", "--", "--a", "b c"
    )
    assert status == 0, said
    shown = said.splitlines()
    assert shown[0] == "#!/bin/bash"
    assert "command sbatch --parsable --array=0-1%1 --dependency=afterok:16 < " in said
    assert "SLURM   Job 7 to start at 2030-01-01T00:00:00 on n1" in shown
    assert [line.split("paper/")[1][:10] for line in shown if line.startswith("run ")] == ["net-seed0-", "net-seed1-"]
    assert "--a 'b c' --seed_everything 1 --run" in said
    assert not (tmp_path / "runs").exists()
    assert not list(slurm.home.glob("*.sh"))


def test_a_job_is_submitted_with_all_that_it_needs(
    ebm, checkout: Path, slurm: StandIn, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (checkout / "site.yaml").write_text(yaml.safe_dump({"python": shlex.quote(str(python)), "devices": "2"}))
    (checkout / "mine=a.yaml").write_text("model: {steps: 7}\n")
    (checkout / "code.py").write_text("new = 2\n")
    status, said = ebm("submit", NET, "--profile", "site.yaml", "--", "-c", "mine=a.yaml", "--config=code.py")
    assert status == 0, said
    assert "warning: the tree has uncommitted changes" in said
    assert "warning: mine=a.yaml is not in git: a job reads it as it stands when it starts" in said
    job, run = said.splitlines()[:2]
    folder = Path(run.removeprefix("run     "))
    assert job == "job     17"
    assert slurm.arguments(17) == ["--parsable"]
    assert slurm.script(17) == (folder / "slurm" / "job.sh").read_text()
    assert f"#SBATCH --output={folder}/slurm/%j.out" in slurm.script(17)
    code = (folder / "code").resolve()
    assert (code / "code.py").read_text() == "new = 2\n"
    assert os.readlink(folder / "code") == f"../../.code/{code.name}"
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["command"][:3] == ["ebm", "submit", NET]
    assert (meta["commit"], meta["dirty"]) == (_git(checkout, "rev-parse", "HEAD").strip(), True)
    assert meta["untracked"] == ["mine=a.yaml", "site.yaml"]
    assert f"torch=={metadata.version('torch')}" in meta["packages"]
    assert meta["id"] == (folder / "run_id").read_text() == RunFolder(folder).id
    (line,) = Ledger(tmp_path / "runs").lines()
    assert (line["job"], line["folder"]) == ("17", f"paper/{folder.name}")
    (slurm.home / "state").write_text("RUNNING\n")
    assert _run(slurm.script(17), slurm, folder, SLURM_JOB_ID="17", SLURM_JOB_NODELIST="n")[0] == 0
    (start,) = _ran(slurm)
    files = [f"{code}/{NET}", "-c", str(checkout / "mine=a.yaml"), f"--config={code}/code.py"]
    assert start[:3] == [str(checkout), str(code), "disabled"]
    assert start[6:] == [
        *("fit", "-c", *files, "--seed_everything", "3", "--run", str(folder)),
        *("--trainer.num_nodes", "1", "--trainer.devices", "2"),
    ]


def test_the_tasks_of_an_array_have_a_folder_and_a_log_each(ebm, checkout: Path, slurm: StandIn) -> None:
    (checkout / "grid.yaml").write_text("model.steps: [1, 2]\nmodel.rate: [0.1, 0.2]\n")
    status, said = ebm("submit", NET, "--seeds", "0-1", "--sweep", "grid.yaml", "--max-parallel", 3)
    assert status == 0, said
    folders = [Path(line.split(maxsplit=1)[1]) for line in said.splitlines() if line.startswith("run ")]
    assert len(set(folders)) == 8
    assert slurm.arguments(17) == ["--parsable", "--array=0-7%3"]
    (output,) = re.findall("#SBATCH --output=(.*)", slurm.script(17))
    for number, folder in enumerate(folders):
        log = Path(output.replace("%a", str(number)).replace("%A", "17"))
        assert log.resolve() == folder / "slurm" / f"17_{number}.out"
        assert json.loads((folder / "meta.json").read_text())["task"] == number
    assert [line["job"] for line in Ledger(folders[0].parent.parent).lines()] == [f"17_{k}" for k in range(8)]


def test_a_folder_whose_job_is_alive_is_refused_and_an_ended_one_continues(
    ebm, checkout: Path, slurm: StandIn, tmp_path: Path
) -> None:
    assert ebm("submit", NET, "--seeds", "0-1")[0] == 0
    slurm.queue("17|1|RUNNING|0|None|")
    status, said = ebm("submit", NET, "--seeds", "1-2")
    folder = tmp_path / "runs" / "paper" / "net-seed1"
    assert status == 1
    assert f"the job 17_1 (running) writes the run folder {folder}: wait for it, or end it with `ebm cancel" in said
    assert not (tmp_path / "runs" / "paper" / "net-seed2").exists()
    slurm.queue()
    before = RunFolder(folder).id
    assert ebm("submit", NET, "--seeds", "1-2")[0] == 0
    assert RunFolder(folder).id == before
    assert Ledger(tmp_path / "runs").newest()["paper/net-seed1"]["job"] == "18_0"


def test_a_job_does_not_inherit_the_one_it_is_submitted_from(
    ebm, checkout: Path, slurm: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.write("sbatch", "env >{home}/environment; echo 17")
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_CONF", "MASTER_ADDR", "RANK", "LOCAL_RANK", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "0")
    assert ebm("submit", NET)[0] == 0
    inherited = {line.partition("=")[0] for line in (slurm.home / "environment").read_text().splitlines()}
    assert {"SLURM_CONF", "SBATCH_ACCOUNT", "PATH"} <= inherited
    assert not {"SLURM_JOB_ID", "SLURM_NTASKS", "MASTER_ADDR", "RANK", "LOCAL_RANK"} & inherited


def test_a_refusal_of_slurm_is_told_in_its_words(ebm, checkout: Path, slurm: StandIn, tmp_path: Path) -> None:
    (slurm.home / "refuses").touch()
    status, said = ebm("submit", NET)
    assert (status, said) == (1, "ebm: error: sbatch refused the job: invalid partition specified: moon\n")
    assert Ledger(tmp_path / "runs").lines() == []
    status, said = ebm("submit", NET, "--test")
    assert said.splitlines()[-1] == "ebm: error: sbatch would refuse the job: invalid partition specified: moon"


def test_without_slurm_or_git_there_is_one_sentence(
    ebm, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = shutil.which("git")
    assert git is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    status, said = ebm("submit", NET)
    assert (status, said.count("\n")) == (1, 1)
    assert "on PATH, so no SLURM here: `ebm submit --local 1` and" in said
    assert not list((tmp_path / "runs").glob("*/*"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    status, said = ebm("submit", checkout / NET)
    assert (status, said.count("\n")) == (1, 1)
    assert "is not in a git repository, and jobs run from a snapshot of one" in said
    subprocess.run([git, "init", "-q"], check=True)
    assert "has no commit, and jobs run from a snapshot of one: commit first" in ebm("submit", checkout / NET)[1]


def test_hostile_names_of_experiments_and_overrides_are_carried_literally(
    ebm, checkout: Path, slurm: StandIn, python: Path, tmp_path: Path
) -> None:
    place = checkout / "experiments" / EVIL
    place.mkdir()
    (place / f"{EVIL}.yaml").write_text("seed_everything: 0\n")
    (checkout / "site.yaml").write_text(yaml.safe_dump({"python": shlex.quote(str(python))}))
    value = "a\nb; $(touch hacked)"
    status, said = ebm("submit", place / f"{EVIL}.yaml", "--profile", "site.yaml", "--", "--x", value)
    assert status == 0, said
    (folder,) = (tmp_path / "runs" / EVIL).iterdir()
    assert "%%j" in slurm.script(17), "a percent sign of a path is no pattern"
    assert _run(slurm.script(17), slurm, folder, SLURM_JOB_ID="17", SLURM_JOB_NODELIST="n")[0] == 0
    assert _ran(slurm)[0][6:11] == ["fit", "-c", str(place / f"{EVIL}.yaml"), "--x", value]
    assert not list(tmp_path.rglob("hacked"))
    broken = checkout / "experiments" / "a\nb"
    broken.mkdir()
    (broken / "net.yaml").write_text("seed_everything: 0\n")
    status, said = ebm("submit", broken / "net.yaml")
    assert status == 1
    assert "holds a line break or control character" in said


# without SLURM


def test_local_runs_the_same_script_and_keeps_what_it_said(
    ebm, checkout: Path, slurm: StandIn, python: Path, tmp_path: Path
) -> None:
    (checkout / "site.yaml").write_text(
        yaml.safe_dump({"python": shlex.quote(str(python)), "nodes": "4", "gpus_per_node": "8"})
    )
    status, said = ebm("submit", NET, "--profile", "site.yaml", "--seeds", "0-1", "--local", 2)
    assert status == 0, said
    assert [start[-6:] for start in _ran(slurm)] == [
        ["--run", str(tmp_path / "runs/paper" / name), "--trainer.num_nodes", "1", "--trainer.devices", "2"]
        for name in ("net-seed0", "net-seed1")
    ]
    log = (tmp_path / "runs" / "paper" / "net-seed1" / "slurm" / "local.out").read_text()
    assert "job without SLURM, task 1, restart 0" in log
    assert log in said
    (slurm.home / "status").write_text("9\n")
    status, said = ebm("submit", NET, "--profile", "site.yaml", "--local", 1)
    assert status == 1
    assert "net-seed3 failed with status 9: its log is" in said.splitlines()[-1]


def test_a_run_is_trained_without_slurm(
    ebm, checkout: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(tiny, "experiments/paper/tiny.yaml")
    steps = ("--trainer.max_steps", 1, "--samples.steps", 1)
    status, said = ebm("submit", "experiments/paper/tiny.yaml", "--local", 1, "--", *steps)
    assert status == 0, said
    run = RunFolder(tmp_path / "runs" / "paper" / next((tmp_path / "runs" / "paper").iterdir()).name)
    assert [event["event"] for event in run.events()] == ["start", "checkpoint", "end"]
    assert len(checkpoints.side_files(run.checkpoints()[-1])) == 1
    assert run.config()["seed_everything"] == 3
    assert (run.path / "slurm" / "local.out").read_bytes().decode() in said


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_run_that_is_stopped_before_it_can_save_asks_to_be_started_again(number: int, tmp_path: Path) -> None:
    """In a process of its own, which hands the signals back to whom they belonged to once it is over."""
    code = f"""
import os, signal
from ebm_lightning.cluster import makes_room
signal.signal({number}, signal.SIG_IGN)
with makes_room(["fit", "-c", "x.yaml", "--run", "run"]):
    pass
os.kill(os.getpid(), {number})
with makes_room(["fit", "-c", "x.yaml", "--run", "run"]):
    os.kill(os.getpid(), {number})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 75
    assert RunFolder(tmp_path / "run").requeue_file.exists()


# what the guide says


def test_every_shipped_profile_is_one(ebm, checkout: Path) -> None:
    files = [file for file in (ROOT / "cluster").rglob("*.yaml") if file.stem not in ("sweep", "interrupted")]
    assert len(files) >= 6
    for file in files:
        assert ebm("submit", NET, "--profile", file, "--dry-run")[0] == 0, file


def test_every_command_of_the_guide_is_one(
    ebm, checkout: Path, slurm: StandIn, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for SLURM and for training; tests/test_slurm.py has a real one."""
    for part in ("cluster", "experiments/quickstart"):
        shutil.copytree(ROOT / part, checkout / part)
    (checkout / "here.yaml").write_text(yaml.safe_dump({"python": shlex.quote(str(python))}))
    _git(checkout, "add", ".")
    _git(checkout, "commit", "-q", "-m", "second")
    monkeypatch.setattr(offline, "subprocess", SimpleNamespace(run=lambda *a, **k: SimpleNamespace(returncode=0)))
    run = tmp_path / "runs" / "quickstart" / "digits-seed0"
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "cluster" / "README.md").read_text(), re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("ebm ")]
    assert len(commands) >= 18
    for _, verb, *rest in commands:
        arguments = [{"RUN": str(run), "runs/quickstart": str(run.parent)}.get(word, word) for word in rest]
        if "--local" in arguments:
            arguments[:0] = ["--profile", "here.yaml"]
        if verb == "sample":
            continue  # needs a trained run
        if verb in ("cancel", "preempt"):
            slurm.queue(f"{jobs.of_run(run).id}|N/A|RUNNING|0|None|")
        status, said = ebm(verb, *arguments)
        assert status == 0, f"ebm {verb} {arguments}: {said}"
        slurm.queue()
        if not (run / "config.yaml").exists() and run.exists():
            (run / "config.yaml").write_text("seed_everything: 0\n")
            (run / "metrics.csv").write_text("time,step,name,value\n0,1,train/loss,2\n0,1,train/gap,2\n")
            (run / "slurm" / "17.out").write_text("hello\n")
            (run / "wandb" / "offline-run-20300101_000000-id").mkdir(parents=True)
