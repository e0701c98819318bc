"""The run folder: whose it is, who may write to it, and what it remembers."""

import hashlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ebm_lightning.runs import files, provenance
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import NON_IDENTITY_KEYS, default_folder, differences, flatten, identity
from ebm_lightning.runs.provenance import environment

CONFIG = {
    "seed_everything": 0,
    "trainer": {"max_steps": 10, "devices": 1, "gradient_clip_val": None},
    "model": {"class_path": "EBM", "init_args": {"steps": 3, "betas": [0.9, 0.99], "options": {}}},
    "samples": {"every_n_steps": 5},
}


def _changed(key: str, value: object, config: dict | None = None) -> dict:
    """CONFIG with another value under a dotted key."""
    config = json.loads(json.dumps(CONFIG if config is None else config))
    *path, last = key.split(".")
    place = config
    for part in path:
        place = place.setdefault(part, {})
    place[last] = value
    return config


def test_flatten_keeps_lists_and_empty_mappings_as_values() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}, "g": None}) == {
        "a.b.c": 1,
        "a.d": [1, {"e": 2}],
        "f": {},
        "g": None,
    }


def test_an_option_that_is_null_makes_no_other_run() -> None:
    assert identity(_changed("model.init_args.added_later", None)) == identity(CONFIG)
    assert differences(CONFIG, _changed("model.init_args.added_later", None)) == []
    assert differences(CONFIG, _changed("trainer.gradient_clip_val", 1.0)) == [
        "trainer.gradient_clip_val: absent -> 1.0"
    ]


def test_a_class_that_moves_to_another_module_makes_no_other_run() -> None:
    inner = {"terms": [{"class_path": "old.Contrast", "init_args": {"net": {"class_path": "old.MLP"}}}]}
    moved = {"terms": [{"class_path": "new.home.Contrast", "init_args": {"net": {"class_path": "MLP"}}}]}
    before, after = (_changed("model.init_args.objective", value) for value in (inner, moved))
    assert identity(before) == identity(after)
    assert differences(before, after) == []
    renamed = json.loads(json.dumps(moved).replace("MLP", "ConvNet"))
    assert identity(_changed("model.init_args.objective", renamed)) != identity(before)


@pytest.mark.parametrize("key", NON_IDENTITY_KEYS)
def test_a_free_key_and_what_lies_below_it_is_no_part_of_the_identity(key: str) -> None:
    before = _changed(key, 1)
    for after in (_changed(key, 2), _changed(f"{key}.init_args", 2, _changed(key, {})), CONFIG):
        assert identity(before) == identity(after)
        assert differences(before, after) == []
    assert identity(_changed(f"{key}s_too", 1)) != identity(CONFIG)


def test_differences_are_key_old_and_new() -> None:
    other = _changed("model.init_args.steps", 4)
    assert differences(CONFIG, other) == ["model.init_args.steps: 3 -> 4"]
    assert differences(CONFIG, _changed("model.init_args.betas", [0.9, 0.9])) == [
        "model.init_args.betas: [0.9, 0.99] -> [0.9, 0.9]"
    ]
    assert differences(CONFIG, _changed("guard.rollbacks", 1)) == ["guard.rollbacks: absent -> 1"]
    assert differences(_changed("guard.rollbacks", 1), CONFIG) == ["guard.rollbacks: 1 -> absent"]
    assert differences(CONFIG, _changed("seed_everything", 1, other)) == [
        "model.init_args.steps: 3 -> 4",
        "seed_everything: 0 -> 1",
    ]
    assert differences(CONFIG, _changed("trainer.max_steps", 99)) == []


