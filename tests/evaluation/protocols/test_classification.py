"""Labels: one model for each class, the discriminative objective, sparse hidden units, and the errors measured."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from support.oracles import FALSE_ALARM, bits, identical, perturbed
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.core import Conditional, EnergyModel, Objective, State, Terms
from ebm_lightning.data.base import DataModule, Subset
from ebm_lightning.data.sources import InMemory
from ebm_lightning.distributions import CategoricalConditional
from ebm_lightning.energies import RBM, DeepEnergy, Gaussian, PerClass, StudentTPoE
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax
from ebm_lightning.energies.networks import MLP
from ebm_lightning.evaluation import ClassificationError, Measurement, ReceptiveFields, ScoreClassifier
from ebm_lightning.evaluation.protocols.classification import percent_wrong
from ebm_lightning.objectives import Classification, ContrastiveDivergence, Sparsity, Sum
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.samplers import Gibbs

F64 = torch.float64


def _rbm(visible: int = 4, hidden: int = 3, **settings: object) -> RBM:
    return RBM({"x": Bernoulli([visible])}, hidden, weight_std=1.0, **settings)


def _per_class(classes: int = 3, **settings: object) -> PerClass:
    """One RBM for each class, every parameter moved apart."""
    model = perturbed(PerClass(_rbm(**settings), classes))
    assert isinstance(model, PerClass)
    return model


def _labeled_rbm() -> RBM:
    model = perturbed(RBM({"x": Bernoulli([4]), "y": Softmax(3)}, 3, weight_std=1.0))
    assert isinstance(model, RBM)
    return model


def _gradients(model: EnergyModel, loss: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return dict(zip([name for name, _ in model.named_parameters()], found, strict=True))


def _state(n: int = 9, classes: int = 3) -> State:
    """Binary x and h, and labels out of order of which every class has at least one."""
    return {
        "x": torch.randint(0, 2, (n, 4)).double(),
        "h": torch.randint(0, 2, (n, 3)).double(),
        "y": torch.cat([torch.arange(classes).flip(0), torch.randint(0, classes, (n - classes,))]),
    }


class TestPerClass:
    def test_every_example_has_the_energy_of_the_model_of_its_class(self) -> None:
        model, state = _per_class(), _state()
        every = torch.stack([model.of_class(c).energy(state) for c in range(3)], 1)
        torch.testing.assert_close(model.energy(state), every.gather(1, state["y"][:, None])[:, 0])
        torch.testing.assert_close(model.scores({"x": state["x"]}), -every)
        assert model.variables == ("x", "y")

    def test_conditionals_are_those_of_the_classes_in_the_order_of_the_rows(self) -> None:
        model, state = _per_class(), _state()
        for block in ("h", "x"):
            ours = model.conditional(block, state)
            for i, label in enumerate(state["y"].tolist()):
                row = {name: value[i : i + 1] for name, value in state.items()}
                alone = model.of_class(label).conditional(block, row)
                torch.testing.assert_close(ours.mean[i], alone.mean[0])
                torch.testing.assert_close(ours.log_prob(state[block])[i], alone.log_prob(row[block])[0])

    def test_samples_come_in_the_order_of_the_rows(self) -> None:
        """Units that are as good as certain, and differ between the classes."""
        model, state = _per_class(), _state()
        certain = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
        with torch.no_grad():
            for c in range(3):
                model.of_class(c).hidden_bias.copy_(2000 * certain[c] - 1000)
        assert torch.equal(model.conditional("h", state).sample(), certain[state["y"]])

    @pytest.mark.parametrize("beta", [0.3, torch.linspace(0.0, 1.0, 9, dtype=F64)])
    def test_tempering_is_that_of_the_template_for_every_example(self, beta: float | Tensor) -> None:
        """An RBM tempers E(v, h), so that the energy is not beta times the free energy."""
        model, state = _per_class(), _state()
        tempered, scaled = model.tempered(beta), model.conditional("h", state).tempered(beta)
        betas = torch.as_tensor(beta, dtype=F64).expand(9).tolist()
        for i, label in enumerate(state["y"].tolist()):
            row = {name: value[i : i + 1] for name, value in state.items()}
            alone = model.of_class(label).tempered(betas[i])
            torch.testing.assert_close(tempered.energy(state)[i], alone.energy(row)[0])
            mean = alone.conditional("h", row).mean[0]
            torch.testing.assert_close(tempered.conditional("h", state).mean[i], mean)
            torch.testing.assert_close(scaled.mean[i], mean)
        assert not torch.allclose(tempered.energy(state), torch.as_tensor(beta) * model.energy(state))
        assert tempered.variables == model.variables

    def test_an_example_teaches_the_model_of_its_class_alone(self) -> None:
        """The contrast over both phases is that of the class, times the class's share of the batch."""
        model, pos, neg = _per_class(), _state(), _state()
        pos["y"] = neg["y"] = torch.tensor([2, 2, 0, 2, 0, 2, 2, 0, 0])
        ours = _gradients(model, ContrastiveDivergence()(model, pos, neg)["loss"])
        for c in range(3):
            rows = pos["y"] == c
            own = model.of_class(c)
            if c == 1:
                expected = {name: torch.zeros_like(value) for name, value in own.named_parameters()}
            else:
                alone = ContrastiveDivergence()(own, {"x": pos["x"][rows]}, {"x": neg["x"][rows]})["loss"]
                expected = _gradients(own, alone * rows.double().mean())
            for name, value in expected.items():
                torch.testing.assert_close(ours[f"models.{c}.{name}"], value)

    def test_the_copies_begin_alike_and_are_not_shared(self) -> None:
        model = PerClass(_rbm(), 2)
        first, second = model.of_class(0), model.of_class(1)
        assert torch.equal(first.weight, second.weight)
        assert first.weight is not second.weight

    def test_gibbs_moves_h_and_x_with_the_label_clamped(self) -> None:
        model, state = _per_class(), _state()
        end, _ = Gibbs(("h", "x")).step(model, {name: state[name] for name in ("x", "y")})
        assert end["y"] is state["y"]
        assert end["h"].shape == (9, 3)
        assert end["x"].shape == (9, 4)

    def test_every_model_is_initialized_by_the_examples_of_its_class(self) -> None:
        model, other = PerClass(_rbm(), 3).double(), _rbm().double()
        batches = [_state(), _state(12)]
        model.initialize(iter(batches))
        x, y = (torch.cat([batch[name] for batch in batches]) for name in ("x", "y"))
        for c in range(3):
            other.initialize([{"x": x[y == c]}])
            torch.testing.assert_close(model.of_class(c).units("x").bias, other.units("x").bias)

    def test_data_are_completed_by_the_model_of_their_class(self) -> None:
        """The offsets of a centered RBM follow the means of its own class; one without examples stays as it is."""
        model = PerClass(_rbm(centering=1.0), 3).double()
        batch = _state()
        batch["y"] = torch.tensor([2, 2, 0, 2, 0, 2, 2, 0, 0])
        completed = model.positive_phase(batch)
        assert identical(completed, batch)
        for c in (0, 2):
            torch.testing.assert_close(model.of_class(c).row_offset, batch["x"][batch["y"] == c].mean(0))
        assert (model.of_class(1).row_offset == 0).all()

    def test_filters_come_class_after_class(self) -> None:
        model = _per_class()
        filters = model.filters("x")
        assert filters.shape == (9, 4)
        assert torch.equal(filters[3:6], model.of_class(1).filters("x"))


