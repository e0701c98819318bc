"""A run that diverges stops in words or goes back; a disk that is full costs nothing but time."""

import resource
import signal
from pathlib import Path

import pytest
import torch
import yaml
from support.forked import Forked
from torch import Tensor

from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.training.module import EBM

NO_PICTURES = ("--samples.every_n_steps", "0")
"""Left out here, for they take most of the time of a tiny run."""


@pytest.fixture
def fit(ebm, tiny: Path):
    """Trains the tiny configuration into a folder; returns (exit status, standard output and error)."""
    return lambda run, *arguments: ebm("fit", "-c", tiny, "--run", run, *NO_PICTURES, *arguments)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run."""
    return tmp_path / "x" / "run"


class Visits:
    """Watches the sampler of a run, and spoils it: the chains of training step ``fault`` end as NaN.

    ``steps`` are the training steps whose chains were run, first one 1, ``streams`` the random states they began with.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fault: int = 0, times: int = 0) -> None:
        self.steps: list[int] = []
        self.streams: list[Tensor] = []
        negatives = EBM.run_negative_chains

        def spoiled(module, *arguments):
            self.steps.append(module.global_step + 1)
            self.streams.append(torch.get_rng_state())
            neg, info = negatives(module, *arguments)
            if self.steps[-1] == fault and self.steps.count(fault) <= times:
                neg = {**neg, "x": torch.full_like(neg["x"], torch.nan)}
            return neg, info

        monkeypatch.setattr(EBM, "run_negative_chains", spoiled)

    @property
    def starts(self) -> list[int]:
        """The step with which each attempt began."""
        return [now for before, now in zip([0, *self.steps], self.steps, strict=False) if now != before + 1 or now == 1]


def _checkpoint(run: Path, step: int | None = None) -> dict:
    found = {checkpoints.step_of(path): path for path in RunFolder(run).checkpoints()}
    return checkpoints.RankCheckpointIO().load_checkpoint(found[max(found) if step is None else step])


def _rolled_back(run: Path) -> int:
    return _checkpoint(run)["callbacks"]["DivergenceGuard"]["rolled_back"]


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _events(run: Path, kind: str) -> list[dict]:
    return [event for event in RunFolder(run).events() if event["event"] == kind]


def _assert_finite(run: Path) -> None:
    """Every checkpoint is whole and holds finite weights, averages and chains."""
    for path in RunFolder(run).checkpoints():
        assert checkpoints.is_valid(path)
        content = checkpoints.RankCheckpointIO().load_checkpoint(path)
        kept = [content["state_dict"], content["current_model_state"]]
        kept += [shard["BufferCallback"] for shard in content["rank_states"]]
        for tensors in kept:
            assert all(value.isfinite().all() for value in tensors.values()), path


def _assert_one_sentence(said: str) -> str:
    """The error is one line, the last one; returns it."""
    errors = [line for line in said.splitlines() if line.startswith("ebm: error: ")]
    assert len(errors) == 1, said
    assert said.splitlines()[-1] == errors[0]
    assert "Traceback" not in said
    return errors[0]


def test_a_learning_rate_of_a_million_ends_the_run_in_one_sentence(fit, run: Path) -> None:
    status, said = fit(run, "--model.init_args.optimizer.init_args.lr", 1e6)
    assert status == 1
    sentence = _assert_one_sentence(said)
    assert "training diverged by step 2: " in sentence  # the first step with the weights of the first update
    assert "lower the learning rate" in sentence
    assert "--guard.rollbacks" in sentence
    assert RunFolder(run).checkpoints() == []


def test_a_gap_beyond_its_limit_is_a_divergence(fit, run: Path) -> None:
    status, said = fit(run, "--guard.max_gap", 1e-6)
    assert status == 1
    sentence = _assert_one_sentence(said)
    assert "diverged by step 1: |gap| reached" in sentence
    assert "more than guard.max_gap=1e-06" in sentence


