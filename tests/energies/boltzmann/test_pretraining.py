"""Layerwise pretraining against the machine whose layers it trains."""

import pytest
import torch
from support.oracles import assert_means, bits, perturbed

from ebm_lightning.energies import DBM, RBM, DoubledRBM, StackedEnergy
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax
from ebm_lightning.objectives import ContrastiveDivergence


class TestPretraining:
    def test_DoubledRBM_counts_its_input_twice(self) -> None:
        rbm = perturbed(RBM({"x": Bernoulli([4])}, 3, weight_std=0.5))
        up, down = DoubledRBM(rbm, up=2), DoubledRBM(rbm, down=2)
        x, h = bits(4), bits(3)
        torch.testing.assert_close(up.conditional("h", {"x": x}).mean, torch.sigmoid(2 * rbm.hidden_logits({"x": x})))
        torch.testing.assert_close(
            up.conditional("x", {"x": x, "h": x[:, :3]}).mean, rbm.conditional("x", {"h": x[:, :3]}).mean
        )
        twice = torch.sigmoid(2 * (h @ rbm.weight.T + rbm.units("x").bias))
        torch.testing.assert_close(down.conditional("x", {"h": h}).mean, twice)

    def test_DoubledRBM_has_the_ordinary_rule_as_its_contrast(self) -> None:
        rbm = perturbed(RBM({"x": Bernoulli([4])}, 3))
        model, v, w = DoubledRBM(rbm, up=2), bits(4)[:6], bits(4)[6:10]
        loss = ContrastiveDivergence()(model, {"x": v}, {"x": w})["loss"]
        (found,) = torch.autograd.grad(loss, [rbm.weight])
        p, q = (torch.sigmoid(2 * rbm.hidden_logits({"x": x})).detach() for x in (v, w))
        torch.testing.assert_close(found, w.T @ q / len(w) - v.T @ p / len(v))

    def test_StackedEnergy_sees_the_hidden_units_of_the_one_below(self) -> None:
        below = DoubledRBM(perturbed(RBM({"x": Bernoulli([4])}, 3)), up=2)
        model = StackedEnergy(RBM({"x": Bernoulli([3]), "y": Softmax(2)}, 2).double(), below)
        x = bits(4)[5].expand(4000, 4)
        state = model.positive_phase({"x": x, "y": torch.ones(4000, dtype=torch.int64)})
        assert set(state) == {"x", "y"}
        assert_means(state["x"], below.conditional("h", {"x": x[:1]}).mean[0])
        assert not any(parameter.requires_grad for parameter in model.below.parameters())

    def test_layers_compose_to_the_machine_whose_layers_they_are(self) -> None:
        first = perturbed(RBM({"x": Bernoulli([4])}, 3))
        second = perturbed(RBM({"x": Bernoulli([3]), "y": Softmax(2)}, 2))
        layers = [DoubledRBM(first, up=2), StackedEnergy(DoubledRBM(second, down=2), DoubledRBM(first, up=2))]
        model = DBM({"x": Bernoulli([4])}, [3, 2], {"y": Softmax(2)}, pretrained=layers).double()
        model.initialize([])
        assert torch.equal(model.weights[0], first.weight)
        assert torch.equal(model.weights[1], second.weight[:3])
        assert torch.equal(model.weights[2], second.weight[3:].T)
        assert torch.equal(model.units("x").bias, first.units("x").bias)
        assert torch.equal(model.units("h1").bias, first.hidden_bias + second.units("x").bias)
        assert torch.equal(model.units("h2").bias, second.hidden_bias)
        assert torch.equal(model.units("y").bias, second.units("y").bias)

    def test_RBM_as_a_middle_layer_is_halved(self) -> None:
        bottom, middle, top = (perturbed(RBM({"x": Bernoulli([n])}, m)) for n, m in ((4, 3), (3, 2), (2, 2)))
        layers = [DoubledRBM(bottom, up=2), middle, DoubledRBM(top, down=2)]
        model = DBM({"x": Bernoulli([4])}, [3, 2, 2], pretrained=layers).double()
        model.initialize([])
        assert torch.equal(model.weights[1], middle.weight / 2)
        assert torch.equal(model.units("h1").bias, bottom.hidden_bias + middle.units("x").bias / 2)
        assert torch.equal(model.units("h2").bias, middle.hidden_bias / 2 + top.units("x").bias)

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ([RBM({"x": Bernoulli([4])}, 3)], "2 hidden layers, but 1 pretrained"),
            (
                [RBM({"x": Bernoulli([4])}, 3), RBM({"x": Bernoulli([3])}, 2)],
                "train it as DoubledRBM with up=2 and down=1",
            ),
            (
                [DoubledRBM(RBM({"x": Bernoulli([4])}, 3), up=2), DoubledRBM(RBM({"x": Bernoulli([5])}, 2), down=2)],
                "layer 2 joins {'x': 5} with 2 hidden units.*{'h1': 3} with 2",
            ),
        ],
    )
    def test_layers_that_do_not_compose_are_refused(self, layers: list, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DBM({"x": Bernoulli([4])}, [3, 2], pretrained=layers).initialize([])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: DoubledRBM(RBM({"x": Bernoulli([4])}, 3), up=0), "up=0"),
        (lambda: DoubledRBM(RBM({"x": Bernoulli([4])}, 3, centering=0.1)), "without centering"),
        (lambda: StackedEnergy(RBM({"x": Bernoulli([4])}, 3), RBM({"x": Bernoulli([4])}, 3), "z"), "name one of them"),
    ],
)
def test_DoubledRBM_and_StackedEnergy_refuse_mistakes_with_a_message(act, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()