# The law of a labeled RBM, by enumeration of the 16 x 3 x 8 states of (x, y, h).

LABELLED: State = {
    "x": bits(4).repeat_interleave(3, 0),
    "y": torch.arange(3).repeat(16),
}


def _log_joint(model: RBM) -> Tensor:
    """log p(x, y), shape (16, 3): h summed over its eight states."""
    h = bits(3)
    joint = torch.stack([-model.joint({**LABELLED, "h": row.expand(48, 3)}) for row in h])
    return torch.logsumexp(joint, 0).log_softmax(0).view(16, 3)


DATA: State = {"x": bits(4)[[3, 3, 9, 14, 0]], "y": torch.tensor([0, 2, 1, 1, 0])}
ROWS = torch.tensor([3, 3, 9, 14, 0])


class TestClassificationObjective:
    def test_loss_and_gradient_are_those_of_the_enumerated_conditional(self) -> None:
        """A rider h does not enter; it is summed out."""
        model = _labeled_rbm()
        exact = -_log_joint(model).log_softmax(1)[ROWS, DATA["y"]].mean()
        terms = Classification()(model, {**DATA, "h": torch.ones(5, 3, dtype=F64)}, None)
        torch.testing.assert_close(terms["loss"], exact)
        ours, theirs = _gradients(model, terms["loss"]), _gradients(model, exact)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12)
        wrong = _log_joint(model)[ROWS].argmax(1) != DATA["y"]
        assert float(terms["error"]) == pytest.approx(float(wrong.double().mean()))
        assert 0 < float(terms["error"]) < 1, "the test must see both kinds of examples"

    def test_hybrid_training_descends_both_likelihoods(self) -> None:
        """The contrast is linear in the chains: its mean over chains from p is a sum over all 48 states."""
        model, weight = _labeled_rbm(), 0.3
        hybrid = Sum(
            {"generative": ContrastiveDivergence(), "discriminative": Classification()},
            weights={"discriminative": weight},
        )
        log_p = _log_joint(model)
        exact = -log_p[ROWS, DATA["y"]].mean() - weight * log_p.log_softmax(1)[ROWS, DATA["y"]].mean()
        expected = _gradients(model, exact)
        ours = {name: torch.zeros_like(value) for name, value in expected.items()}
        for i, p in enumerate(log_p.exp().flatten().tolist()):
            chain = {name: value[i : i + 1] for name, value in LABELLED.items()}
            terms = hybrid(model, DATA, chain)
            assert terms.keys() >= {"generative/gap", "discriminative/error", "discriminative/loss"}
            for name, value in _gradients(model, terms["loss"]).items():
                ours[name] += p * value
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12)


