"""A classifier as an energy: against enumeration of the labels, its gradients, its chains."""

import copy

import pytest
import torch
from support.classifiers import labeled_points, small_jem
from torch import nn

from ebm_lightning.chains import SampleBuffer
from ebm_lightning.core import energy_grad, free_energy
from ebm_lightning.energies import JEM, JointJEM
from ebm_lightning.energies.networks import MLP, ConvNet
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import SGLD
from ebm_lightning.training.module import EBM


class TestJointJEM:
    def test_the_marginal_is_the_sum_of_the_joint_over_the_labels(self) -> None:
        jem, state = small_jem(), labeled_points()
        joint = JointJEM(jem)
        every = torch.stack([joint.energy({**state, "y": torch.full((6,), y)}) for y in range(3)], 1)
        torch.testing.assert_close(every, -jem.net(state["x"]))
        torch.testing.assert_close(jem.energy(state), -torch.logsumexp(-every, 1))
        torch.testing.assert_close(jem.conditional("y", state).mean, torch.softmax(-every, 1))
        torch.testing.assert_close(joint.conditional("y", state).mean, jem.conditional("y", state).mean)

    def test_the_joint_is_the_marginal_and_the_conditional(self) -> None:
        jem, state = small_jem(), labeled_points()
        conditional = jem.conditional("y", {"x": state["x"]})
        torch.testing.assert_close(
            JointJEM(jem).energy(state), jem.energy(state) - conditional.log_prob(state["y"]), rtol=1e-12, atol=1e-12
        )

    def test_the_gradient_of_the_marginal_is_the_mean_over_the_labels(self) -> None:
        jem, state = small_jem(), labeled_points()
        joint, p = JointJEM(jem), jem.conditional("y", state).mean
        grads = [energy_grad(joint, {**state, "y": torch.full((6,), y)}, "x")[0] for y in range(3)]
        expected = sum(p[:, y, None] * grads[y] for y in range(3))
        torch.testing.assert_close(energy_grad(jem, state, "x")[0], expected, rtol=1e-12, atol=1e-12)

    def test_an_unknown_label_is_summed_out(self) -> None:
        jem, state = small_jem(), labeled_points()
        joint, y = JointJEM(jem), torch.tensor([0, -1, 2, -1, -1, 1])
        energy = joint.energy({**state, "y": y})
        torch.testing.assert_close(energy[y < 0], jem.energy(state)[y < 0])
        torch.testing.assert_close(energy[y >= 0], joint.energy({**state, "y": y.clamp(min=0)})[y >= 0])
        torch.testing.assert_close(free_energy(joint, {"x": state["x"]}), jem.energy(state))
        assert joint.positive_phase(state) is state

    def test_one_set_of_weights(self) -> None:
        jem = small_jem()
        assert {id(p) for p in JointJEM(jem).parameters()} == {id(p) for p in jem.parameters()}


def test_class_conditional_chains_keep_their_labels_and_lower_their_energy() -> None:
    jem = small_jem()
    chains = SampleBuffer(64, keep=("y",))
    module = EBM(JointJEM(jem), ContrastiveDivergence(), SGLD(0.05, noise=0.0, free=("x",)), steps=3, chains=chains)
    for _ in range(30):
        before = copy.deepcopy(chains)
        neg = module.sample_negatives(labeled_points(32))
        assert neg is not None
        kept = before.alive[neg["chain.slot"]]
        if kept.any():
            assert torch.equal(neg["y"][kept], before.store["y"][neg["chain.slot"]][kept])
            begin = {name: before.store[name][neg["chain.slot"]][kept] for name in ("x", "y")}
            assert bool((module.model.energy(neg)[kept] <= module.model.energy(begin) + 1e-9).all())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: JEM(MLP(4, [], outputs=1), 1), "expected at least 2 classes"),
        (lambda: JEM(MLP(4, [], outputs=4), 3)(torch.zeros(2, 4)), r"shape \(2, 3\), got \(2, 4\): give the net 3"),
        (lambda: JEM(nn.Identity(), 3)(torch.zeros(2, 3, 1)), r"got \(2, 3, 1\)"),
        (lambda: JEM(ConvNet(), 10).conditional("y", {"x": torch.zeros(2, 1, 28, 28)}), r"got \(2, 1\): give"),
        (
            lambda: small_jem().check({**labeled_points(), "y": torch.full((6,), 3)}),
            "whole numbers 0..2 .* from 3 to 3",
        ),
        (lambda: small_jem().check({**labeled_points(), "y": torch.zeros(6)}), "got torch.float32"),
        (
            lambda: JointJEM(small_jem()).check({**labeled_points(), "y": torch.full((6,), -2)}),
            "or -1 if .* from -2 to -2",
        ),
        (
            lambda: JointJEM(small_jem()).check({**labeled_points(), "y": torch.zeros(6, 3).long()}),
            "not one-hot vectors",
        ),
        (lambda: small_jem().conditional("x", labeled_points()), r"^JEM has only p\(y \| x\), no conditional for 'x'"),
        (
            lambda: JointJEM(small_jem()).conditional("x", labeled_points()),
            r"^JointJEM has only p\(y \| x\), no conditional for 'x'",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
