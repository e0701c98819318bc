"""A signal that comes before training has begun."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from ebm_lightning.runs.folder import RunFolder


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_run_that_is_stopped_before_it_can_save_asks_to_be_started_again(number: int, tmp_path: Path) -> None:
    """In a process of its own, which hands the signals back to whom they belonged to once it is over."""
    code = f"""
import os, signal
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.preemption import exit_on_preemption
signal.signal({number}, signal.SIG_IGN)
with exit_on_preemption(RunFolder("run")):
    pass
os.kill(os.getpid(), {number})
with exit_on_preemption(RunFolder("run")):
    os.kill(os.getpid(), {number})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 75
    assert RunFolder(tmp_path / "run").requeue_file.exists()