class TestSparsity:
    def test_the_gradient_is_the_rule_of_the_guide(self) -> None:
        """cost (q_j - target) for the bias, times the mean input for the incoming weights; none for visible units."""
        model, x = perturbed(_rbm(visible=5)), torch.randint(0, 2, (7, 5)).double()
        q = torch.sigmoid(model.hidden_bias + x @ model.weight).mean(0).detach()
        terms = Sparsity(0.1, 0.02)(model, {"x": x}, None)
        ours = _gradients(model, terms["loss"])
        push = 0.02 * (q - 0.1)
        torch.testing.assert_close(ours["hidden_bias"], push)
        torch.testing.assert_close(ours["weight"], x.mean(0)[:, None] * push)
        assert (ours["visible.x.bias"] == 0).all()
        torch.testing.assert_close(terms["activity"], q.mean())
        torch.testing.assert_close(terms["off_target"], (q - 0.1).square().mean().sqrt())

    def test_the_activity_follows_the_batches_in_training_steps_alone(self) -> None:
        model, objective = perturbed(_rbm()), Sparsity(0.1, 1.0, damping=0.75)
        batches = [{"x": torch.randint(0, 2, (6, 4)).double()} for _ in range(3)]
        means = [torch.sigmoid(model.hidden_logits(batch)).mean(0).detach() for batch in batches]
        objective(model, batches[0], None)
        objective(model, batches[1], None)
        expected = 0.75 * means[0] + 0.25 * means[1]
        torch.testing.assert_close(objective.q, expected)
        with torch.no_grad():
            seen = objective(model, batches[2], None)
        torch.testing.assert_close(seen["activity"], (0.75 * expected + 0.25 * means[2]).mean())
        objective.eval()(model, batches[2], None)
        torch.testing.assert_close(objective.q, expected)

    def test_units_that_are_on_too_often_are_turned_off(self) -> None:
        model, x = _rbm().double(), torch.randint(0, 2, (50, 4)).double()
        objective, optimizer = Sparsity(0.05, 1.0), torch.optim.SGD(model.parameters(), lr=1.0)
        for _ in range(400):
            optimizer.zero_grad()
            objective(model, {"x": x}, None)["loss"].backward()
            optimizer.step()
        torch.testing.assert_close(objective.q, torch.full((3,), 0.05, dtype=F64), rtol=0, atol=0.005)

    def test_what_a_part_of_a_sum_remembers_is_in_the_state_dict(self) -> None:
        model = _rbm().double()
        whole, fresh = (EBM(model, Sum({"sparse": Sparsity(0.1, 1.0)})) for _ in range(2))
        whole.objective(model, _state(), None)
        fresh.load_state_dict(whole.state_dict())
        assert torch.equal(fresh.objective.parts["sparse"].q, whole.objective.parts["sparse"].q)
        empty = EBM(model, Sum({"sparse": Sparsity(0.1, 1.0)}))
        checkpoints.check_weights(empty, whole.state_dict())
        fresh.load_state_dict(empty.state_dict())
        assert fresh.objective.parts["sparse"].q is None


