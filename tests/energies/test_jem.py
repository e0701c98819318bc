"""A classifier as an energy: against enumeration of the labels, its gradients, partly labeled data, its chains."""

import copy
from pathlib import Path

import jsonargparse
import pytest
import torch
from support.oracles import assert_means, identical, perturbed
from torch import Tensor, nn

from ebm_lightning.chains import NoiseChains, SampleBuffer
from ebm_lightning.core import EnergyModel, State, energy_grad
from ebm_lightning.distributions import InformativeInit
from ebm_lightning.energies import JEM, DeepEnergy, Gaussian, JointJEM
from ebm_lightning.energies.networks import MLP, ConvNet, WideResNet
from ebm_lightning.objectives import Classification, ContrastiveDivergence, Marginal, Sum
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.samplers import SGLD
from ebm_lightning.training.module import EBM

F64 = torch.float64


JOINT = """
model:
  init_args:
    model:
      class_path: JointJEM
      init_args:
        jem:
          class_path: JEM
          init_args:
            classes: 10
            net:
              class_path: ebm_lightning.energies.networks.MLP
              init_args: {inputs: 64, hidden: [16], outputs: 10}
    objective:
      class_path: Sum
      init_args:
        parts:
          joint: {class_path: ContrastiveDivergence}
          marginal: {class_path: Marginal, init_args: {objective: {class_path: ContrastiveDivergence}}}
          discriminative: {class_path: Classification}
        weights: {joint: 0.5}
    chains:
      init_args:
        keep: [y]
        noise: {class_path: InformativeInit, init_args: {shape: [1, 8, 8], classes: 10}}
evaluation:
  - class_path: ClassificationError
  - class_path: OutOfDistribution
    init_args:
      outliers: [{class_path: UniformPixels}]
"""
"""An overlay of the tiny configuration: all three terms, chains with clamped labels, born from class Gaussians."""


def _jem(classes: int = 3) -> JEM:
    model = perturbed(JEM(MLP(4, [6], outputs=classes), classes))
    assert isinstance(model, JEM)
    return model


def _state(n: int = 6, classes: int = 3) -> State:
    return {"x": torch.randn(n, 4, dtype=F64), "y": torch.arange(n) % classes}