def test_a_fault_between_two_looks_reaches_no_checkpoint(fit, run: Path, monkeypatch) -> None:
    """The guard looks every 100 steps, the chains are NaN in step 6: the checkpoint of step 8 is refused."""
    Visits(monkeypatch, fault=6, times=1)
    status, said = fit(run, "--guard.check_every", 100)
    assert status == 1
    assert "diverged by step 8" in _assert_one_sentence(said)
    assert [checkpoints.step_of(path) for path in RunFolder(run).checkpoints()] == [4]
    _assert_finite(run)


@pytest.mark.parametrize("step", [4, 12], ids=["periodic", "last"])
def test_a_gradient_that_is_not_finite_reaches_no_checkpoint(step: int, fit, run: Path, monkeypatch) -> None:
    """The loss of the step is finite, its gradient is not, and a checkpoint follows at once."""
    hook = EBM.on_before_optimizer_step

    def spoiled(module, optimizer):
        hook(module, optimizer)
        if module.global_step + 1 == step:
            next(module.parameters()).grad.fill_(torch.nan)

    monkeypatch.setattr(EBM, "on_before_optimizer_step", spoiled)
    status, said = fit(run)
    _assert_finite(run)
    assert status == 1
    assert f"diverged by step {step}" in _assert_one_sentence(said)


@pytest.mark.parametrize(("fault", "back_to"), [(2, 0), (6, 4)], ids=["to-the-beginning", "to-a-checkpoint"])
def test_a_fault_that_passes_costs_one_rollback_with_another_random_stream(
    fault: int, back_to: int, fit, run: Path, monkeypatch
) -> None:
    straight = run.with_name("straight")
    assert fit(straight)[0] == 0
    visits = Visits(monkeypatch, fault, times=1)
    status, said = fit(run, "--guard.rollbacks", 2)
    assert status == 0
    assert f"rollback 1 of 2: training diverged by step {fault}" in said
    assert visits.steps == [*range(1, fault + 1), *range(back_to + 1, 13)]
    first, second = visits.steps.index(back_to + 1), fault
    assert not torch.equal(visits.streams[first], visits.streams[second])
    (event,) = _events(run, "rollback")
    assert event["number"] == 1
    assert f"diverged by step {fault}" in event["reason"]
    assert _rolled_back(run) == 1
    _assert_finite(run)
    assert _same(_checkpoint(run, 4)["state_dict"], _checkpoint(straight, 4)["state_dict"]) == (back_to == 4)
    assert not _same(_checkpoint(run)["state_dict"], _checkpoint(straight)["state_dict"])


def test_chains_of_jem_that_run_away_are_caught_and_rolled_back(fit, run: Path, tmp_path: Path) -> None:
    """The paper's SGLD, without clip and clamp, whose step size is too large; the data are never the fault."""
    energy = {
        "class_path": "JEM",
        "init_args": {
            "classes": 10,
            "net": {
                "class_path": "ebm_lightning.energies.networks.MLP",
                "init_args": {"inputs": 64, "hidden": [16], "outputs": 10},
            },
        },
    }
    parts = {
        "generative": {"class_path": "ContrastiveDivergence"},
        "discriminative": {"class_path": "Classification"},
    }
    sampler = {"class_path": "SGLD", "init_args": {"step_size": 1.0, "noise": 0.01, "bounds": None}}
    arguments = {
        "model": energy,
        "objective": {"class_path": "Sum", "init_args": {"parts": parts}},
        "sampler": sampler,
    }
    overlay = tmp_path / "jem.yaml"
    overlay.write_text(yaml.safe_dump({"model": {"init_args": arguments}}))
    options = ("-c", overlay, "--guard.rollbacks", 2, "--guard.max_gap", 1e3)
    tame = run.with_name("tame")
    assert fit(tame, *options)[0] == 0
    assert _events(tame, "rollback") == []
    sampler["init_args"]["step_size"] = 1e4
    overlay.write_text(yaml.safe_dump({"model": {"init_args": arguments}}))
    status, said = fit(run, *options)
    assert status == 1
    assert "diverged by step 1: |generative/gap| reached" in _assert_one_sentence(said)
    assert [event["number"] for event in _events(run, "rollback")] == [1, 2]
    _assert_finite(run)


