"""The likelihood that is monitored while a run trains, and its measurement after the run."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.annealed import wavy_rbm
from support.likelihood_run import likelihood_config, refuse_constant
from support.oracles import Z, identical

from ebm_lightning.data import Digits, FixedBinarization
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.evaluation.metrics import AIS, Exact, Linear, exact_pseudo_log_likelihood
from ebm_lightning.evaluation.metrics.partition import free_energies
from ebm_lightning.evaluation.monitors import likelihood as monitor_module
from ebm_lightning.evaluation.monitors.likelihood import LikelihoodMonitor
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.random import isolated, mix


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: LikelihoodMonitor(Exact(), first=0), "first=0"),
        (lambda path: LikelihoodMonitor(Exact(), every_n_steps=0), "every_n_steps=0"),
    ],
)
def test_LikelihoodMonitor_what_cannot_work_is_refused_with_a_message(
    call: Callable[[Any], object], words: str
) -> None:
    path = wavy_rbm().annealing_path()
    with pytest.raises(ValueError, match=words):
        call(path)


def _rows(run: Path) -> dict[str, dict[int, float]]:
    """What the monitor wrote: name, step, value."""
    found: dict[str, dict[int, float]] = {}
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            _, _, name = row["name"].partition("likelihood/")
            if name:
                assert int(row["step"]) not in found.setdefault(name, {}), "each row once"
                found[name][int(row["step"])] = float(row["value"])
    return found


def _trained(run: Path, step: int) -> tuple[RBM, dict[str, Any]]:
    """The machine of a checkpoint, and the checkpoint."""
    content = torch.load(RunFolder(run).checkpoint(step), weights_only=True)
    model = RBM({"x": Bernoulli([1, 8, 8])}, 6)
    model.load_state_dict({name.removeprefix("model."): value for name, value in content["state_dict"].items()})
    return model, content


def test_LikelihoodMonitor_run_its_continuation_and_its_test(ebm, tmp_path: Path) -> None:
    """Rows at doubling steps and the last one; seconds that go on; the same weights without it; then `ebm test`."""
    config, run, bare = likelihood_config(tmp_path), tmp_path / "x" / "run", tmp_path / "x" / "bare"
    assert ebm("fit", "-c", config, "--run", run)[0] == 0
    rows = _rows(run)
    names = {"test_log_prob", "log_z", "log_w_std", "ess", "train_seconds"}
    assert rows.keys() == names
    assert all(list(rows[name]) == [0, 1, 2, 4, 8, 12] for name in names)
    seconds = rows["train_seconds"]
    assert seconds[0] == 0
    assert list(seconds.values()) == sorted(seconds.values())

    model, content = _trained(run, 12)
    (kept,) = (state for key, state in content["callbacks"].items() if "LikelihoodMonitor" in key)
    assert kept == {"train_seconds": seconds[12]}
    data = Digits(50, pixels=FixedBinarization(4))
    with isolated(mix(12, 0)):
        estimate = AIS(Linear(20), 20)(model, data.eval_loader("train"))
    assert rows["log_z"][12] == estimate.log_z
    assert (rows["log_w_std"][12], rows["ess"][12]) == (estimate.log_weight_std, estimate.ess)
    expected = -float(free_energies(model, data.eval_loader("test"), 50).mean()) - estimate.log_z
    assert rows["test_log_prob"][12] == expected
    few = data.tensors("test")["x"][:50]
    assert expected + estimate.log_z == pytest.approx(-float(model(x=few).detach().double().mean()), rel=1e-6)

    assert ebm("fit", "-c", config, "--run", run, "--trainer.max_steps", 24)[0] == 0
    rows = _rows(run)
    assert list(rows["log_z"]) == [0, 1, 2, 4, 8, 12, 16, 24]
    assert seconds[12] < rows["train_seconds"][16] < rows["train_seconds"][24]
    assert rows["train_seconds"][16] - seconds[12] > 0

    (tmp_path / "bare").mkdir()
    plain = likelihood_config(tmp_path / "bare", callbacks=[])
    assert ebm("fit", "-c", plain, "--run", bare)[0] == 0
    assert identical(_trained(bare, 12)[1]["state_dict"], content["state_dict"])

    status, said = ebm("test", run)
    assert status == 0
    _check_test(run, said, data)


ROUNDING = 64 * 2**-23
"""Of energies below 64 in float32."""


def _check_test(run: Path, said: str, data: Digits) -> None:
    record = json.loads((run / "evaluation" / "Likelihood.json").read_text(), parse_constant=refuse_constant)
    assert record["preprocessing"] == "FixedBinarization(seed=4)"
    found = record["measurements"]
    assert list(found) == [
        "log_z_ais",
        "log_z_exact",
        "log_z_difference",
        "log_weight_std",
        "ess",
        "test_log_prob_nats",
        "train_log_prob_nats",
        "free_energy_gap_nats",
        "test_pseudo_log_likelihood_nats",
        "raise_log_prob_nats",
    ]
    model, _ = _trained(run, 24)
    exact = float(model.log_partition())
    expected = {"value": exact, "standard_error": 0.0, "interval": None, "warning": "", "label": "log Z exact"}
    assert found["log_z_exact"] == expected
    log_z, difference = found["log_z_ais"], found["log_z_difference"]
    assert log_z["interval"][0] < log_z["value"] < log_z["interval"][1]
    assert difference["value"] == log_z["value"] - exact
    assert abs(difference["value"]) < Z * difference["standard_error"] < 0.5
    with torch.no_grad():
        energy = {split: model(x=data.tensors(split)["x"]).double() for split in ("train", "val", "test")}
    for split in ("test", "train"):
        one, e = found[f"{split}_log_prob_nats"], energy[split]
        assert one["value"] == pytest.approx(-float(e.mean()) - log_z["value"], abs=ROUNDING)
        assert one["standard_error"] == pytest.approx(float(e.std()) / math.sqrt(len(e)), abs=ROUNDING)
        ends = [-float(e.mean()) - end for end in reversed(log_z["interval"])]
        assert one["interval"] == pytest.approx(ends, abs=ROUNDING)
    gap = float(energy["train"][: len(energy["val"])].mean() - energy["val"].mean())
    assert found["free_energy_gap_nats"]["value"] == pytest.approx(gap, abs=ROUNDING)
    pseudo = exact_pseudo_log_likelihood(model, "x", data.tensors("test")).mean()
    one = found["test_pseudo_log_likelihood_nats"]
    assert abs(one["value"] - pseudo) < Z * one["standard_error"]
    one, truth = found["raise_log_prob_nats"], -float(energy["test"].mean()) - exact
    assert abs(one["value"] - truth) < Z * one["standard_error"]
    assert "under FixedBinarization(seed=4)" in said
    assert "warning" not in said


def test_LikelihoodMonitor_seconds_are_those_of_the_batches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which a batch takes 2 and an estimate 100."""
    clock = [0.0]
    monkeypatch.setattr(monitor_module.time, "perf_counter", lambda: clock[0])
    monitor = LikelihoodMonitor(Exact(), every_n_steps=2)
    trainer = SimpleNamespace(global_step=0, max_steps=5, loggers=[])
    measured = []

    def measure(trainer: Any, module: EBM) -> None:
        measured.append((trainer.global_step, monitor.train_seconds))
        monitor._measured_at = trainer.global_step
        clock[0] += 100

    monkeypatch.setattr(monitor, "measure", measure)
    module = EBM(wavy_rbm(), ContrastiveDivergence())
    for step in range(1, 6):
        monitor.on_train_batch_start(trainer, module, None, 0)
        clock[0] += 2
        trainer.global_step = step
        monitor.on_train_batch_end(trainer, module, None, None, 0)
        clock[0] += 30
    monitor.on_train_end(trainer, module)
    assert measured == [(2, 4), (4, 8), (5, 10)]
    trainer.global_step = 7
    monitor.on_train_end(trainer, module)
    assert measured[-1] == (7, 10), "a run that ends early is measured where it ends"
