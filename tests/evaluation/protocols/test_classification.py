"""The errors measured, against the Bayes rule and the model's own conditional; runs from the command line."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from scipy import stats
from support.boltzmann import rbm_per_class
from support.labels import NO_LABELS, Labels
from support.oracles import FALSE_ALARM, identical
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.core import Conditional, EnergyModel, State
from ebm_lightning.distributions import CategoricalConditional
from ebm_lightning.energies import Gaussian, PerClass
from ebm_lightning.evaluation import ClassificationError, Measurement, ScoreClassifier
from ebm_lightning.evaluation.protocols.classification import percent_wrong
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder

DIGITS_RUN = """
seed_everything: 3
trainer: {max_steps: 12, accelerator: cpu, devices: 1, log_every_n_steps: 1, enable_progress_bar: false}
data:
  class_path: Digits
  init_args: {batch_size: 100, pixels: {class_path: Threshold}}
samples: {every_n_steps: 0, num_chains: 10, steps: 2}
"""
"""Twelve steps on digits in black and white; a model and protocols are to be added."""


CLASSIFICATION_RBM = (
    DIGITS_RUN
    + """
model:
  class_path: EBM
  init_args:
    model:
      class_path: RBM
      init_args:
        visible:
          x: {class_path: ebm_lightning.energies.boltzmann.units.Bernoulli, init_args: {shape: [1, 8, 8]}}
          y: {class_path: ebm_lightning.energies.boltzmann.units.Softmax, init_args: {classes: 10}}
        hidden: 30
        weight_std: 0.3
    objective:
      class_path: Sum
      init_args:
        parts:
          generative: {class_path: ContrastiveDivergence}
          discriminative: {class_path: Classification}
          sparse: {class_path: Sparsity, init_args: {target: 0.1, cost: 0.01}}
        weights: {generative: 0.1}
    sampler: {class_path: Gibbs, init_args: {free: [h, x]}}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.05}}
checkpoint: {every_n_steps: 4}
evaluation:
  - class_path: ClassificationError
  - {class_path: ReceptiveFields, init_args: {num_filters: 9}}
"""
)


PER_CLASS = (
    DIGITS_RUN
    + """
model:
  class_path: EBM
  init_args:
    model:
      class_path: PerClass
      init_args:
        model:
          class_path: RBM
          init_args:
            visible:
              x: {class_path: ebm_lightning.energies.boltzmann.units.Bernoulli, init_args: {shape: [1, 8, 8]}}
            hidden: 4
        classes: 10
    objective: {class_path: ContrastiveDivergence}
    sampler: {class_path: Gibbs, init_args: {free: [h, x]}}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
evaluation:
  - {class_path: ScoreClassifier, init_args: {num_examples: 500}}
  - {class_path: ReceptiveFields, init_args: {num_filters: 3, groups: 10}}