CLASSIFICATION_RBM = """
seed_everything: 3
trainer: {max_steps: 12, accelerator: cpu, devices: 1, log_every_n_steps: 1, enable_progress_bar: false}
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
data:
  class_path: Digits
  init_args: {batch_size: 100, pixels: {class_path: Threshold}}
checkpoint: {every_n_steps: 4}
samples: {every_n_steps: 0, num_chains: 10, steps: 2}
evaluation:
  - class_path: ClassificationError
  - {class_path: ReceptiveFields, init_args: {num_filters: 9}}
"""
PER_CLASS = """
seed_everything: 3
trainer: {max_steps: 12, accelerator: cpu, devices: 1, log_every_n_steps: 1, enable_progress_bar: false}
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
data:
  class_path: Digits
  init_args: {batch_size: 100, pixels: {class_path: Threshold}}
samples: {every_n_steps: 0, num_chains: 10, steps: 2}
evaluation:
  - {class_path: ScoreClassifier, init_args: {num_examples: 500}}
  - {class_path: ReceptiveFields, init_args: {num_filters: 3, groups: 10}}
"""


def _record(run: Path, protocol: str) -> dict[str, dict[str, float]]:
    return yaml.safe_load((run / "evaluation" / f"{protocol}.json").read_text())["measurements"]


def _configured(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


def test_a_classification_rbm_is_trained_measured_and_drawn_from_the_command_line(ebm, tmp_path: Path) -> None:
    """12 steps of Adam are enough to tell most of the ten digits apart: chance is 90 % wrong."""
    config, run = _configured(tmp_path, CLASSIFICATION_RBM), tmp_path / "x" / "run"
    for command in (("fit", "-c", config, "--run", run), ("test", run)):
        status, said = ebm(*command)
        assert status == 0, said
    found = _record(run, "ClassificationError")
    test = found["test error, percent"]
    share = test["value"] / 100
    assert share < 0.5
    assert test["standard_error"] == pytest.approx(100 * math.sqrt(share * (1 - share) / 297))
    assert found["training error, percent"]["value"] < 50
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
    config, run = _configured(tmp_path, PER_CLASS), tmp_path / "x" / "run"
    for command in (("fit", "-c", config, "--run", run), ("test", run)):
        status, said = ebm(*command)
        assert status == 0, said
    found = _record(run, "ScoreClassifier")
    assert found.keys() == {"test error, percent", "fitted error, percent", "test error without log Z, percent"}
    assert found["test error, percent"]["value"] < 50


class Labels(DataModule):
    """Given examples with labels, the same law for training and test."""

    def __init__(self, x: Tensor, y: Tensor | None, classes: int | None = 2) -> None:
        super().__init__(1000, valid=0, split_seed=0, seed=0, memory_gb=1.0)
        self.rows: State = {"x": x} if y is None else {"x": x, "y": y}
        self.classes = classes

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows["x"].shape[1:])

    def load(self) -> tuple[Subset, Subset]:
        source = InMemory(self.rows)
        half = torch.arange(len(source)) < len(source) // 2
        return Subset(source, half.nonzero().flatten()), Subset(source, (~half).nonzero().flatten())


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


