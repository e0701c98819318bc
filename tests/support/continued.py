"""Runs that are cut, and what they end with."""

from pathlib import Path

import pytest
import torch

from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.training.callbacks.checkpoint import RunCheckpoint


class PowerCut(RuntimeError):
    """Ends a run as nothing foresees."""


def newest_checkpoint(run: Path) -> tuple[dict, dict]:
    """What the newest checkpoint of a run has, and what it has of rank 0 alone."""
    newest = RunFolder(run).checkpoints()[-1]
    rank_state = torch.load(checkpoints.rank_file(newest, 0, 1), weights_only=True)
    return torch.load(newest, weights_only=True), rank_state


def ending(run: Path) -> dict:
    """The newest checkpoint of a run, with its chains under "rank_state"."""
    content, rank_state = newest_checkpoint(run)
    content["rank_state"] = {key: value for key, value in rank_state.items() if "Buffer" in key}
    return content


KEPT = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "rank_state", "global_step")
"""Weights, their average, optimizer, schedule, chains: all that a run is at its end."""


def cut_at(monkeypatch: pytest.MonkeyPatch, step: int | None) -> None:
    """Cuts the runs of this process after a step, before its checkpoint is written."""
    whole = RunCheckpoint.on_train_batch_end

    def hook(self, trainer, *rest):
        if trainer.global_step == step:
            raise PowerCut
        whole(self, trainer, *rest)

    monkeypatch.setattr(RunCheckpoint, "on_train_batch_end", hook)
