"""One model for each class: each example has the energy, the draws and the gradient of the model of its class."""

import pytest
import torch
from support.boltzmann import binary_rbm, labeled_rbm, labeled_state, rbm_per_class
from support.helmholtz import log_marginal
from support.oracles import assert_counts, bits, gradients, identical, index_of, perturbed
from torch import Tensor

from ebm_lightning.energies import HelmholtzMachine, PerClass, StudentTPoE
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import Ancestral, Gibbs


def test_PerClass_of_recognition_models_samples_and_recognizes_each_class() -> None:
    model = PerClass(HelmholtzMachine({"x": Bernoulli([3])}, [2]), 3).double()
    perturbed(model)
    y = torch.tensor([2, 0, 0, 1, 2])
    state = model.positive_phase({"x": bits(3)[:5], "y": y})
    for energy in ("energy", "recognition_energy"):
        whole = getattr(model, energy)(state)
        for label in range(3):
            rows = y == label
            part = {name: value[rows] for name, value in state.items() if name != "y"}
            torch.testing.assert_close(whole[rows], getattr(model.of_class(label), energy)(part))
    n = 5_000
    start = {"x": torch.zeros(n, 3), "h1": torch.zeros(n, 2), "y": torch.arange(n) % 2}
    sample, _ = Ancestral(("x", "h1")).step(model, start)
    assert sample["y"] is start["y"]
    for label in (0, 1):
        p = log_marginal(model.of_class(label), bits(3), {"h1": 2}).detach().exp()
        assert_counts(torch.bincount(index_of(sample["x"][start["y"] == label]), minlength=8), p)


F64 = torch.float64