"""
)


def _record(run: Path, protocol: str) -> dict[str, dict[str, float]]:
    return yaml.safe_load((run / "evaluation" / f"{protocol}.json").read_text())["measurements"]


def _configured(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


def _trained_and_tested(ebm: Callable[..., tuple[int, str]], tmp_path: Path, text: str) -> Path:
    """The run of a configuration, after `ebm fit` and `ebm test`."""
    config, run = _configured(tmp_path, text), tmp_path / "x" / "run"
    for command in (("fit", "-c", config, "--run", run), ("test", run)):
        status, said = ebm(*command)
        assert status == 0, said
    return run


def test_a_classification_rbm_is_trained_measured_and_drawn_from_the_command_line(ebm, tmp_path: Path) -> None:
    """12 steps of Adam are enough to tell most of the ten digits apart: chance is 90 % wrong."""
    run = _trained_and_tested(ebm, tmp_path, CLASSIFICATION_RBM)
    found = _record(run, "ClassificationError")
    test = found["test_error_percent"]
    share = test["value"] / 100
    assert share < 0.5
    assert test["standard_error"] == pytest.approx(100 * math.sqrt(share * (1 - share) / 297))
    assert found["training_error_percent"]["value"] < 50
    assert (run / "evaluation" / "ReceptiveFields-x.png").is_file()


def test_a_run_with_a_sparsity_penalty_continues_bit_for_bit(ebm, tmp_path: Path) -> None:
    """Cut between two checkpoints, so that step 5 is the last that survives; the activity is part of it."""
    config = _configured(tmp_path, CLASSIFICATION_RBM)
    straight, cut = tmp_path / "x" / "straight", tmp_path / "x" / "cut"
    assert ebm("fit", "-c", config, "--run", straight)[0] == 0
    assert ebm("fit", "-c", config, "--run", cut, "--trainer.max_steps", 5)[0] == 0
    assert ebm("fit", "-c", config, "--run", cut)[0] == 0
    ours, theirs = (checkpoints.load(RunFolder(run).checkpoints()[-1])["state_dict"] for run in (cut, straight))
    activity = [value["q"] for name, value in theirs.items() if name.endswith("_extra_state")]
    assert [len(q) for q in activity] == [30]
    assert identical(dict(ours), dict(theirs))


def test_one_model_for_each_class_is_trained_and_measured_from_the_command_line(ebm, tmp_path: Path) -> None:
    run = _trained_and_tested(ebm, tmp_path, PER_CLASS)
    found = _record(run, "ScoreClassifier")
    assert found.keys() == {"test_error_percent", "fitted_error_percent", "test_error_without_log_z_percent"}
    assert found["test_error_percent"]["value"] < 50


class Shifted(EnergyModel):
    """E_c(x) = (x - m_c)^2 / 2 + log_z_c in one dimension: normal classes, each off by a constant of its own."""

    def __init__(self, means: list[float], log_z: list[float]) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor(means))
        self.register_buffer("log_z", torch.tensor(log_z))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x[:, 0] - self.means[y]).square() / 2 + self.log_z[y]

    def conditional(self, block: str, state: State) -> Conditional:
        assert "y" not in state, "the label must not be seen"
        return CategoricalConditional(self.log_z - (state["x"] - self.means).square() / 2)


def test_ScoreClassifier_of_scores_off_by_constants_errs_as_the_bayes_rule() -> None:
    """Means -1 and 1: the least error is Phi(-1) = 15.87 %. The raw scores take every example for the first class.

    The regression's boundary is off by O(1 / sqrt(n)), which costs O(1 / n): far below the standard error.
    """
    y = torch.randint(0, 2, (12_000,))
    data = Labels(2.0 * y[:, None] - 1 + torch.randn(12_000, 1), y)
    module = EBM(Shifted([-1.0, 1.0], [0.0, 50.0]), ContrastiveDivergence())
    found = ScoreClassifier().measure(module, data).measurements
    test, raw = found["test_error_percent"], found["test_error_without_log_z_percent"]
    z = float(stats.norm.isf(FALSE_ALARM / 2))
    assert abs(test.value - 100 * stats.norm.cdf(-1)) < z * test.standard_error
    assert raw.value == pytest.approx(100 * float(y[6000:].double().mean()))
    few = ScoreClassifier(num_examples=50).measure(module, data).measurements
    assert few["fitted_error_percent"].standard_error > 5 * found["fitted_error_percent"].standard_error


def test_ClassificationError_is_that_of_the_models_own_conditional() -> None:
    """With the constants as log p(c) the rule is a threshold: wrong below it in class 1, above it in class 0."""
    y = torch.randint(0, 2, (2000,))
    x = 2.0 * y[:, None] - 1 + torch.randn(2000, 1)
    found = ClassificationError().measure(EBM(Shifted([-1.0, 1.0], [1.0, 0.0]), ContrastiveDivergence()), Labels(x, y))
    wrong = (x[:, 0] > 0.5) != (y == 1)  # -(x + 1)^2 / 2 + 1 < -(x - 1)^2 / 2 where 2 x > 1
    for name, part in (("training", wrong[:1000]), ("test", wrong[1000:])):
        measured = found.measurements[f"{name}_error_percent"]
        share = float(part.double().mean())
        assert measured.value == pytest.approx(100 * share)
        assert measured.standard_error == pytest.approx(100 * math.sqrt(share * (1 - share) / 1000))


def test_ClassificationError_judges_no_examples_of_unknown_label() -> None:
    y = torch.randint(0, 2, (2000,))
    x = 2.0 * y[:, None] - 1 + torch.randn(2000, 1)
    known = torch.arange(2000) % 3 == 0
    module = EBM(Shifted([-1.0, 1.0], [1.0, 0.0]), ContrastiveDivergence())
    hidden = ClassificationError().measure(module, Labels(x, torch.where(known, y, -1))).measurements
    wrong = ((x[:, 0] > 0.5) != (y == 1))[:1000][known[:1000]]
    assert hidden["training_error_percent"].value == pytest.approx(100 * float(wrong.double().mean()))


def test_percent_wrong_at_its_ends() -> None:
    labels = torch.tensor([0, 1, 1, 2])
    assert percent_wrong(labels, labels) == Measurement(0.0, 0.0)
    assert percent_wrong(labels, torch.tensor([0, 1, 2, 2])).value == 25.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ScoreClassifier(num_examples=0), "expected num_examples >= 1, or null for all"),
        (
            lambda: ScoreClassifier().measure(EBM(rbm_per_class(), ContrastiveDivergence()), NO_LABELS),
            r"needs labels 'y', but Labels has only \['x'\]",
        ),
        (
            lambda: ClassificationError().measure(
                EBM(PerClass(Gaussian([0.0], [1.0]), 2), ContrastiveDivergence()),
                Labels(torch.zeros(8, 1), torch.zeros(8, dtype=torch.int64)),
            ),
            "classify by the protocol ScoreClassifier",
        ),
    ],
)
def test_ScoreClassifier_and_ClassificationError_refuse_what_cannot_work_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
