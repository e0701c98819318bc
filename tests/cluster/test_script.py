"""The batch script of a job, as bash runs it."""

import shlex
from pathlib import Path

import pytest
from support.stand_in import StandIn
from support.submission import EVIL, ran, run_script

from ebm_lightning.cluster.profile import Profile
from ebm_lightning.cluster.script import Task, script


def _script(python: Path, tasks: list[Task], **changed: object) -> str:
    profile = Profile(python=shlex.quote(str(python)), **changed)  # type: ignore[arg-type]
    place = tasks[0].folder.parent
    facts = {"code": place / "code", "directory": place, "environment": {"WANDB_MODE": "offline"}}
    return script(profile, tasks, name="job", output="out", **facts)  # type: ignore[arg-type]


def test_no_name_path_or_word_can_run_a_command(slurm: StandIn, python: Path, tmp_path: Path) -> None:
    folder = tmp_path / EVIL / EVIL
    words = ("fit", EVIL, f"--x={EVIL}", "two\nlines\n#SBATCH --uid=0\n$(touch hacked)", "", "-c", "it's")
    profile = Profile(
        **{"python": shlex.join([str(python)]), "partition": EVIL, "env": {"A": EVIL}, "srun": (f"--x={EVIL}",)},
        extra={"comment": EVIL},
    )
    place = {"code": tmp_path / EVIL / "code", "directory": folder, "environment": {"WANDB_MODE": EVIL}}
    text = script(profile, [Task(folder, words)], name=EVIL, output=f"{folder}/slurm/%j.out", **place)
    status, said = run_script(text, slurm, folder, SLURM_JOB_ID="12345", SLURM_JOB_NODELIST=EVIL, PYTHONPATH="")
    assert status == 0, said
    assert ran(slurm) == [[str(folder), str(tmp_path / EVIL / "code"), EVIL, "n1", "22345", "1", *words]]
    assert not list(tmp_path.rglob("hacked"))
    options = [shlex.split(line)[1] for line in text.splitlines() if line.startswith("#SBATCH ") and "uid" not in line]
    assert options[:2] == [f"--job-name={EVIL}", f"--output={folder}/slurm/%j.out"]
    assert f"--partition={EVIL}" in options
    assert options[-1] == f"--comment={EVIL}"
    assert text.index("#SBATCH --uid") > text.index("task="), "sbatch reads options before the first command alone"


def test_a_name_that_sbatch_could_not_read_is_refused(tmp_path: Path) -> None:
    place = {"code": tmp_path, "directory": tmp_path, "environment": {}}
    with pytest.raises(ValueError, match="has a line break or control character"):
        script(Profile(), [Task(tmp_path, ())], name="a\n#SBATCH --uid=0", output="o", **place)
    with pytest.raises(ValueError, match="has a colon"):
        script(Profile(), [Task(tmp_path, ())], name="a", output="o", **{**place, "code": tmp_path / "a:b"})


def test_each_task_of_an_array_runs_its_own_words(slurm: StandIn, python: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    text = _script(python, [Task(folder, ("fit", folder.name)) for folder in folders])
    for task in ("1", "0"):
        assert run_script(text, slurm, folders[0], SLURM_ARRAY_TASK_ID=task)[0] == 0
    assert [start[6:] for start in ran(slurm)] == [["fit", "b"], ["fit", "a"]]
    status, said = run_script(text, slurm, folders[0], SLURM_ARRAY_TASK_ID="2")
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
        ended, said = run_script(text, slurm, folder, **job, **more)
        assert not (folder / ".requeue").exists()
        return ended, said.splitlines()[-1], "requeue 17" in slurm.said("scontrol")

    assert end("0", "0")[::2] == (0, False)
    assert end("0", "1")[::2] == (1, False)
    assert end("1", "0") == (0, "requeued for restart 1", True)
    assert end("0", "75")[::2] == (0, True)
    assert end("1", "0", SLURM_RESTART_COUNT="2") == (0, "requeued for restart 3", True)
    assert end("1", "0", SLURM_RESTART_COUNT="3") == (
        *(1, "not requeued: this job was restarted 3 times, the max_restarts of its profile"),
        False,
    )
    assert end("1", "0", "COMPLETING") == (143, "not requeued: SLURM ends this job (COMPLETING)", False)
    end("1", "0", SLURM_ARRAY_JOB_ID="17", SLURM_ARRAY_TASK_ID="0")
    assert slurm.said("squeue")[-1] == "--noheader --jobs=17_0 --format=%T"
    assert slurm.said("scontrol")[-1] == "requeue 17_0", "otherwise the complete array would be requeued"
    (folder / ".requeue").touch()
    assert end("0", "1")[::2] == (1, False), "the file of an earlier start counted"


def test_a_killed_run_is_requeued_where_it_had_come_any_further(slurm: StandIn, python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    text = _script(python, [Task(folder, ("fit",))])
    (slurm.home / "state").write_text("RUNNING\n")

    def killed(status: int = 137) -> int:
        (slurm.home / "status").write_text(f"{status}\n")
        return run_script(text, slurm, folder, SLURM_JOB_ID="17", SLURM_JOB_NODELIST="n")[0]

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
    status, said = run_script(text, slurm, folder)
    assert status == 0, said
    assert len(ran(slurm)) == 3
    assert "task 0, restart 2" in said
    (slurm.home / "asks").write_text("3\n")
    status, said = run_script(text, slurm, folder)
    assert status == 1
    assert "not requeued: this job was restarted 2 times" in said
    assert slurm.said("scontrol") == []


def test_the_lines_of_the_site_come_before_everything_else(slurm: StandIn, python: Path, tmp_path: Path) -> None:
    text = _script(python, [Task(tmp_path / "run", ("fit",))], setup=("module() { LOADED=$1; }", "module cuda"))
    text = text.replace("rm -f", 'echo "loaded $LOADED"; rm -f', 1)
    assert "loaded cuda" in run_script(text, slurm, tmp_path / "run")[1]
