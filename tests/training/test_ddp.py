"""Two processes on one machine: each rank has chains and noise of its own, and continues as if never stopped."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support import TESTS
from support.forked import ranks
from support.oracles import identical
from torch import Tensor

from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder

EXCHANGE = '--trainer.callbacks+={"class_path": "ChainExchange", "init_args": {"every_n_steps": 3}}'
"""Chains that change ranks, which a run that continues must do alike; with one rank nothing happens."""


def _fit(tiny: Path, run: Path, *arguments: object) -> list[tuple[int, str]]:
    """`ebm fit` on two ranks: the exit status of each, and what it said."""
    return ranks(["fit", "-c", tiny, "--run", run, *arguments], run.parent / f"logs-{run.name}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """12 steps on two ranks, in one go and as 6 + 6: rank 1 alone receives the signal, in step 6."""
    root = tmp_path_factory.mktemp("ddp")
    tiny = TESTS / "support" / "tiny.yaml"
    straight, parts = root / "straight", root / "parts"
    asking = {"class_path": "support.oracles.AsksItself", "init_args": {"rank": 1, "step": 6}}
    for run, expected, more in ((straight, 0, []), (parts, 75, [asking]), (parts, 0, [asking])):
        for status, said in _fit(tiny, run, EXCHANGE, *(f"--trainer.callbacks+={json.dumps(one)}" for one in more)):
            assert status == expected, said
    return {"straight": straight, "parts": parts}


def _load(run: Path, step: int) -> dict:
    """A checkpoint with the states of all ranks under "rank_states"."""
    found = {checkpoints.step_of(path): path for path in RunFolder(run).checkpoints()}
    return checkpoints.RankCheckpointIO().load_checkpoint(found[step])


def _shared(a: Tensor, b: Tensor) -> int:
    """How many chains of ``a`` are chains of ``b``, bit for bit."""
    return int((a.flatten(1)[:, None] == b.flatten(1)).all(2).any(1).sum())


def test_every_checkpoint_has_a_whole_rank_file_of_each_rank(runs: dict[str, Path]) -> None:
    for run, steps in ((runs["straight"], [4, 8, 12]), (runs["parts"], [6, 8, 12])):
        found = RunFolder(run).checkpoints()
        assert [checkpoints.step_of(path) for path in found] == steps  # the newest three
        for path in found:
            assert [file.name for file in sorted(checkpoints.rank_folder(path).iterdir())] == [
                "00000-of-00002.pt",
                "00001-of-00002.pt",
            ]
            assert checkpoints.is_valid(path)


def test_the_ranks_have_noise_and_chains_of_their_own(runs: dict[str, Path]) -> None:
    """The weights are the same on both ranks, and chains do not see the data: only the noise can tell them apart."""
    for step in (4, 12):
        first, second = _load(runs["straight"], step)["rank_states"]
        for generator in ("torch", "python", "numpy"):
            assert not identical(first["TrainingRandomState"][generator], second["TrainingRandomState"][generator])
        ours, theirs = (shard["BufferCallback"] for shard in (first, second))
        assert ours["seen"] == theirs["seen"] == step * 16
        assert not torch.equal(ours["alive"], theirs["alive"]) or step == 12  # the slots drawn, until all have been
        assert _shared(ours["store.x"][ours["alive"]], theirs["store.x"][theirs["alive"]]) == 0


def test_the_ranks_share_the_data_out(runs: dict[str, Path]) -> None:
    """100 examples make 3 batches of 2 x 16 in a pass: 12 steps are 4 passes."""
    (position,) = _load(runs["straight"], 12)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert position == {"epoch": 3, "samples": 96}


def test_two_ranks_that_were_stopped_end_bit_for_bit_as_if_they_had_not(runs: dict[str, Path]) -> None:
    ours, theirs = _load(runs["parts"], 12), _load(runs["straight"], 12)
    kept = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "rank_states", "global_step")
    for key in kept:
        assert identical(ours[key], theirs[key]), key


def test_two_ranks_test_a_run_as_one_does(runs: dict[str, Path], tmp_path: Path) -> None:
    """With the arguments that Lightning starts further ranks with."""
    run = runs["parts"]
    arguments = ["test", "-c", run / "config.yaml", "--run", run]
    for status, said in ranks(arguments, tmp_path / "logs"):
        assert status == 0, said
    measured = run / "evaluation" / "MMD.json"
    found = json.loads(measured.read_text())["measurements"]
    measured.unlink()
    (one,) = ranks(arguments, tmp_path / "log", 1)
    assert one[0] == 0, one[1]
    assert json.loads(measured.read_text())["measurements"] == found


def test_two_ranks_of_eight_examples_learn_what_one_of_sixteen_does(ebm, tiny: Path, tmp_path: Path) -> None:
    """Chains without noise that start at the data are the same on any number of ranks; so are the gradients, in sum."""
    settings = ("--model.init_args.sampler.init_args.noise=0", "--model.init_args.chains=DataChains")
    settings += ("--model.init_args.optimizer=torch.optim.SGD", "--model.init_args.optimizer.init_args.lr=0.5")
    settings += ("--data.init_args.noise=0", "--trainer.max_steps=3", "--checkpoint.every_n_steps=1")
    one, two = tmp_path / "x" / "one", tmp_path / "x" / "two"
    assert ebm("fit", "-c", tiny, "--run", one, *settings)[0] == 0
    for status, said in _fit(tiny, two, *settings, "--data.init_args.batch_size=8"):
        assert status == 0, said
    ours, theirs, first = (_load(run, step)["current_model_state"] for run, step in ((two, 3), (one, 3), (one, 1)))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    assert max(float((ours[name] - first[name]).abs().max()) for name in ours) > 1e-2, "nothing was learned"


def test_one_rank_takes_over_the_chains_of_two(runs: dict[str, Path], ebm, tiny: Path, tmp_path: Path) -> None:
    """From the checkpoint of step 4, where no rank has used all its slots; in one step 16 of 64 chains move."""
    run = tmp_path / "x" / "one"
    shutil.copytree(runs["straight"], run)
    for path in RunFolder(run).checkpoints()[1:]:
        checkpoints.remove(path)
    shards = [shard["BufferCallback"] for shard in _load(run, 4)["rank_states"]]
    with pytest.warns(UserWarning, match="written by 2 ranks and is continued by 1: the random streams start anew"):
        assert ebm("fit", "-c", tiny, "--run", run, EXCHANGE, "--trainer.max_steps", 5)[0] == 0
    (shard,) = _load(run, 5)["rank_states"]
    alive = [int(shard["alive"].sum()) for shard in shards]
    assert max(alive) < 64 < sum(alive)
    pooled = shard["BufferCallback"]
    assert pooled["alive"].all()
    unmoved = [_shared(pooled["store.x"], old["store.x"][old["alive"]]) for old in shards]
    assert sum(unmoved) == 64 - 16
    assert min(unmoved) > 0


def test_a_rank_file_of_a_rank_that_is_no_more_is_not_taken_for_one_of_the_run(
    runs: dict[str, Path], ebm, tiny: Path, tmp_path: Path
) -> None:
    """Two ranks were killed between the rank files and the main file of step 8; then one rank goes on from step 4."""
    run = tmp_path / "x" / "one"
    shutil.copytree(runs["straight"], run)
    _, killed, last = RunFolder(run).checkpoints()
    killed.unlink()
    checkpoints.remove(last)
    with pytest.warns(UserWarning, match="written by 2 ranks and is continued by 1"):
        assert ebm("fit", "-c", tiny, "--run", run, EXCHANGE, "--trainer.max_steps", 8)[0] == 0
    assert len(_load(run, 8)["rank_states"]) == 1


def test_two_ranks_go_back_together_and_stop_together(tiny: Path, tmp_path: Path) -> None:
    """A learning rate of a million, one rollback allowed: no rank waits for ever for another."""
    run = tmp_path / "x" / "run"
    settings = ("--model.init_args.optimizer.init_args.lr", 1e6, "--guard.rollbacks", 1, "--trainer.max_steps", 4)
    (status, said), (second, _) = _fit(tiny, run, *settings)
    assert (status, second) == (1, 1), said
    assert "ebm: error: training diverged by step 2" in said
    assert "Traceback" not in said
    assert len([event for event in RunFolder(run).events() if event["event"] == "rollback"]) == 1
    assert RunFolder(run).checkpoints() == []