def test_a_fault_that_stays_goes_further_back_each_time_and_then_stops(fit, run: Path, monkeypatch) -> None:
    visits = Visits(monkeypatch, fault=11, times=99)
    often = ("--checkpoint.every_n_steps", 2, "--checkpoint.keep", 5)
    status, said = fit(run, *often, "--guard.rollbacks", 3)
    assert status == 1
    assert "diverged by step 11" in _assert_one_sentence(said)
    assert visits.starts == [1, 11, 9, 7]  # then from the checkpoints of steps 10, 8 and 6
    assert [event["number"] for event in _events(run, "rollback")] == [1, 2, 3]
    assert _rolled_back(run) == 3
    _assert_finite(run)


def test_rollbacks_are_counted_over_the_whole_run_however_often_it_is_continued(fit, run: Path, monkeypatch) -> None:
    once = ("--guard.rollbacks", 1)
    with monkeypatch.context() as patch:
        Visits(patch, fault=6, times=1)
        assert fit(run, *once, "--trainer.max_steps", 8)[0] == 0
    assert _rolled_back(run) == 1
    Visits(monkeypatch, fault=10, times=1)
    status, said = fit(run, *once)
    assert status == 1
    assert "diverged by step 10" in _assert_one_sentence(said)
    assert len(_events(run, "rollback")) == 1
    assert fit(run, *once)[0] == 0
    assert _rolled_back(run) == 1


def test_a_full_disk_leaves_the_last_checkpoint_whole_and_the_run_goes_on_later(
    fit, run: Path, tiny: Path, tmp_path: Path
) -> None:
    """No file may grow beyond a third of a checkpoint's rank file: as on a full disk, no other can be written."""
    straight = run.with_name("straight")
    assert fit(straight)[0] == 0
    assert fit(run, "--trainer.max_steps", 4)[0] == 0
    (whole,) = RunFolder(run).checkpoints()
    limit = checkpoints.rank_file(whole, 0, 1).stat().st_size // 3
    assert limit > 2 * max(file.stat().st_size for file in (run / "metrics.csv", run / "events.jsonl"))

    def fill_the_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails with EFBIG, as it does with ENOSPC
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    status, said = Forked(["fit", "-c", tiny, "--run", run, *NO_PICTURES], tmp_path / "log", first=fill_the_disk).end()
    assert status == 1, said
    sentence = _assert_one_sentence(said)
    assert "could not write the checkpoint" in sentence
    assert "step=00000008" in sentence
    assert "free disk space and run the same command again" in sentence
    assert RunFolder(run).checkpoints() == [whole]
    assert checkpoints.is_valid(whole)
    assert not list(run.rglob("*.partial"))
    assert fit(run)[0] == 0
    ours, theirs = _checkpoint(run), _checkpoint(straight)
    assert ours["global_step"] == theirs["global_step"] == 12
    for key in ("state_dict", "current_model_state"):
        assert _same(ours[key], theirs[key])


def test_a_descent_that_explodes_is_told_to_take_smaller_steps(fit, run: Path, monkeypatch) -> None:
    """The energy lost in a descent counts as the gap of a contrast does."""
    step = EBM.training_step
    monkeypatch.setattr(EBM, "training_step", lambda *a: {**step(*a), "energy_gap": torch.tensor(2e4)})
    status, said = fit(run)
    assert status == 1
    sentence = _assert_one_sentence(said)
    assert "|energy_gap| reached 2e+04" in sentence
    assert "lower the sampler's step_size (and lr_multiplier) first" in sentence


@pytest.mark.parametrize("step_size", [0.0, 1e-2])
def test_a_sampler_that_does_not_move_is_named(fit, run: Path, monkeypatch, step_size: float, recwarn) -> None:
    negatives = EBM.run_negative_chains

    def slowed(module, start, *arguments):
        end, info = negatives(module, start, *arguments)
        return end, {**info, "drift_x": step_size * info["drift_x"]}

    monkeypatch.setattr(EBM, "run_negative_chains", slowed)
    status, said = fit(run, "--trainer.max_steps", 12, "--trainer.log_every_n_steps", 1)
    assert status == 0, said
    told = [str(one.message) for one in recwarn if "is flat for its sampler" in str(one.message)]
    assert len(told) == (step_size == 0)
    assert all("x by 0 in each of the last 10 logged steps; raise the sampler's step_size first" in one for one in told)
