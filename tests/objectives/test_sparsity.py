"""Sparse hidden units: the rule of the guide, and what the penalty remembers."""

import pytest
import torch
from support.oracles import perturbed
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.core import EnergyModel, State
from ebm_lightning.energies import RBM, PerClass
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.objectives import Sparsity, Sum
from ebm_lightning.runs import checkpoints

F64 = torch.float64


def _rbm(visible: int = 4, hidden: int = 3, **settings: object) -> RBM:
    return RBM({"x": Bernoulli([visible])}, hidden, weight_std=1.0, **settings)


def _per_class(classes: int = 3, **settings: object) -> PerClass:
    """One RBM for each class, every parameter moved apart."""
    model = perturbed(PerClass(_rbm(**settings), classes))
    assert isinstance(model, PerClass)
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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sparsity(0.0, 1.0), r"Sparsity\(target=0.0"),
        (lambda: Sparsity(0.1, -1.0), "expected target in"),
        (lambda: Sparsity(0.1, 1.0, damping=1.0), "damping=1.0"),
        (
            lambda: Sparsity(0.1, 1.0)(_per_class(), _state(), None),
            "needs binary units, but their conditional in PerClass is a RowConditional",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
