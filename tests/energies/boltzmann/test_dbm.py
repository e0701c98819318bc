"""Deep Boltzmann machines and their layerwise pretraining against enumeration, unit by unit and state by state."""

import itertools
import math

import pytest
import torch
from scipy import stats
from support.oracles import (
    FALSE_ALARM,
    assert_counts,
    assert_means,
    bits,
    index_of,
    perturbed,
    probabilities,
    unit_probabilities,
)
from torch import Tensor

from ebm_lightning.core import State, run
from ebm_lightning.energies import DBM, RBM, DoubledRBM, MeanFieldNet, StackedEnergy
from ebm_lightning.energies.boltzmann.units import Bernoulli, Gaussian, Softmax
from ebm_lightning.evaluation.metrics.annealing import Linear, ais
from ebm_lightning.objectives import Classification, ContrastiveDivergence
from ebm_lightning.samplers import Gibbs

KINDS = {
    "two layers": ([4], [3, 2], False, None),
    "three layers": ([3], [3, 2, 2], False, None),
    "centered": ([4], [3, 2], False, 0.1),
    "labeled": ([3], [2, 2], True, None),
    "labeled, centered": ([3], [2, 2], True, 0.1),
    "one layer": ([4], [3], False, None),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def machine(kind: str, **settings: object) -> DBM:
    shape, hidden, labeled, centering = KINDS[kind]
    labels = {"y": Softmax(3)} if labeled else None
    model = DBM({"x": Bernoulli(shape)}, hidden, labels, weight_std=0.7, centering=centering, **settings)
    perturbed(model)
    if centering is not None:
        for number in range(len(model.layers)):
            model.offset(number).uniform_()
    return model


def all_states(model: DBM) -> State:
    """Every joint state; the last variable changes fastest."""
    values = {
        name: torch.arange(3) if isinstance(model.units(name), Softmax) else bits(model.units(name).rows)
        for name in model.variables
    }
    rows = list(itertools.product(*(range(len(value)) for value in values.values())))
    columns = torch.tensor(rows).T
    return {name: value[column] for (name, value), column in zip(values.items(), columns, strict=True)}


def log_marginal(model: DBM, *names: str) -> dict[tuple[float, ...], float]:
    """log p* of every value of some variables, the others summed out by enumeration."""
    states = all_states(model)
    energies = model.energy(states).detach()
    groups: dict[tuple[float, ...], list[Tensor]] = {}
    keys = torch.cat([states[name].double().reshape(len(energies), -1) for name in names], 1)
    for key, energy in zip(keys.tolist(), energies, strict=True):
        groups.setdefault(tuple(key), []).append(-energy)
    return {key: float(torch.logsumexp(torch.stack(terms), 0)) for key, terms in groups.items()}


class TestEnergy:
    def test_two_layers_are_the_textbook_formula(self) -> None:
        model, state = machine("two layers"), all_states(machine("two layers"))
        x, h1, h2 = state["x"], state["h1"], state["h2"]
        (w1, w2), b = model.weights, {name: model.units(name).bias for name in model.variables}
        pairs = torch.einsum("ni,ij,nj->n", x, w1, h1) + torch.einsum("nj,jk,nk->n", h1, w2, h2)
        expected = -(x @ b["x"]) - h1 @ b["h1"] - h2 @ b["h2"] - pairs
        torch.testing.assert_close(model.energy(state), expected, rtol=1e-12, atol=1e-12)

    @kinds
    def test_conditionals_are_what_the_energy_implies_unit_by_unit(self, kind: str) -> None:
        model = machine(kind)
        states = all_states(model)
        for name in model.variables:
            if isinstance(model.units(name), Softmax):
                labels = torch.arange(3)
                energies = torch.stack([model.energy({**states, name: k.expand_as(states[name])}) for k in labels], 1)
                expected = torch.softmax(-energies, 1)
            else:
                expected = unit_probabilities(model.energy, states, name)
            torch.testing.assert_close(model.conditional(name, states).mean, expected, rtol=1e-10, atol=1e-12)

    def test_gaussian_visible_units_have_the_conditional_of_their_group(self) -> None:
        """log p(x | h) = -E + constant: differences of the energy are those of the log-probability."""
        model = perturbed(DBM({"x": Gaussian([3], std=0.7)}, [2, 2]))
        state = {"x": torch.randn(5, 3).double(), "h1": bits(2)[[0, 1, 2, 3, 1]], "h2": bits(2)[[3, 2, 1, 0, 0]]}
        other = {**state, "x": torch.randn(5, 3).double()}
        conditional = model.conditional("x", state)
        difference = conditional.log_prob(state["x"]) - conditional.log_prob(other["x"])
        torch.testing.assert_close(model.energy(other) - model.energy(state), difference)

    @pytest.mark.parametrize("kind", ["centered", "labeled, centered"])
    def test_moving_the_offsets_changes_no_probability(self, kind: str) -> None:
        model = machine(kind)
        states = all_states(model)
        before = probabilities(model, states)
        model.train().positive_phase({name: states[name][5:9] for name in (*model.layers[0], *model.labels)})
        assert not torch.equal(before, probabilities(model, states))  # in the last bits
        torch.testing.assert_close(probabilities(model, states), before, rtol=1e-10, atol=1e-14)

    @kinds
    def test_the_plain_form_is_the_same_energy(self, kind: str) -> None:
        model = machine(kind)
        states = all_states(model)
        biases, constant = model.plain()
        rows = [
            torch.cat([model.units(name).encode(states[name]) for name in layer], 1).double() for layer in model.layers
        ]
        own = sum(model.units(name).energy(states[name], bias) for name, bias in biases.items())
        pairs = sum(((rows[i] @ weight) * rows[i + 1]).sum(1) for i, weight in enumerate(model.weights))
        torch.testing.assert_close(own - pairs + constant, model.energy(states), rtol=1e-10, atol=1e-10)


class TestMeanField:
    @kinds
    def test_the_means_are_a_fixed_point_of_the_conditionals(self, kind: str) -> None:
        model = machine(kind, settle=500)
        state = model.positive_phase({"x": bits(model.units("x").rows)})
        for name in model.variables[1:]:
            torch.testing.assert_close(model.conditional(name, state).mean, state[name], rtol=0, atol=1e-5)

    @kinds
    def test_the_bound_lies_above_the_exact_free_energy(self, kind: str) -> None:
        model = machine(kind, settle=500)
        x = bits(model.units("x").rows)
        exact = torch.tensor([-log_marginal(model, "x")[tuple(row)] for row in x.tolist()], dtype=torch.float64)
        slack = model.free_energy({"x": x}) - exact
        assert float(slack.min()) > -1e-12
        if kind == "one layer":  # its posterior is factorial
            assert float(slack.abs().max()) < 1e-6

    def test_labels_that_are_there_are_clamped(self) -> None:
        model = machine("labeled", settle=500)
        exact = log_marginal(model, "x", "y")
        states = {"x": bits(3).repeat(3, 1), "y": torch.arange(3).repeat_interleave(8)}
        found = model.free_energy(states)
        for i in range(24):
            assert float(found[i]) >= -exact[(*states["x"][i].tolist(), float(states["y"][i]))] - 1e-12

    def test_the_first_pass_doubles_the_input_from_below(self) -> None:
        """Unless another sweep follows: with no sweep the state is that of the first pass."""
        model, x = machine("two layers"), bits(4)
        (w1, w2), c1, c2 = model.weights, model.units("h1").bias, model.units("h2").bias
        first = torch.sigmoid(2 * x @ w1 + c1)
        second = torch.sigmoid(first @ w2 + c2)
        state = model._settled({"x": x}, 0)
        torch.testing.assert_close(state["h1"], first)
        torch.testing.assert_close(state["h2"], second)

    def test_sweeps_lower_the_free_energy(self) -> None:
        model, x = machine("three layers"), bits(3)
        bounds = []
        for sweeps in (1, 2, 4, 8):
            model.settle = sweeps
            bounds.append(model.free_energy({"x": x}))
        for earlier, later in itertools.pairwise(bounds):
            assert bool((later <= earlier + 1e-12).all())

    def test_a_label_is_classified_by_its_mean(self) -> None:
        model = machine("labeled", settle=500)
        conditional = model.conditional("y", {"x": bits(3)})
        torch.testing.assert_close(conditional.mean, model.positive_phase({"x": bits(3)})["y"])


class TestPartition:
    @kinds
    def test_log_z_is_the_sum_over_all_states(self, kind: str) -> None:
        model = machine(kind)
        expected = torch.logsumexp(-model.energy(all_states(model)), 0)
        torch.testing.assert_close(model.log_partition(), expected.detach(), rtol=1e-10, atol=1e-10)

    @kinds
    def test_the_path_weighs_as_its_distributions_do(self, kind: str) -> None:
        """The weight of a move is the difference of log p*, and at both ends log p* is known from enumeration."""
        model = machine(kind)
        path = model.annealing_path()
        odd = list(path.machine.odd)
        exact = log_marginal(model, *odd)
        values = all_states(model)
        keys = torch.cat([values[name].double().reshape(len(values[name]), -1) for name in odd], 1)
        _, weight = path.move({name: values[name] for name in odd}, 0.0, 1.0)
        at_one = torch.tensor([exact[tuple(key)] for key in keys.tolist()], dtype=torch.float64)
        at_zero = torch.stack(
            [
                model.units(name).log_normaliser(torch.zeros(1, model.units(name).rows).double(), path.begin[name])
                for name in path.machine.even
            ]
        ).sum()
        torch.testing.assert_close(weight, at_one - at_zero, rtol=1e-10, atol=1e-10)

    @kinds
    def test_ais_is_within_its_interval_and_close(self, kind: str) -> None:
        model = machine(kind)
        estimate = ais(model.annealing_path([{"x": bits(model.units("x").rows)}]), Linear(1000)(), 200)
        assert abs(estimate.log_z - float(model.log_partition())) < 0.3
        assert not estimate.warning

    def test_a_transition_leaves_its_distribution_invariant(self) -> None:
        model = machine("labeled")
        path = model.annealing_path()
        states = all_states(model)
        rows = torch.multinomial(probabilities(model, states), 200_000, replacement=True)
        moved, _ = path.move({name: states[name][rows] for name in path.machine.odd}, 1.0, 1.0)
        exact = log_marginal(model, "h1", "y")
        cells = [exact[(*h1, y)] for h1 in bits(2).tolist() for y in (0.0, 1.0, 2.0)]
        counts = torch.bincount(3 * index_of(moved["h1"]) + moved["y"], minlength=12)
        assert_counts(counts, torch.softmax(torch.tensor(cells, dtype=torch.float64), 0))

    def test_what_is_too_large_is_refused_with_its_cost(self) -> None:
        with pytest.raises(ValueError, match=r"odd side sums 2\^500 states.*AIS"):
            DBM({"x": Bernoulli([784])}, [500, 1000]).log_partition()


class TestLearning:
    @kinds
    def test_the_contrast_from_exact_samples_has_the_gradient_of_the_bound(self, kind: str) -> None:
        """d/dtheta [F(data) + log Z], by enumeration, against the contrast with draws from the model's own law."""
        model = machine(kind, settle=500)
        states = all_states(model)
        data = {"x": bits(model.units("x").rows)[:4]}
        pos = model.positive_phase(data)
        bound = model.energy(pos).mean() + torch.logsumexp(-model.energy(states), 0)
        parameters = [*model.parameters()]
        exact = torch.autograd.grad(bound, parameters)
        n = 100_000
        rows = torch.multinomial(probabilities(model, states), n, replacement=True)
        neg = {name: value[rows] for name, value in states.items()}
        terms = ContrastiveDivergence()(model, pos, neg)
        found = torch.autograd.grad(terms["loss"], parameters)
        z = float(stats.norm.isf(FALSE_ALARM / (2 * sum(p.numel() for p in parameters))))
        for a, b in zip(exact, found, strict=True):  # a product of two units varies by 1/4 at most, of offsets by 1
            assert float((a - b).abs().max()) < z / math.sqrt(n)

    def test_gibbs_sweeps_reach_the_law_of_the_energy(self) -> None:
        model = machine("three layers")
        states = all_states(model)
        start = {name: torch.zeros(20_000, model.units(name).rows).double() for name in model.variables}
        end, _ = run(Gibbs(("h1", "h3", "x", "h2")), model, start, 60)
        joined = torch.cat([end[name] for name in model.variables], 1)
        counts = torch.bincount(index_of(joined), minlength=len(states["x"]))
        assert_counts(counts, probabilities(model, states))

    def test_data_set_the_biases_and_offsets(self) -> None:
        model = DBM({"x": Bernoulli([3])}, [2, 2], {"y": Softmax(2)}, centering=0.01)
        x = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]])
        model.initialize([{"x": x, "y": torch.tensor([0, 1, 1, 1])}])
        torch.testing.assert_close(model.offset(0), x.mean(0))
        torch.testing.assert_close(torch.sigmoid(model.units("x").bias)[:2], x.mean(0)[:2])
        torch.testing.assert_close(torch.softmax(model.units("y").bias, 0), torch.tensor([0.25, 0.75]))