def test_scores_that_are_off_by_constants_classify_as_well_as_the_bayes_rule() -> None:
    """Means -1 and 1: the least error is Phi(-1) = 15.87 %. The raw scores take every example for the first class.

    The regression's boundary is off by O(1 / sqrt(n)), which costs O(1 / n): far below the standard error.
    """
    y = torch.randint(0, 2, (12_000,))
    data = Labels(2.0 * y[:, None] - 1 + torch.randn(12_000, 1), y)
    module = EBM(Shifted([-1.0, 1.0], [0.0, 50.0]), ContrastiveDivergence())
    found = ScoreClassifier().measure(module, data).measurements
    test, raw = found["test error, percent"], found["test error without log Z, percent"]
    z = float(stats.norm.isf(FALSE_ALARM / 2))
    assert abs(test.value - 100 * stats.norm.cdf(-1)) < z * test.standard_error
    assert raw.value == pytest.approx(100 * float(y[6000:].double().mean()))
    few = ScoreClassifier(num_examples=50).measure(module, data).measurements
    assert few["fitted error, percent"].standard_error > 5 * found["fitted error, percent"].standard_error


def test_the_classification_error_is_that_of_the_models_own_conditional() -> None:
    """With the constants as log p(c) the rule is a threshold: wrong below it in class 1, above it in class 0."""
    y = torch.randint(0, 2, (2000,))
    x = 2.0 * y[:, None] - 1 + torch.randn(2000, 1)
    found = ClassificationError().measure(EBM(Shifted([-1.0, 1.0], [1.0, 0.0]), ContrastiveDivergence()), Labels(x, y))
    wrong = (x[:, 0] > 0.5) != (y == 1)  # -(x + 1)^2 / 2 + 1 < -(x - 1)^2 / 2 where 2 x > 1
    for name, part in (("training", wrong[:1000]), ("test", wrong[1000:])):
        measured = found.measurements[f"{name} error, percent"]
        share = float(part.double().mean())
        assert measured.value == pytest.approx(100 * share)
        assert measured.standard_error == pytest.approx(100 * math.sqrt(share * (1 - share) / 1000))


def test_examples_of_unknown_label_are_not_judged() -> None:
    y = torch.randint(0, 2, (2000,))
    x = 2.0 * y[:, None] - 1 + torch.randn(2000, 1)
    known = torch.arange(2000) % 3 == 0
    module = EBM(Shifted([-1.0, 1.0], [1.0, 0.0]), ContrastiveDivergence())
    hidden = ClassificationError().measure(module, Labels(x, torch.where(known, y, -1))).measurements
    wrong = ((x[:, 0] > 0.5) != (y == 1))[:1000][known[:1000]]
    assert hidden["training error, percent"].value == pytest.approx(100 * float(wrong.double().mean()))


def test_percent_wrong_at_its_ends() -> None:
    labels = torch.tensor([0, 1, 1, 2])
    assert percent_wrong(labels, labels) == Measurement(0.0, 0.0)
    assert percent_wrong(labels, torch.tensor([0, 1, 2, 2])).value == 25.0


