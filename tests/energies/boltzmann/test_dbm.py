"""Deep Boltzmann machines and their layerwise pretraining against enumeration, unit by unit and state by state."""

import itertools
import math

import pytest
import torch
from scipy import stats
from support.boltzmann import KINDS, deep_machine
from support.oracles import FALSE_ALARM, Z, assert_counts, bits, index_of, perturbed, probabilities, unit_probabilities
from torch import Tensor

from ebm_lightning.core import State, run_chain
from ebm_lightning.energies import DBM, RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli, Gaussian, Softmax
from ebm_lightning.evaluation.metrics.annealing import Linear, ais
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import Gibbs

kinds = pytest.mark.parametrize("kind", KINDS)


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
        model, state = deep_machine("two layers"), all_states(deep_machine("two layers"))
        x, h1, h2 = state["x"], state["h1"], state["h2"]
        (w1, w2), b = model.weights, {name: model.units(name).bias for name in model.variables}
        pairs = torch.einsum("ni,ij,nj->n", x, w1, h1) + torch.einsum("nj,jk,nk->n", h1, w2, h2)
        expected = -(x @ b["x"]) - h1 @ b["h1"] - h2 @ b["h2"] - pairs
        torch.testing.assert_close(model.energy(state), expected, rtol=1e-12, atol=1e-12)

    @kinds
    def test_conditionals_are_what_the_energy_implies_unit_by_unit(self, kind: str) -> None:
        model = deep_machine(kind)
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
        model = deep_machine(kind)
        states = all_states(model)
        before = probabilities(model, states)
        model.train().positive_phase({name: states[name][5:9] for name in (*model.layers[0], *model.labels)})
        assert not torch.equal(before, probabilities(model, states))  # in the last bits
        torch.testing.assert_close(probabilities(model, states), before, rtol=1e-10, atol=1e-14)

    @kinds
    def test_the_plain_form_is_the_same_energy(self, kind: str) -> None:
        model = deep_machine(kind)
        states = all_states(model)
        biases, constant = model.uncentered()
        rows = [
            torch.cat([model.units(name).encode(states[name]) for name in layer], 1).double() for layer in model.layers
        ]
        own = sum(model.units(name).energy(states[name], bias) for name, bias in biases.items())
        pairs = sum(((rows[i] @ weight) * rows[i + 1]).sum(1) for i, weight in enumerate(model.weights))
        torch.testing.assert_close(own - pairs + constant, model.energy(states), rtol=1e-10, atol=1e-10)


class TestMeanField:
    @kinds
    def test_the_means_are_a_fixed_point_of_the_conditionals(self, kind: str) -> None:
        """Sweeps end where none moves a mean by 1e-7 on average."""
        model = deep_machine(kind, max_mean_field_steps=500)
        state = model.positive_phase({"x": bits(model.units("x").rows)})
        for name in model.variables[1:]:
            torch.testing.assert_close(
                model.conditional(name, state).mean, state[name], rtol=0, atol=1e-7 * state[name].numel()
            )

    @kinds
    def test_the_bound_lies_above_the_exact_free_energy(self, kind: str) -> None:
        model = deep_machine(kind, max_mean_field_steps=500)
        x = bits(model.units("x").rows)
        exact = torch.tensor([-log_marginal(model, "x")[tuple(row)] for row in x.tolist()], dtype=torch.float64)
        slack = model.free_energy({"x": x}) - exact
        assert float(slack.detach().min()) > -1e-12
        if kind == "one layer":  # its posterior is factorial
            assert float(slack.detach().abs().max()) < 1e-12

    def test_labels_that_are_there_are_clamped(self) -> None:
        model = deep_machine("labeled", max_mean_field_steps=500)
        exact = log_marginal(model, "x", "y")
        states = {"x": bits(3).repeat(3, 1), "y": torch.arange(3).repeat_interleave(8)}
        found = model.free_energy(states)
        for i in range(24):
            assert float(found[i].detach()) >= -exact[(*states["x"][i].tolist(), float(states["y"][i]))] - 1e-12

    def test_the_first_pass_doubles_the_input_from_below(self) -> None:
        """Unless another sweep follows: with no sweep the state is that of the first pass."""
        model, x = deep_machine("two layers"), bits(4)
        (w1, w2), c1, c2 = model.weights, model.units("h1").bias, model.units("h2").bias
        first = torch.sigmoid(2 * x @ w1 + c1)
        second = torch.sigmoid(first @ w2 + c2)
        state = model._mean_field_means({"x": x}, 0)
        torch.testing.assert_close(state["h1"], first)
        torch.testing.assert_close(state["h2"], second)

    def test_sweeps_lower_the_free_energy(self) -> None:
        model, x = deep_machine("three layers"), bits(3)
        bounds = []
        for sweeps in (1, 2, 4, 8):
            model.settle = sweeps
            bounds.append(model.free_energy({"x": x}))
        for earlier, later in itertools.pairwise(bounds):
            assert bool((later <= earlier + 1e-12).all())

    def test_a_label_is_classified_by_its_mean(self) -> None:
        model = deep_machine("labeled", max_mean_field_steps=500)
        conditional = model.conditional("y", {"x": bits(3)})
        torch.testing.assert_close(conditional.mean, model.positive_phase({"x": bits(3)})["y"])


class TestPartition:
    @kinds
    def test_log_z_is_the_sum_over_all_states(self, kind: str) -> None:
        model = deep_machine(kind)
        expected = torch.logsumexp(-model.energy(all_states(model)), 0)
        torch.testing.assert_close(model.log_partition(), expected.detach(), rtol=1e-10, atol=1e-10)

    @kinds
    def test_the_path_weighs_as_its_distributions_do(self, kind: str) -> None:
        """The weight of a move is the difference of log p*, and at both ends log p* is known from enumeration."""
        model = deep_machine(kind)
        path = model.annealing_path()
        odd = list(path.machine.odd)
        exact = log_marginal(model, *odd)
        values = all_states(model)
        keys = torch.cat([values[name].double().reshape(len(values[name]), -1) for name in odd], 1)
        _, weight = path.move({name: values[name] for name in odd}, 0.0, 1.0)
        at_one = torch.tensor([exact[tuple(key)] for key in keys.tolist()], dtype=torch.float64)
        at_zero = torch.stack(
            [
                model.units(name).log_normalizer(torch.zeros(1, model.units(name).rows).double(), path.begin[name])
                for name in path.machine.even
            ]
        ).sum()
        torch.testing.assert_close(weight, at_one - at_zero, rtol=1e-10, atol=1e-10)

    @kinds
    def test_ais_is_within_its_interval_and_close(self, kind: str) -> None:
        model = deep_machine(kind)
        estimate = ais(model.annealing_path([{"x": bits(model.units("x").rows)}]), Linear(1000)(), 200)
        assert abs(estimate.log_z - float(model.log_partition())) < Z * estimate.standard_error < 0.3
        assert not estimate.warning

    def test_a_transition_leaves_its_distribution_invariant(self) -> None:
        model = deep_machine("labeled")
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
        model = deep_machine(kind, max_mean_field_steps=500)
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
        model = deep_machine("three layers")
        states = all_states(model)
        start = {name: torch.zeros(20_000, model.units(name).rows).double() for name in model.variables}
        end, _ = run_chain(Gibbs(("h1", "h3", "x", "h2")), model, start, 60)
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
            lambda: (model := deep_machine("labeled")).check(model.positive_phase({"x": bits(3)})),
            "trained with 'y', but the data hold none",
        ),
    ],
)
def test_mistakes_are_refused_with_a_message(act, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()
