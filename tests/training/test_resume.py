"""A run that was interrupted ends with the weights of one that was not, bit for bit."""

import os
import signal
import time
from pathlib import Path

import lightning.pytorch as L
import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from support.continued import KEPT, PowerCut, cut_at, ending
from support.forked import LIMIT_S, Forked
from support.oracles import identical

from ebm_lightning import EBM, SampleBuffer, Trainer
from ebm_lightning.data import Toy2D
from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import MLP
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.samplers import Langevin

PERSISTENT = ()


FIFO_UINT8 = (
    "--model.init_args.chains.init_args.replacement=FIFO",
    "--model.init_args.chains.init_args.storage=Uint8Storage",
    "--model.init_args.chains.init_args.keep=[y]",
)


SHORT_RUN = ("--model.init_args.chains=NoiseChains",)


@pytest.mark.parametrize("variant", [PERSISTENT, FIFO_UINT8, SHORT_RUN], ids=["persistent", "fifo", "short-run"])
def test_a_run_cut_at_any_step_ends_bit_for_bit_as_if_nothing_had_happened(
    variant, ebm, tiny: Path, tmp_path: Path, monkeypatch
) -> None:
    straight, cut = tmp_path / "x" / "straight", tmp_path / "x" / "cut"
    assert ebm("fit", "-c", tiny, "--run", straight, *variant)[0] == 0
    for step in (3, 8, 11):  # before the first checkpoint, at one, and between two after the schedule moved
        with monkeypatch.context() as patch:
            cut_at(patch, step)
            with pytest.raises(PowerCut):
                ebm("fit", "-c", tiny, "--run", cut, *variant)
    assert ebm("fit", "-c", tiny, "--run", cut, *variant)[0] == 0
    ours, theirs = ending(cut), ending(straight)
    for key in KEPT:
        assert identical(ours[key], theirs[key]), key
    starts = [event for event in RunFolder(cut).events() if event["event"] == "start"]
    assert len(starts) == 4
    assert RunFolder(cut).id != RunFolder(straight).id


def test_more_steps_continue_a_finished_run(ebm, tiny: Path, tmp_path: Path) -> None:
    longer, twice = tmp_path / "x" / "longer", tmp_path / "x" / "twice"
    assert ebm("fit", "-c", tiny, "--run", longer)[0] == 0
    assert ebm("fit", "-c", tiny, "--run", twice, "--trainer.max_steps", 7)[0] == 0
    assert ebm("fit", "-c", tiny, "--run", twice)[0] == 0
    assert all(identical(ending(longer)[key], ending(twice)[key]) for key in KEPT)
    status, said = ebm("fit", "-c", tiny, "--run", twice)
    assert status == 0
    assert "this run is complete: 12 of 12 steps" in said


