"""What is defined outside the package, one file each, works as what is inside: it trains, continues and is measured."""

from pathlib import Path

import pytest
import torch
from support import TESTS
from support.oracles import identical

from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.training.callbacks.checkpoint import RunCheckpoint


@pytest.fixture(autouse=True)
def _extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS / "support" / "extensions"))


class PowerCut(RuntimeError):
    pass


def _final(run: Path) -> tuple[dict, dict]:
    newest = RunFolder(run).checkpoints()[-1]
    shard = torch.load(checkpoints.side_file(newest, 0, 1), weights_only=True)
    return torch.load(newest, weights_only=True)["state_dict"], shard


def _stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    save = RunCheckpoint.on_train_batch_end

    def hook(self, trainer, *rest):
        if trainer.global_step == step:
            raise PowerCut
        save(self, trainer, *rest)

    monkeypatch.setattr(RunCheckpoint, "on_train_batch_end", hook)


@pytest.mark.parametrize(
    "parts",
    [
        ("--model.init_args.chains=my_chains.ChainQueue", "--model.init_args.chains.init_args.size=40"),
        ("--model.init_args.sampler=my_adaptive_sampler.AdaptedLangevin", "--model.init_args.sampler.step_size=0.01"),
        (
            *("--model.init_args.chains=my_chains.ChainQueue", "--model.init_args.chains.init_args.size=40"),
            "--model.init_args.sampler=my_adaptive_sampler.AdaptedLangevin",
            "--model.init_args.sampler.init_args.step_size=0.01",
        ),
    ],
    ids=["Chains", "AdaptiveSampler", "both"],
)
def test_a_run_with_outside_state_continues_bit_for_bit(parts, ebm, tiny: Path, tmp_path: Path, monkeypatch) -> None:
    straight, cut = tmp_path / "x" / "straight", tmp_path / "x" / "cut"
    status, said = ebm("fit", "-c", tiny, "--run", straight, *parts)
    assert status == 0, said
    for step in (3, 7, 10):
        with monkeypatch.context() as patch:
            _stop_at(patch, step)
            with pytest.raises(PowerCut):
                ebm("fit", "-c", tiny, "--run", cut, *parts)
    assert ebm("fit", "-c", tiny, "--run", cut, *parts)[0] == 0
    (weights, shard), (others, other_shard) = _final(straight), _final(cut)
    assert identical(weights, others)
    assert identical(shard, other_shard)
    assert any("BufferCallback" in key or "SamplerState" in key for key, state in shard.items() if state)