def test_the_default_folder_is_named_by_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is spelled out here: a release that changes it would no longer find the runs of the one before."""
    monkeypatch.delenv("EBM_RUNS", raising=False)
    digest = hashlib.sha256(b'{"model.steps": 3, "seed_everything": 0}').hexdigest()[:8]
    config = {"seed_everything": 0, "model": {"steps": 3}, "run": "elsewhere", "trainer": {"max_steps": 7}}
    files = ["somewhere/paper/mnist.yaml", "presets/debug.yaml"]
    assert default_folder(config, files) == Path("runs", "paper", f"mnist-{digest}")
    assert default_folder(dict(reversed(config.items())), files) == default_folder(config, files)
    assert default_folder({**config, "trainer": {"max_steps": 8}}, files) == default_folder(config, files)
    assert default_folder({**config, "seed_everything": 1}, files) != default_folder(config, files)
    monkeypatch.setenv("EBM_RUNS", "/scratch/me")
    assert default_folder(config, files) == Path("/scratch/me/paper", f"mnist-{digest}")


def test_a_folder_is_claimed_once_and_then_only_by_its_own_configuration(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "paper" / "mnist")
    run.acquire(CONFIG, ["ebm", "fit"])
    assert run.config() == CONFIG
    assert run.experiment == "paper"
    run.acquire(_changed("trainer.max_steps", 20), ["ebm", "fit", "--trainer.max_steps", "20"])
    assert run.config() == _changed("trainer.max_steps", 20), "config.yaml is that of the latest start"
    before = run.config_file.read_bytes()
    with pytest.raises(ValueError, match=r"another configuration \(model\.init_args\.steps: 3 -> 4\)"):
        run.acquire(_changed("model.init_args.steps", 4), [])
    foreign = {"data": {str(number): number for number in range(6)}, **CONFIG}
    with pytest.raises(ValueError, match=r"data\.3: absent -> 3; and 2 more\)"):
        run.acquire(foreign, [])
    assert run.config_file.read_bytes() == before
    starts = [event for event in run.events() if event["event"] == "start"]
    assert [start["command"] for start in starts] == [["ebm", "fit"], ["ebm", "fit", "--trainer.max_steps", "20"]]


def test_the_environment_is_that_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.startswith("SLURM_JOB")]:
        monkeypatch.delenv(key)
    RunFolder(tmp_path).acquire(CONFIG, [])
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["versions"]["torch"] == metadata.version("torch")
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["commit"] == provenance.git("rev-parse", "HEAD")
    assert facts["diff"] == provenance.git("diff", "HEAD")
    assert "slurm" not in facts
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert environment()["slurm"]["SLURM_JOB_ID"] == "17"
    assert "diff" not in environment()


def test_git_says_nothing_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.git("rev-parse", "HEAD") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git("--version") is None


def test_config_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a run folder: it has no config\.yaml"):
        RunFolder(tmp_path).config()
    assert RunFolder(tmp_path).events() == []
    assert RunFolder(tmp_path).checkpoints() == []
    assert RunFolder(tmp_path).minutes() == 0


def test_the_id_is_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    for name in "abc":
        (tmp_path / name).mkdir()
    first = RunFolder(tmp_path / "a").id
    assert len(first) == 10
    assert first != RunFolder(tmp_path / "b").id
    monkeypatch.setenv("WANDB_RUN_ID", "of-a-sweep")
    assert RunFolder(tmp_path / "a").id == first == (tmp_path / "a" / "run_id").read_text()
    assert RunFolder(tmp_path / "c").id == "of-a-sweep"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert RunFolder(tmp_path / "c").id == "of-a-sweep"


def test_checkpoints_are_ordered_by_step_and_half_written_ones_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (1000, 20, 300):
        (folder / f"step={step:08d}.ckpt").touch()
        (folder / f"step={step:08d}.ckpt.ranks").mkdir()
    (folder / "step=00004000.ckpt.partial").touch()
    names = [path.name for path in RunFolder(tmp_path).checkpoints()]
    assert names == ["step=00000020.ckpt", "step=00000300.ckpt", "step=00001000.ckpt"]


def test_minutes_count_every_start_to_its_last_event(tmp_path: Path) -> None:
    """2 minutes, then nothing known of a start that was killed at once, then 3 minutes."""
    run = RunFolder(tmp_path)
    times = [("start", 0), ("checkpoint", 60), ("checkpoint", 120), ("start", 5000), ("start", 9000), ("end", 9180)]
    lines = [json.dumps({"time": time, "event": kind}) for kind, time in times]
    (tmp_path / "events.jsonl").write_text("\n".join(lines[:3]) + "\n")
    assert run.minutes() == pytest.approx(2)
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    assert run.minutes() == pytest.approx(5)


def test_events_are_appended_with_their_details(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.event("checkpoint", step=4)
    run.event("rollback", number=1, reason="loss is not finite")
    first, second = run.events()
    assert (first["event"], first["step"]) == ("checkpoint", 4)
    assert (second["event"], second["number"], second["reason"]) == ("rollback", 1, "loss is not finite")
    assert first["time"] <= second["time"]


HOLDER = """
import sys
from ebm_lightning.runs.folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", "torch" in sys.modules, flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone_even_if_killed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline().split() == [b"held", b"False"], "the run folder must not import torch"
        with pytest.raises(ValueError, match="another process is writing to the run"), run.lock():
            pass
        other.kill()
    with run.lock():
        pass
    with run.lock():
        pass


def test_write_atomically_keeps_the_old_text_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.yaml"
    files.write_atomically(file, "old")

    def fails_half_way(self: Path, text: str) -> None:
        with self.open("w") as half:
            half.write(text[: len(text) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fails_half_way)
        with pytest.raises(OSError, match="no space"):
            files.write_atomically(file, "a new one")
    assert file.read_text() == "old"
    files.write_atomically(file, "a new one")
    assert file.read_text() == "a new one"


def test_a_run_below_is_found_by_the_folder_that_fit_or_submit_gave_it(tmp_path: Path) -> None:
    top = RunFolder(tmp_path / "top-seed0")
    for name, seed in (("a-0123abcd", 0), ("a-seed1", 1), ("b-seed0-0123abcd", 0), ("b-c-seed0", 0), ("a-seed2", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"seed_everything: {seed}\n")
    found = [top.sibling(name, seed).path.name for name, seed in (("a", 0), ("a", 1), ("b", 0), ("b-c", 0))]
    assert found == ["a-0123abcd", "a-seed1", "b-seed0-0123abcd", "b-c-seed0"]
    with pytest.raises(ValueError, match=r"builds on the run of c\.yaml with seed 0, but .* has none of them"):
        top.sibling("c", 0)