@pytest.mark.parametrize("lost", ["half of the file", "the rank file"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(lost: str, ebm, tiny: Path, tmp_path: Path) -> None:
    straight, damaged = tmp_path / "x" / "straight", tmp_path / "x" / "damaged"
    assert ebm("fit", "-c", tiny, "--run", straight)[0] == 0
    assert ebm("fit", "-c", tiny, "--run", damaged, "--trainer.max_steps", 8)[0] == 0
    newest = RunFolder(damaged).checkpoints()[-1]
    if lost == "the rank file":
        checkpoints.rank_file(newest, 0, 1).unlink()
    else:
        newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    with pytest.warns(UserWarning, match="is damaged and skipped"):
        assert ebm("fit", "-c", tiny, "--run", damaged)[0] == 0
    assert all(identical(ending(straight)[key], ending(damaged)[key]) for key in KEPT)


def test_another_trainer_says_that_its_checkpoints_leave_out_the_chains() -> None:
    data = Toy2D("moons", batch_size=8, samples=64, test_size=8)
    module = EBM(DeepEnergy(MLP(2, [4])), ContrastiveDivergence(), Langevin(0.01), chains=SampleBuffer(16))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    other = L.Trainer(max_steps=1, enable_checkpointing=False, limit_val_batches=0, **quiet)
    with pytest.warns(UserWarning, match="leave out the state of BufferCallback: use ebm_lightning.Trainer"):
        other.fit(module, data)


def test_kill_minus_nine_and_the_same_command_again(ebm, tmp_path: Path, tiny: Path) -> None:
    """A real process, killed between two checkpoints."""
    straight, killed = RunFolder(tmp_path / "x" / "straight"), RunFolder(tmp_path / "x" / "killed")
    command = ["fit", "-c", tiny, "--trainer.max_steps", 120, "--checkpoint.every_n_steps", 20]
    command += ["--samples.every_n_steps", 0]
    process = Forked([*command, "--run", killed.path], tmp_path / "log")
    for _ in range(LIMIT_S * 20):
        if any(event["event"] == "checkpoint" for event in killed.events()):
            break
        time.sleep(0.05)
    process.kill()
    process.end()
    assert 0 < checkpoints.step_of(killed.checkpoints()[-1]) < 120
    for run in (straight, killed):
        assert ebm(*command, "--run", run.path)[0] == 0
    assert all(identical(ending(straight.path)[key], ending(killed.path)[key]) for key in KEPT)


def test_a_run_that_is_asked_to_make_room_saves_says_so_and_goes_on(
    ebm, tiny: Path, tmp_path: Path, monkeypatch
) -> None:
    """The signal comes within the sampler of step 6, between checkpoints and validations, and of step 10, where
    validation is due: the weights and the validation rows are those of a run that was left alone."""
    straight, asked = RunFolder(tmp_path / "x" / "straight"), RunFolder(tmp_path / "x" / "asked")
    quiet = ("--samples.every_n_steps", "0")
    assert ebm("fit", "-c", tiny, "--run", straight.path, *quiet)[0] == 0
    signals = {6: signal.SIGUSR1, 10: signal.SIGTERM}
    negatives, handlers = EBM.run_negative_chains, {number: signal.getsignal(number) for number in signals.values()}

    def interrupted(module, *arguments):
        if module.training and module.global_step + 1 in signals:
            os.kill(os.getpid(), signals[module.global_step + 1])
        return negatives(module, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(EBM, "run_negative_chains", interrupted)
        for step, number in signals.items():
            status, said = ebm("fit", "-c", tiny, "--run", asked.path, *quiet)
            assert status == 75, said
            assert f"stopped by {number.name} at step {step}: the same command continues" in said
            assert asked.requeue_file.exists()
            assert checkpoints.step_of(asked.checkpoints()[-1]) == step
            assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert ebm("fit", "-c", tiny, "--run", asked.path, *quiet)[0] == 0
    assert not asked.requeue_file.exists()
    for key in KEPT:
        assert identical(ending(asked.path)[key], ending(straight.path)[key]), key
    rows = [run.metrics() for run in (asked, straight)]
    assert rows[0].keys() == rows[1].keys()
    assert rows[0]["val/energy_data"] == rows[1]["val/energy_data"]
    assert rows[0]["train/loss"] == rows[1]["train/loss"]


def test_in_a_job_of_slurm_lightning_requeues_nothing_itself(monkeypatch, tmp_path: Path) -> None:
    """Its handler saves inside of a step, where ranks wait for one another; its own plugin can still be given."""
    job = {"NTASKS": "1", "JOB_NAME": "job", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in {**job, "NODELIST": "n1", "NTASKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    settings = {"max_steps": 1, "accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path, "logger": False}
    for plugins, requeues in ((None, False), ([SLURMEnvironment()], True)):
        trainer = Trainer(**settings, plugins=plugins)
        environment = trainer._accelerator_connector.cluster_environment
        assert isinstance(environment, SLURMEnvironment)
        assert environment.auto_requeue == requeues


def test_a_job_of_one_task_starts_its_other_ranks_itself(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_NAME", "job")
    settings = {"max_steps": 1, "accelerator": "cpu", "devices": 2, "default_root_dir": tmp_path, "logger": False}
    for tasks, kind in (("1", LightningEnvironment), ("2", SLURMEnvironment)):
        monkeypatch.setenv("SLURM_NTASKS", tasks)
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", tasks)
        for name in ("PROCID", "LOCALID", "NODEID"):
            monkeypatch.setenv(f"SLURM_{name}", "0")
        assert isinstance(Trainer(**settings)._accelerator_connector.cluster_environment, kind)
