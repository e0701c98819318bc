"""Sparse hidden units: the rule of the guide, and what the penalty remembers."""

import pytest
import torch
from support.boltzmann import binary_rbm, labeled_state, rbm_per_class
from support.oracles import gradients, perturbed

from ebm_lightning import EBM
from ebm_lightning.objectives import Sparsity, Sum
from ebm_lightning.runs import checkpoints

F64 = torch.float64


class TestSparsity:
    def test_the_gradient_is_the_rule_of_the_guide(self) -> None:
        """cost (q_j - target) for the bias, times the mean input for the incoming weights; none for visible units."""
        model, x = perturbed(binary_rbm(visible=5)), torch.randint(0, 2, (7, 5)).double()
        q = torch.sigmoid(model.hidden_bias + x @ model.weight).mean(0).detach()
        terms = Sparsity(0.1, 0.02)(model, {"x": x}, None)
        ours = gradients(model, terms["loss"])
        push = 0.02 * (q - 0.1)
        torch.testing.assert_close(ours["hidden_bias"], push)
        torch.testing.assert_close(ours["weight"], x.mean(0)[:, None] * push)
        assert (ours["visible.x.bias"] == 0).all()
        torch.testing.assert_close(terms["activity"], q.mean())
        torch.testing.assert_close(terms["off_target"], (q - 0.1).square().mean().sqrt())

    def test_the_activity_follows_the_batches_in_training_steps_alone(self) -> None:
        model, objective = perturbed(binary_rbm()), Sparsity(0.1, 1.0, damping=0.75)
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
        model, x = binary_rbm().double(), torch.randint(0, 2, (50, 4)).double()
        objective, optimizer = Sparsity(0.05, 1.0), torch.optim.SGD(model.parameters(), lr=1.0)
        for _ in range(400):
            optimizer.zero_grad()
            objective(model, {"x": x}, None)["loss"].backward()
            optimizer.step()
        torch.testing.assert_close(objective.q, torch.full((3,), 0.05, dtype=F64), rtol=0, atol=0.005)

    def test_what_a_part_of_a_sum_remembers_is_in_the_state_dict(self) -> None:
        model = binary_rbm().double()
        whole, fresh = (EBM(model, Sum({"sparse": Sparsity(0.1, 1.0)})) for _ in range(2))
        whole.objective(model, labeled_state(), None)
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
            lambda: Sparsity(0.1, 1.0)(rbm_per_class(), labeled_state(), None),
            "needs binary units, but their conditional in PerClass is a RowConditional",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
