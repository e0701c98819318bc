"""Which data and units have a log-probability, and its measurement by two processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.annealed import wavy_rbm
from support.forked import ranks
from support.likelihood_run import likelihood_config
from support.oracles import Z

from ebm_lightning.data import BarsAndStripes, Digits, FixedBinarization, Toy2D
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Gaussian
from ebm_lightning.evaluation import Likelihood
from ebm_lightning.evaluation.metrics import Exact
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.training.module import EBM


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: Likelihood(Exact(), num_raise_examples=3), "an AIS as `estimator` or `compare`"),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(call: Callable[[Any], object], words: str) -> None:
    path = wavy_rbm().annealing_path()
    with pytest.raises(ValueError, match=words):
        call(path)


def test_gray_levels_have_no_log_probability_and_both_say_so_in_one_sentence(ebm, tmp_path: Path) -> None:
    """A machine that takes gray levels as probabilities trains, but is neither monitored nor measured."""
    monitored = yaml.safe_load(likelihood_config(tmp_path).read_text())
    monitored["data"]["init_args"]["pixels"] = {"class_path": "Gray"}
    visible = monitored["model"]["init_args"]["model"]["init_args"]["visible"]["x"]["init_args"]
    visible["probabilities"] = True
    file, run = tmp_path / "run.yaml", tmp_path / "x" / "run"
    file.write_text(yaml.safe_dump(monitored))
    sentence = (
        "ebm: error: no log-probability is defined for gray values of binary units ('x'): expected data under "
        "DynamicBinarization, FixedBinarization or Threshold, got Gray()"
    )
    status, said = ebm("fit", "-c", file, "--run", tmp_path / "x" / "monitored")
    assert status == 1
    assert sentence in said
    assert "Traceback" not in said
    monitored["trainer"] |= {"callbacks": [], "max_steps": 1}
    file.write_text(yaml.safe_dump(monitored))
    assert ebm("fit", "-c", file, "--run", run)[0] == 0
    status, said = ebm("test", run)
    assert status == 1
    assert sentence in said
    assert not (run / "evaluation").exists()


def test_real_valued_units_may_have_gray_levels_and_have_no_pseudo_likelihood() -> None:
    module = EBM(RBM({"x": Gaussian([1, 8, 8])}, 3), ContrastiveDivergence())
    found = Likelihood(Exact(), train=False).measure(module, Digits(50, val_size=0)).measurements
    assert found.keys() == {"log_z", "test_log_prob_nats", "free_energy_gap_nats"}
    assert found["test_log_prob_nats"].interval is None


def test_Likelihood_is_under_the_preprocessing_that_the_data_name() -> None:
    assert (Digits().preprocessing, Digits().binary) == ("Gray()", False)
    fixed = Digits(pixels=FixedBinarization(2), val_size=100)
    assert (fixed.preprocessing, fixed.binary) == ("FixedBinarization(seed=2)", True)
    assert (BarsAndStripes().preprocessing, BarsAndStripes().binary) == ("binary", True)
    assert (Toy2D("moons").preprocessing, Toy2D("moons").binary) == (None, None)
    assert [fixed.size(split) for split in ("train", "val", "test")] == [1400, 100, 297]


def test_two_ranks_measure_together_and_one_writes(ebm, tmp_path: Path) -> None:
    """60 chains on two ranks: the effective sample size exceeds what either of them has."""
    config, run = likelihood_config(tmp_path, callbacks=[], max_steps=2), tmp_path / "x" / "run"
    assert ebm("fit", "-c", config, "--run", run)[0] == 0
    statuses, said = zip(*ranks(["test", run], tmp_path / "logs"), strict=True)
    assert statuses == (0, 0), "\n".join(said)
    assert "log-probability test" in said[0]
    assert "log-probability test" not in said[1]
    found = json.loads((run / "evaluation" / "Likelihood.json").read_text())["measurements"]
    assert 40 < found["ess"]["value"] <= 60
    difference = found["log_z_difference"]
    assert abs(difference["value"]) < Z * difference["standard_error"] < 0.5