def _gradients(model: EnergyModel, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


class TestEnergies:
    def test_the_marginal_is_the_sum_of_the_joint_over_the_labels(self) -> None:
        jem, state = _jem(), _state()
        joint = JointJEM(jem)
        every = torch.stack([joint.energy({**state, "y": torch.full((6,), y)}) for y in range(3)], 1)
        torch.testing.assert_close(every, -jem.net(state["x"]))
        torch.testing.assert_close(jem.energy(state), -torch.logsumexp(-every, 1))
        torch.testing.assert_close(jem.conditional("y", state).mean, torch.softmax(-every, 1))
        torch.testing.assert_close(joint.conditional("y", state).mean, jem.conditional("y", state).mean)

    def test_the_joint_is_the_marginal_and_the_conditional(self) -> None:
        jem, state = _jem(), _state()
        conditional = jem.conditional("y", {"x": state["x"]})
        torch.testing.assert_close(
            JointJEM(jem).energy(state), jem.energy(state) - conditional.log_prob(state["y"]), rtol=1e-12, atol=1e-12
        )

    def test_the_gradient_of_the_marginal_is_the_mean_over_the_labels(self) -> None:
        jem, state = _jem(), _state()
        joint, p = JointJEM(jem), jem.conditional("y", state).mean
        grads = [energy_grad(joint, {**state, "y": torch.full((6,), y)}, "x")[0] for y in range(3)]
        expected = sum(p[:, y, None] * grads[y] for y in range(3))
        torch.testing.assert_close(energy_grad(jem, state, "x")[0], expected, rtol=1e-12, atol=1e-12)

    def test_an_unknown_label_is_summed_out(self) -> None:
        jem, state = _jem(), _state()
        joint, y = JointJEM(jem), torch.tensor([0, -1, 2, -1, -1, 1])
        energy = joint.energy({**state, "y": y})
        torch.testing.assert_close(energy[y < 0], jem.energy(state)[y < 0])
        torch.testing.assert_close(energy[y >= 0], joint.energy({**state, "y": y.clamp(min=0)})[y >= 0])
        torch.testing.assert_close(joint.free_energy({"x": state["x"]}), jem.energy(state))
        assert joint.positive_phase(state) is state

    def test_one_set_of_weights(self) -> None:
        jem = _jem()
        assert {id(p) for p in JointJEM(jem).parameters()} == {id(p) for p in jem.parameters()}


class TestObjectives:
    def test_a_marginal_of_the_joint_is_the_objective_on_the_marginal(self) -> None:
        jem, pos, neg = _jem(), _state(), _state(4)
        for phases in ((pos, neg), ({"x": pos["x"], "y": torch.full((6,), -1)}, neg)):
            ours = Marginal(ContrastiveDivergence(l2=0.1))(JointJEM(jem), *phases)
            theirs = ContrastiveDivergence(l2=0.1)(jem, *phases)
            torch.testing.assert_close(ours, theirs)

    def test_the_three_terms_add_up_with_their_weights(self) -> None:
        jem, pos, neg = _jem(), _state(), _state(4)
        contrast, weights = ContrastiveDivergence(), {"joint": 0.5, "marginal": 2.0, "discriminative": 3.0}
        parts = {"joint": contrast, "marginal": Marginal(contrast), "discriminative": Classification()}
        loss = Sum(parts, weights=weights)(JointJEM(jem), pos, neg)["loss"]
        expected = 0.5 * contrast(JointJEM(jem), pos, neg)["loss"] + 2 * contrast(jem, pos, neg)["loss"]
        expected = expected + 3 * nn.functional.cross_entropy(jem.net(pos["x"]), pos["y"])
        torch.testing.assert_close(_gradients(jem, loss), _gradients(jem, expected))

    def test_classification_of_a_partly_labeled_batch_is_that_of_its_labeled_part(self) -> None:
        jem, pos = _jem(), _state()
        known = torch.tensor([True, False, True, True, False, False])
        hidden = {**pos, "y": torch.where(known, pos["y"], -1)}
        ours = Classification()(jem, hidden, None)
        theirs = Classification()(jem, {name: value[known] for name, value in pos.items()}, None)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(_gradients(jem, ours["loss"]), _gradients(jem, theirs["loss"]))

    def test_classification_of_a_batch_without_labels_teaches_nothing(self) -> None:
        jem = _jem()
        terms = Classification()(jem, {**_state(), "y": torch.full((6,), -1)}, None)
        assert float(terms["loss"].detach()) == 0
        assert all(bool((grad == 0).all()) for grad in _gradients(jem, terms["loss"]))


def test_class_conditional_chains_keep_their_labels_and_lower_their_energy() -> None:
    jem = _jem()
    chains = SampleBuffer(64, keep=("y",))
    module = EBM(JointJEM(jem), ContrastiveDivergence(), SGLD(0.05, noise=0.0, free=("x",)), steps=3, chains=chains)
    for _ in range(30):
        before = copy.deepcopy(chains)
        neg = module.sample_negatives(_state(32))
        assert neg is not None
        kept = before.alive[neg["chain"]]
        if kept.any():
            assert torch.equal(neg["y"][kept], before.store["y"][neg["chain"]][kept])
            begin = {name: before.store[name][neg["chain"]][kept] for name in ("x", "y")}
            assert bool((module.model.energy(neg)[kept] <= module.model.energy(begin) + 1e-9).all())


class TestWideResNet:
    @pytest.mark.parametrize(
        ("arguments", "millions"), [((28, 10, 10), 36.47), ((28, 10, 100), 36.53), ((16, 4, 10), 2.75)]
    )
    def test_its_parameters_are_those_of_the_published_net(self, arguments: tuple, millions: float) -> None:
        with torch.device("meta"):
            number = sum(p.numel() for p in WideResNet(*arguments).parameters())
        assert number / 1e6 == pytest.approx(millions, abs=0.005)

    def test_every_depth_has_its_blocks_and_any_shape_divisible_by_four_goes_through(self) -> None:
        for depth in (10, 16):
            net = WideResNet(depth, 1, classes=5, channels=1)
            convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
            assert len([layer for layer in convolutions if layer.kernel_size == (3, 3)]) == depth - 3
            assert net(torch.zeros(2, 1, 28, 12)).shape == (2, 5)
            assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())

    def test_normalization_and_activation_are_named_in_the_configuration(self) -> None:
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(nn.Module, "net")
        settings = {
            "depth": 10,
            "width": 1,
            "normalization": "torch.nn.BatchNorm2d",
            "activation": {"class_path": "torch.nn.SiLU"},
        }
        path = "ebm_lightning.energies.networks.WideResNet"
        net = parser.instantiate(parser.parse_object({"net": {"class_path": path, "init_args": settings}})).net
        norms = [layer.num_features for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert norms == [16, 16, 16, 32, 32, 64, 64]
        assert not any(isinstance(layer, nn.LeakyReLU) for layer in net.modules())
        assert len([layer for layer in net.modules() if isinstance(layer, nn.SiLU)]) == 7


def _labeled_points(n: int = 300) -> State:
    """Points of the plane, correlated, in three classes of shares 1/6, 2/6 and 3/6; half of the labels are hidden."""
    y = torch.tensor([0, 1, 1, 2, 2, 2]).repeat(n // 6)
    turn = torch.tensor([[1.0, 0.5], [-0.3, 0.7]], dtype=F64)
    x = torch.randn(n, 2, dtype=F64) @ turn * (1 + y[:, None]) + y[:, None]
    return {"x": x, "y": torch.where(torch.arange(n) % 12 < 6, y, -1)}


def _fitted(data: State) -> InformativeInit:
    noise = InformativeInit([2], 3).double()
    noise.fit({name: value[i : i + 50] for name, value in data.items()} for i in range(0, len(data["x"]), 50))
    return noise


class TestClassGaussians:
    def test_the_fit_is_maximum_likelihood_of_the_labeled_examples(self) -> None:
        data = _labeled_points()
        noise = _fitted(data)
        torch.testing.assert_close(noise.share, torch.tensor([1 / 6, 2 / 6, 3 / 6], dtype=F64))
        for label in range(3):
            own = data["x"][data["y"] == label]
            torch.testing.assert_close(noise.mean[label], own.mean(0))
            covariance = noise.factor[label] @ noise.factor[label].T
            torch.testing.assert_close(covariance, torch.cov(own.T, correction=0) + 1e-4 * torch.eye(2, dtype=F64))

    def test_the_density_is_that_of_the_mixture(self) -> None:
        noise, x = _fitted(_labeled_points()), torch.randn(5, 2, dtype=F64)
        normals = torch.distributions.MultivariateNormal(noise.mean, scale_tril=noise.factor)
        mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(noise.share), normals)
        torch.testing.assert_close(noise.log_prob(x), mixture.log_prob(x))

    @pytest.mark.parametrize("label", [0, 2, -1])
    def test_draws_have_the_moments_of_their_class_or_of_the_mixture(self, label: int) -> None:
        noise, n = _fitted(_labeled_points()), 20_000
        x = noise.initial({"x": torch.zeros(n, 2, dtype=F64), "y": torch.full((n,), label)}, "x")
        weights = noise.share if label < 0 else torch.eye(3, dtype=F64)[label]
        second = noise.factor @ noise.factor.mT + noise.mean[:, :, None] * noise.mean[:, None]
        assert_means(x, weights @ noise.mean)
        assert_means(x[:, :, None] * x[:, None], (weights[:, None, None] * second).sum(0))

    def test_without_labels_the_draws_are_those_of_the_mixture(self) -> None:
        noise, like = _fitted(_labeled_points()), torch.zeros(7, 2)
        draws = []
        for draw in (lambda: noise.sample(like), lambda: noise.initial({"x": like}, "x")):
            torch.manual_seed(1)
            draws.append(draw())
        assert torch.equal(*draws)
        assert draws[0].dtype == torch.float32

    def test_chains_are_born_in_the_class_of_their_label(self) -> None:
        data = {"x": torch.randn(60, 2, dtype=F64) * 0.1, "y": torch.arange(60) % 3}
        data["x"] += 10 * data["y"][:, None]
        for chains in (NoiseChains(_fitted(data)), SampleBuffer(60, noise=_fitted(data), keep=("y",))):
            begin = chains.start(data, ("x",))
            assert torch.equal((begin["x"][:, 0] / 10).round().long(), begin["y"])

    def test_a_continued_run_takes_the_fit_of_its_checkpoint(self, ebm, tiny: Path, tmp_path, monkeypatch) -> None:
        overlay = tmp_path / "jem.yaml"
        overlay.write_text(JOINT)
        options = ["fit", "-c", tiny, "-c", overlay]
        for place, end in (("straight", 12), ("cut", 8), ("cut", 12)):
            if end == 12 and place == "cut":
                monkeypatch.setattr(InformativeInit, "fit", lambda noise, batches: noise.mean.fill_(torch.nan))
            status, said = ebm(*options, "--run", tmp_path / place, "--trainer.max_steps", end)
            assert status == 0, said
        cut, straight = (
            checkpoints.RankCheckpointIO().load_checkpoint(RunFolder(tmp_path / place).checkpoints()[0])
            for place in ("cut", "straight")
        )
        assert identical(cut["state_dict"], straight["state_dict"])
        assert cut["state_dict"]["noise.share"].sum() == pytest.approx(1)
        for command in (["sample", tmp_path / "cut", "--number", 3, "--steps", 2], ["test", tmp_path / "cut"]):
            status, said = ebm(*command)
            assert status == 0, said
        assert "ClassificationError" in said
        assert "AUROC UniformPixels()" in said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: JEM(MLP(4, [], outputs=1), 1), "expected at least 2 classes"),
        (lambda: JEM(MLP(4, [], outputs=4), 3)(torch.zeros(2, 4)), r"shape \(2, 3\), got \(2, 4\): give the net 3"),
        (lambda: JEM(nn.Identity(), 3)(torch.zeros(2, 3, 1)), r"got \(2, 3, 1\)"),
        (lambda: JEM(ConvNet(), 10).conditional("y", {"x": torch.zeros(2, 1, 28, 28)}), r"got \(2, 1\): give"),
        (lambda: _jem().check({**_state(), "y": torch.full((6,), 3)}), "whole numbers 0..2 .* from 3 to 3"),
        (lambda: _jem().check({**_state(), "y": torch.zeros(6)}), "got torch.float32"),
        (lambda: JointJEM(_jem()).check({**_state(), "y": torch.full((6,), -2)}), "or -1 if .* from -2 to -2"),
        (lambda: JointJEM(_jem()).check({**_state(), "y": torch.zeros(6, 3).long()}), "not one-hot vectors"),
        (lambda: _jem().conditional("x", _state()), "JEM has no conditional for 'x'"),
        (lambda: JointJEM(_jem()).conditional("x", _state()), "JointJEM has no conditional for 'x'"),
        (
            lambda: Marginal(ContrastiveDivergence())(DeepEnergy(MLP(4, [])), _state(), _state()),
            "nothing to sum out of DeepEnergy",
        ),
        (lambda: InformativeInit([2], 0), "sides and classes of at least 1"),
        (lambda: InformativeInit([2], 3, jitter=0.0), "jitter > 0"),
        (lambda: InformativeInit([2], 3).sample(torch.zeros(2, 2)), "not fitted yet"),
        (lambda: InformativeInit([2], 3).log_prob(torch.zeros(2, 2)), "not fitted yet"),
        (lambda: InformativeInit([2], 2).fit([_labeled_points()]), "labels 'y' below 2, but .* labels up to 2"),
        (lambda: InformativeInit([2], 4).fit([_labeled_points()]), r"nothing to fit the classes \[3\] to"),
        (lambda: InformativeInit([2], 3).fit([{"x": torch.zeros(3, 2)}]), r"the data have only \['x'\]"),
        (lambda: WideResNet(12, 1), "expected 6n"),
        (lambda: WideResNet(4, 1), "expected 6n"),
        (lambda: WideResNet(10, 0), "numbers of at least 1"),
        (lambda: Classification()(Gaussian([0.0], [1.0]), _state(), None), "Gaussian has no conditional for 'y'"),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