class TestPretraining:
    def test_a_doubled_layer_counts_its_input_twice(self) -> None:
        rbm = perturbed(RBM({"x": Bernoulli([4])}, 3, weight_std=0.5))
        up, down = DoubledRBM(rbm, up=2), DoubledRBM(rbm, down=2)
        x, h = bits(4), bits(3)
        torch.testing.assert_close(up.conditional("h", {"x": x}).mean, torch.sigmoid(2 * rbm.hidden_logits({"x": x})))
        torch.testing.assert_close(
            up.conditional("x", {"x": x, "h": x[:, :3]}).mean, rbm.conditional("x", {"h": x[:, :3]}).mean
        )
        twice = torch.sigmoid(2 * (h @ rbm.weight.T + rbm.units("x").bias))
        torch.testing.assert_close(down.conditional("x", {"h": h}).mean, twice)

    def test_the_contrast_of_a_doubled_layer_is_the_ordinary_rule(self) -> None:
        rbm = perturbed(RBM({"x": Bernoulli([4])}, 3))
        model, v, w = DoubledRBM(rbm, up=2), bits(4)[:6], bits(4)[6:10]
        loss = ContrastiveDivergence()(model, {"x": v}, {"x": w})["loss"]
        (found,) = torch.autograd.grad(loss, [rbm.weight])
        p, q = (torch.sigmoid(2 * rbm.hidden_logits({"x": x})).detach() for x in (v, w))
        torch.testing.assert_close(found, w.T @ q / len(w) - v.T @ p / len(v))

    def test_a_layer_on_top_sees_the_hidden_units_of_the_one_below(self) -> None:
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

    def test_a_middle_layer_trained_as_a_plain_machine_is_halved(self) -> None:
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