class Looks(EnergyModel):
    """An energy with given filters on x."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1)

    def filters(self, block: str) -> Tensor:
        return self.weights


def test_filters_are_shown_from_the_largest_on_each_on_its_own_scale_about_mid_gray() -> None:
    weights = torch.tensor([[0.0, 0.0], [1.0, -0.5], [4.0, 8.0], [-3.0, 0.0]]).view(4, 1, 1, 2)
    data = Labels(torch.zeros(4, 1, 1, 2), None)
    module = EBM(Looks(weights), ContrastiveDivergence())

    def shown(protocol: ReceptiveFields, rows: int, columns: int) -> list[list[list[int]]]:
        """Both pixels of every tile, each enlarged 28 times."""
        pixels = np.asarray(protocol.measure(module, data).pictures["x"])
        assert pixels.shape == (rows * 30 + 2, columns * 58 + 2)
        corners = [(2 + 30 * i, 2 + 58 * j) for i in range(rows) for j in range(columns)]
        return [[int(pixels[top, left]), int(pixels[top, left + 28])] for top, left in corners]

    large, negative, small, nothing = [191, 255], [0, 128], [255, 64], [128, 128]
    assert shown(ReceptiveFields(), 2, 2) == [large, negative, small, nothing]
    assert shown(ReceptiveFields(groups=2), 2, 2) == [small, nothing, large, negative]
    assert shown(ReceptiveFields(num_filters=1, groups=2), 2, 1) == [small, large]
    norms = ReceptiveFields().measure(module, data).measurements["filter norm on x, mean"]
    assert norms.value == pytest.approx(float(weights.flatten(1).norm(dim=1).mean()))


class Indifferent(Objective):
    """A part without memory."""

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        return {"loss": model.energy(pos).mean()}


def test_a_sum_of_parts_without_memory_adds_nothing_to_the_state_dict() -> None:
    model = Gaussian([0.0], [1.0])
    assert EBM(model, Sum({"a": Indifferent()})).state_dict().keys() == EBM(model, Indifferent()).state_dict().keys()


NO_LABELS = Labels(torch.zeros(8, 1), None, classes=None)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PerClass(_rbm(), 1), "expected at least 2 classes"),
        (lambda: PerClass(_labeled_rbm(), 2), "a model without a variable y"),
        (lambda: _per_class().check({"x": bits(4)}), r"needs the label 'y' of every example, but .* \['x'\]"),
        (lambda: _per_class().check({**_state(), "x": torch.full((9, 4), 0.5)}), "binarize the data"),
        (lambda: _per_class().energy({"x": bits(4)}), r"\['y'\] is not in the state"),
        (
            lambda: _per_class().positive_phase({**_state(), "y": torch.ones(9)}),
            "takes as y whole numbers 0..2 .* got torch.float32",
        ),
        (lambda: _per_class().energy({**_state(), "y": torch.full((9,), 3)}), "from 3 to 3: give labels"),
        (lambda: _per_class().energy({**_state(), "y": torch.full((9,), -1)}), "from -1 to -1: give labels"),
        (lambda: _per_class().conditional("y", _state()), "classify by the protocol ScoreClassifier"),
        (lambda: _per_class().tempered(0.5).conditional("y", _state()), "classify by the protocol ScoreClassifier"),
        (
            lambda: PerClass(_rbm(), 3).initialize([{"x": bits(4), "y": torch.ones(16, dtype=torch.int64)}]),
            r"nothing to fit the classes \[0, 2\] to",
        ),
        (lambda: PerClass(StudentTPoE([4], 2), 3).conditional("x", _state()), "StudentTPoE has no conditional for 'x'"),
        (lambda: Classification()(_labeled_rbm(), {"x": bits(4)}, None), "train on labeled data"),
        (lambda: Classification("x")(_rbm(), {"x": bits(4)}, None), r"p\(x \| h\) needs 'h'"),
        (lambda: Classification("h")(_rbm().double(), _state(), None), "is a BernoulliConditional: name the label"),
        (lambda: Classification()(DeepEnergy(MLP(4, [2])), _state(), None), "DeepEnergy has no conditional for 'y'"),
        (lambda: Sparsity(0.0, 1.0), r"Sparsity\(target=0.0"),
        (lambda: Sparsity(0.1, -1.0), "expected target in"),
        (lambda: Sparsity(0.1, 1.0, damping=1.0), "damping=1.0"),
        (
            lambda: Sparsity(0.1, 1.0)(_per_class(), _state(), None),
            "needs binary units, but their conditional in PerClass is a RowConditional",
        ),
        (lambda: ScoreClassifier(num_examples=0), "expected num_examples >= 1, or null for all"),
        (lambda: ReceptiveFields(num_filters=0), "expected num_filters >= 1 and groups >= 1"),
        (
            lambda: ReceptiveFields(groups=2).measure(EBM(_rbm(), ContrastiveDivergence()), NO_LABELS),
            "3 filters, expected a multiple of 2",
        ),
        (
            lambda: ScoreClassifier().measure(EBM(_per_class(), ContrastiveDivergence()), NO_LABELS),
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
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