class TestPerClass:
    def test_every_example_has_the_energy_of_the_model_of_its_class(self) -> None:
        model, state = rbm_per_class(), labeled_state()
        every = torch.stack([model.of_class(c).energy(state) for c in range(3)], 1)
        torch.testing.assert_close(model.energy(state), every.gather(1, state["y"][:, None])[:, 0])
        torch.testing.assert_close(model.scores({"x": state["x"]}), -every)
        assert model.variables == ("x", "y")

    def test_conditionals_are_those_of_the_classes_in_the_order_of_the_rows(self) -> None:
        model, state = rbm_per_class(), labeled_state()
        for block in ("h", "x"):
            ours = model.conditional(block, state)
            for i, label in enumerate(state["y"].tolist()):
                row = {name: value[i : i + 1] for name, value in state.items()}
                alone = model.of_class(label).conditional(block, row)
                torch.testing.assert_close(ours.mean[i], alone.mean[0])
                torch.testing.assert_close(ours.log_prob(state[block])[i], alone.log_prob(row[block])[0])

    def test_samples_come_in_the_order_of_the_rows(self) -> None:
        """Units that are as good as certain, and differ between the classes."""
        model, state = rbm_per_class(), labeled_state()
        certain = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
        with torch.no_grad():
            for c in range(3):
                model.of_class(c).hidden_bias.copy_(2000 * certain[c] - 1000)
        assert torch.equal(model.conditional("h", state).sample(), certain[state["y"]])

    @pytest.mark.parametrize("beta", [0.3, torch.linspace(0.0, 1.0, 9, dtype=F64)])
    def test_tempering_is_that_of_the_template_for_every_example(self, beta: float | Tensor) -> None:
        """An RBM tempers E(v, h), so that the energy is not beta times the free energy."""
        model, state = rbm_per_class(), labeled_state()
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
        model, pos, neg = rbm_per_class(), labeled_state(), labeled_state()
        pos["y"] = neg["y"] = torch.tensor([2, 2, 0, 2, 0, 2, 2, 0, 0])
        ours = gradients(model, ContrastiveDivergence()(model, pos, neg)["loss"])
        for c in range(3):
            rows = pos["y"] == c
            own = model.of_class(c)
            if c == 1:
                expected = {name: torch.zeros_like(value) for name, value in own.named_parameters()}
            else:
                alone = ContrastiveDivergence()(own, {"x": pos["x"][rows]}, {"x": neg["x"][rows]})["loss"]
                expected = gradients(own, alone * rows.double().mean())
            for name, value in expected.items():
                torch.testing.assert_close(ours[f"models.{c}.{name}"], value)

    def test_the_copies_begin_alike_and_are_not_shared(self) -> None:
        model = PerClass(binary_rbm(), 2)
        first, second = model.of_class(0), model.of_class(1)
        assert torch.equal(first.weight, second.weight)
        assert first.weight is not second.weight

    def test_gibbs_moves_h_and_x_with_the_label_clamped(self) -> None:
        model, state = rbm_per_class(), labeled_state()
        end, _ = Gibbs(("h", "x")).step(model, {name: state[name] for name in ("x", "y")})
        assert end["y"] is state["y"]
        assert end["h"].shape == (9, 3)
        assert end["x"].shape == (9, 4)

    def test_every_model_is_initialized_by_the_examples_of_its_class(self) -> None:
        model, other = PerClass(binary_rbm(), 3).double(), binary_rbm().double()
        batches = [labeled_state(), labeled_state(12)]
        model.initialize(iter(batches))
        x, y = (torch.cat([batch[name] for batch in batches]) for name in ("x", "y"))
        for c in range(3):
            other.initialize([{"x": x[y == c]}])
            torch.testing.assert_close(model.of_class(c).units("x").bias, other.units("x").bias)

    def test_data_are_completed_by_the_model_of_their_class(self) -> None:
        """The offsets of a centered RBM follow the means of its own class; one without examples stays as it is."""
        model = PerClass(binary_rbm(centering=1.0), 3).double()
        batch = labeled_state()
        batch["y"] = torch.tensor([2, 2, 0, 2, 0, 2, 2, 0, 0])
        completed = model.positive_phase(batch)
        assert identical(completed, batch)
        for c in (0, 2):
            torch.testing.assert_close(model.of_class(c).row_offset, batch["x"][batch["y"] == c].mean(0))
        assert (model.of_class(1).row_offset == 0).all()

    def test_filters_come_class_after_class(self) -> None:
        model = rbm_per_class()
        filters = model.filters("x")
        assert filters.shape == (9, 4)
        assert torch.equal(filters[3:6], model.of_class(1).filters("x"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PerClass(binary_rbm(), 1), "expected at least 2 classes"),
        (lambda: PerClass(labeled_rbm(), 2), "a model without a variable y"),
        (lambda: rbm_per_class().check({"x": bits(4)}), r"needs the label 'y' of every example, but .* \['x'\]"),
        (lambda: rbm_per_class().check({**labeled_state(), "x": torch.full((9, 4), 0.5)}), "binarize the data"),
        (lambda: rbm_per_class().energy({"x": bits(4)}), r"\['y'\] is not in the state"),
        (
            lambda: rbm_per_class().positive_phase({**labeled_state(), "y": torch.ones(9)}),
            "takes as y whole numbers 0..2 .* got torch.float32",
        ),
        (lambda: rbm_per_class().energy({**labeled_state(), "y": torch.full((9,), 3)}), "from 3 to 3: give labels"),
        (lambda: rbm_per_class().energy({**labeled_state(), "y": torch.full((9,), -1)}), "from -1 to -1: give labels"),
        (lambda: rbm_per_class().conditional("y", labeled_state()), "classify by the protocol ScoreClassifier"),
        (
            lambda: rbm_per_class().tempered(0.5).conditional("y", labeled_state()),
            "classify by the protocol ScoreClassifier",
        ),
        (
            lambda: PerClass(binary_rbm(), 3).initialize([{"x": bits(4), "y": torch.ones(16, dtype=torch.int64)}]),
            r"nothing to fit the classes \[0, 2\] to",
        ),
        (
            lambda: PerClass(HelmholtzMachine({"x": Bernoulli([3])}, [2]), 2).positive_phase({"x": bits(3).float()}),
            "PerClass needs the label 'y' of every example",
        ),
        (
            lambda: PerClass(StudentTPoE([4], 2), 3).conditional("x", labeled_state()),
            "StudentTPoE is not GibbsSampleable, it has no conditional",
        ),
    ],
)
def test_PerClass_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