class TestFineTuning:
    def test_the_network_begins_as_one_more_sweep(self) -> None:
        """At the fixed point another sweep changes nothing: its hidden layers are the mean-field activities."""
        dbm = machine("three layers")
        net, x = MeanFieldNet(dbm, 4, sweeps=500).double(), bits(3)
        settled, state = dbm.positive_phase({"x": x}), net.positive_phase({"x": x})
        assert set(state) == {"x", "mu2", "mu3"}
        logits = settled["h3"] @ net.output.weight.T + net.output.bias
        torch.testing.assert_close(net.logits(state), logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(net.conditional("y", {"x": x}).logits, net.logits(state))
        energy = net.energy({**state, "y": torch.full((8,), 2)})
        torch.testing.assert_close(energy, -net.logits(state)[:, 2])

    def test_the_machine_stays_as_it_is(self) -> None:
        net = MeanFieldNet(machine("two layers"), 2).double()
        pos = net.positive_phase({"x": bits(4), "y": torch.arange(16) % 2})
        Classification()(net, pos, None)["loss"].backward()
        moved = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
        assert moved == {name for name, _ in net.named_parameters() if not name.startswith(("dbm.", "label."))}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: DBM({"x": Bernoulli([4])}, []), "at least one"),
        (lambda: DBM({"h1": Bernoulli([4])}, [3]), "no group called h1"),
        (lambda: DBM({"x": Bernoulli([4])}, [3], centering=2.0), r"rate in \[0, 1\]"),
        (
            lambda: DBM({"x": Bernoulli([4])}, [3], centering=0.1, pretrained=[RBM({"x": Bernoulli([4])}, 3)]),
            "only one",
        ),
        (lambda: DBM({"x": Bernoulli([4])}, [3]).positive_phase({"y": torch.zeros(1)}), "depends on .'x'."),
        (lambda: DBM({"x": Bernoulli([4])}, [3]).conditional("y", {}), r"variables \('x', 'h1'\), got 'y'"),
        (
            lambda: (model := machine("labeled")).check(model.positive_phase({"x": bits(3)})),
            "trained with 'y', but the data hold none",
        ),
        (lambda: DoubledRBM(RBM({"x": Bernoulli([4])}, 3), up=0), "up=0"),
        (lambda: MeanFieldNet(machine("centered"), 3), "without centering"),
        (lambda: MeanFieldNet(machine("two layers"), 3).check({"x": 2 * bits(4)}), r"values in \[0, 1\]"),
        (lambda: MeanFieldNet(machine("two layers"), 3).check({"x": bits(4)}), "hold none"),
        (lambda: DoubledRBM(RBM({"x": Bernoulli([4])}, 3, centering=0.1)), "without centering"),
        (lambda: StackedEnergy(RBM({"x": Bernoulli([4])}, 3), RBM({"x": Bernoulli([4])}, 3), "z"), "name one of them"),
    ],
)
def test_mistakes_are_answered_in_words(act, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()
