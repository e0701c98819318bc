"""One seed, one thread, no network, no account: the same numbers wherever the suite runs.

tests/samplers/test_hmc.py tests ebm_lightning/samplers/hmc.py. The name of a test, its class or its file spells the
symbol that it is about, so that ``pytest -k SampleBuffer`` finds what is known of it.
"""

import gc
import os

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from support.lab import Lab
from support.stand_in import StandIn
from support.submission import PYTHON, git

from ebm_lightning.cli.main import main
from ebm_lightning.cluster.slurm import JOB_VARIABLES
from ebm_lightning.reproduction import reproduce

torch.set_num_threads(1)
gc.disable()  # until all tests are imported: there is no garbage yet

LONGEST = ("slurm", "experiments", "compiled", "learning", "sharded", "resume", "guard", "ddp", "wandb")
"""How the names of the files go on, after test_, that take longest: at the end none of them is left to one process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: --no-loadscope-reorder has xdist hand out whole files in the order of their tests."""

    def place(item: pytest.Item) -> int:
        starts = (i for i, name in enumerate(LONGEST) if item.path.stem.startswith(f"test_{name}"))
        return next(starts, len(LONGEST))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # left behind by commands that run in this process


@pytest.fixture
def ebm(tmp_path, monkeypatch, capsys):
    """Runs `ebm` in this process, with its runs below tmp_path; returns (exit status, standard output and error)."""
    monkeypatch.setenv("EBM_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("EBM_DEBUG", raising=False)

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["ebm"])
        try:
            main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = capsys.readouterr()
        return status, said.out + said.err

    return call


@pytest.fixture
def tiny() -> Path:
    """A complete configuration that takes 12 steps in a second: SGLD, a buffer, EMA and a schedule."""
    return Path(__file__).parent / "support" / "tiny.yaml"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A stand-in for SLURM on PATH; this process is in no job."""
    for key in [key for key in os.environ if JOB_VARIABLES.match(key)]:
        monkeypatch.delenv(key)
    made = StandIn(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    return made


@pytest.fixture
def python(slurm: StandIn) -> Path:
    """An interpreter that writes down what it would run; it may ask to be requeued, or fail."""
    return slurm.write("python", PYTHON)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository, the working directory, with experiments/paper/net.yaml and a profile that runs no Python."""
    place = tmp_path / "checkout"
    (place / "experiments" / "paper").mkdir(parents=True)
    (place / "experiments" / "paper" / "net.yaml").write_text("seed_everything: 3\nmodel: {steps: 5}\n")
    (place / "code.py").write_text("old = 1\n")
    git(place, "init", "-q")
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "first")
    monkeypatch.chdir(place)
    monkeypatch.setenv("EBM_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("EBM_DATA", raising=False)
    return place


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Stands for what `ebm reproduce` would train and test."""
    made = Lab(tmp_path / "runs")
    monkeypatch.setattr(reproduce, "_ebm", made)
    monkeypatch.setattr(reproduce, "environment", lambda: made.now)
    return made
