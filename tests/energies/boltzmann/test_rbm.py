"""Boltzmann machines with any visible units against enumeration, quadrature and an independent implementation."""

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
    log_partition,
    mixed,
    mixed_rbm,
    perturbed,
    probabilities,
)
from torch import Tensor

from ebm_lightning.core import EnergyModel, State, energy_grad
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli, Gaussian, Softmax
from ebm_lightning.samplers import Gibbs

F64 = torch.float64


def binary_rbm(visible: int = 5, hidden: int = 3, **settings: object) -> RBM:
    model = RBM({"v": Bernoulli([visible])}, hidden, weight_std=1.0, **settings)
    perturbed(model)
    if model.centering is not None:
        model.row_offset.uniform_()
        model.hidden_offset.uniform_()
    return model


def labeled_rbm(centering: float | None = None) -> RBM:
    model = RBM({"x": Bernoulli([4]), "y": Softmax(3)}, 3, weight_std=1.0, centering=centering)
    perturbed(model)
    if centering is not None:
        model.row_offset.uniform_()
        model.hidden_offset.uniform_()
    return model


def labeled_states() -> State:
    """All 48 states of :func:`labeled_rbm`; the label changes slowest."""
    return {"x": bits(4).repeat(3, 1), "y": torch.arange(3).repeat_interleave(16)}


centered = pytest.mark.parametrize("centering", [None, 0.1])


class TestEnergy:
    @centered
    def test_free_energy_is_the_joint_with_the_hidden_units_summed_out(self, centering: float | None) -> None:
        model, state, h = perturbed(mixed_rbm(centering)), mixed(4), bits(3)
        for i in range(4):
            one = {name: value[i : i + 1].expand(8, *value.shape[1:]) for name, value in state.items()}
            marginal = -torch.logsumexp(-model.joint({**one, "h": h}), 0)
            torch.testing.assert_close(model.energy(state)[i], marginal, rtol=1e-12, atol=1e-12)

    def test_one_binary_group_is_the_textbook_formula(self) -> None:
        model, v, h = binary_rbm(), bits(5)[3:9], bits(3)[1:7]
        b, c, w = model.units("v").bias, model.hidden_bias, model.weight
        free = -(v @ b) - torch.log1p(torch.exp(c + v @ w)).sum(1)
        joint = -(v @ b) - h @ c - torch.einsum("bi,ij,bj->b", v, w, h)
        torch.testing.assert_close(model.energy({"v": v}), free, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.joint({"v": v, "h": h}), joint, rtol=1e-12, atol=1e-12)

    def test_gradient_of_the_contrast_is_hintons_rule(self) -> None:
        model = binary_rbm()
        data, samples = torch.rand(6, 5, dtype=F64), torch.randint(0, 2, (4, 5)).double()
        (model.energy({"v": data}).mean() - model.energy({"v": samples}).mean()).backward()
        on, sampled = model.conditional("h", {"v": data}).mean, model.conditional("h", {"v": samples}).mean
        rules = {
            model.weight: data.T @ on / 6 - samples.T @ sampled / 4,
            model.units("v").bias: data.mean(0) - samples.mean(0),
            model.hidden_bias: on.mean(0) - sampled.mean(0),
        }
        for parameter, rule in rules.items():
            torch.testing.assert_close(parameter.grad, -rule, rtol=1e-12, atol=1e-12)

    def test_gradient_of_the_likelihood_vanishes_in_expectation_under_the_model(self) -> None:
        model, v = binary_rbm(), bits(5)
        p = probabilities(model, {"v": v})
        (torch.logsumexp(-model.energy({"v": v}), 0) + (p * model.energy({"v": v})).sum()).backward()
        for parameter in model.parameters():
            torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter), rtol=0, atol=1e-12)

    def test_normal_units_follow_the_first_convention(self) -> None:
        """p(v | h) = N(a + s W h, s^2) and the input of h is v / s (Hinton 2010, equation 17)."""
        model = RBM({"x": Gaussian([2], std=0.5)}, 2, weight_std=1.0)
        perturbed(model)
        h = torch.tensor([[1.0, 0.0]], dtype=F64)
        law = model.conditional("x", {"h": h})
        torch.testing.assert_close(law.mean, model.units("x").bias + 0.5 * h @ model.weight.T)
        x = torch.tensor([[0.3, -1.2]], dtype=F64)
        energies = [float(model.joint({"x": x + step, "h": h}).detach()) for step in (-1, 0, 1)]
        curvature = energies[0] - 2 * energies[1] + energies[2]  # exact for a quadratic function
        assert curvature == pytest.approx(2 / 0.5**2, rel=1e-12)  # both coordinates moved at once
        grad, _ = energy_grad(model, {"x": x}, "x")
        on = model.conditional("h", {"x": x}).mean
        torch.testing.assert_close(grad, (x - model.units("x").bias) / 0.25 - on @ model.weight.T / 0.5)


class TestCentring:
    def test_moving_the_offsets_moves_no_probability(self) -> None:
        model = labeled_rbm(centering=0.3)
        states = labeled_states()
        before = probabilities(model, states)
        model.train()
        batch = {name: value[5:9] for name, value in states.items()}
        offset = model.hidden_offset.clone()
        on = torch.sigmoid(model.hidden_logits(batch)).mean(0).detach()
        assert model.positive_phase(batch) is batch
        torch.testing.assert_close(model.hidden_offset, offset + 0.3 * (on - offset))
        torch.testing.assert_close(probabilities(model, states), before, rtol=1e-12, atol=1e-12)

    def test_the_offsets_rest_in_evaluation_and_under_no_grad(self) -> None:
        model = labeled_rbm(centering=0.3)
        offset = model.hidden_offset.clone()
        model.positive_phase(labeled_states())
        model.train()
        with torch.no_grad():
            model.positive_phase(labeled_states())
        assert torch.equal(model.hidden_offset, offset)

    def test_the_plain_form_is_the_same_energy(self) -> None:
        model, states = labeled_rbm(centering=0.1), labeled_states()
        biases, hidden_bias, constant = model.uncentered()
        plain = labeled_rbm()
        with torch.no_grad():
            plain.weight.copy_(model.weight)
            plain.hidden_bias.copy_(hidden_bias)
            for name, bias in biases.items():
                plain.units(name).bias.copy_(bias)
        torch.testing.assert_close(plain.energy(states) + constant, model.energy(states), rtol=1e-12, atol=1e-12)

    def test_the_gradient_is_the_centered_one(self) -> None:
        """dW = <(v - mu)(h - lambda)>_data - <...>_model, the biases' as without (Melchior et al. 2016)."""
        model = binary_rbm(centering=0.1)
        data, samples = bits(5)[3:9], bits(5)[10:20]
        (model.energy({"v": data}).mean() - model.energy({"v": samples}).mean()).backward()

        def moment(v: Tensor) -> Tensor:
            on = torch.sigmoid(model.hidden_logits({"v": v}))
            return (v - model.row_offset).T @ (on - model.hidden_offset) / len(v)

        torch.testing.assert_close(-model.weight.grad, moment(data) - moment(samples), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(-model.units("v").bias.grad, data.mean(0) - samples.mean(0))

    def test_flipping_bits_flips_a_centered_gradient_and_nothing_else(self) -> None:
        """The machine of 1 - v with flipped offsets and weights has the same gradient up to sign."""
        model = binary_rbm(centering=0.1)
        flipped = binary_rbm(centering=0.1)
        with torch.no_grad():
            flipped.weight.copy_(-model.weight)
            flipped.units("v").bias.copy_(-model.units("v").bias)
            flipped.hidden_bias.copy_(model.hidden_bias)
            flipped.row_offset.copy_(1 - model.row_offset)
            flipped.hidden_offset.copy_(model.hidden_offset)
        data, samples = bits(5)[3:9], bits(5)[10:20]
        (model.energy({"v": data}).mean() - model.energy({"v": samples}).mean()).backward()
        (flipped.energy({"v": 1 - data}).mean() - flipped.energy({"v": 1 - samples}).mean()).backward()
        torch.testing.assert_close(flipped.weight.grad, -model.weight.grad, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(flipped.hidden_bias.grad, model.hidden_bias.grad, rtol=1e-12, atol=1e-12)


class TestConditionals:
    @centered
    def test_discrete_groups_against_the_joint_energy(self, centering: float | None) -> None:
        """p(group | h) ~ exp(-E(group, rest, h)) over every value of the group."""
        model, state = perturbed(mixed_rbm(centering)), {**mixed(3), "h": bits(3)[2:5]}
        values = {"v": bits(4).view(16, 2, 2), "y": torch.arange(3), "z": torch.cartesian_prod(*[torch.arange(2)] * 2)}
        for name, of_group in values.items():
            for i in range(3):
                one = {key: value[i : i + 1].expand(len(of_group), *value.shape[1:]) for key, value in state.items()}
                everything = {**one, name: of_group}
                expected = torch.log_softmax(-model.joint(everything), 0)
                found = model.conditional(name, one).log_prob(of_group)
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)

    @centered
    def test_a_label_without_hidden_units_is_exact(self, centering: float | None) -> None:
        model, states = labeled_rbm(centering), labeled_states()
        log_p = -model.energy(states).view(3, 16)
        expected = torch.log_softmax(log_p, 0)
        law = model.conditional("y", {"x": bits(4)})
        torch.testing.assert_close(law.mean.T, expected.exp(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(law.log_prob(torch.ones(16, dtype=torch.int64)), expected[1], rtol=1e-12, atol=1e-12)

    def test_what_is_missing_is_said(self) -> None:
        model = labeled_rbm()
        with pytest.raises(ValueError, match=r"depends on \['y'\], but the state has \['x'\]: supply it in the batch"):
            model.conditional("h", {"x": bits(4)})
        with pytest.raises(ValueError, match=r"p\(x \| h\) needs 'h', but the state has \['x'\]"):
            model.conditional("x", {"x": bits(4)})
        with pytest.raises(ValueError, match=r"depends on \['y'\]"):
            model.check({"x": bits(4)})

    def test_gibbs_over_data_and_label_settles_in_the_law_of_both(self) -> None:
        model, n = labeled_rbm(), 20_000
        state = {"x": torch.zeros(n, 4, dtype=F64), "y": torch.zeros(n, dtype=torch.int64)}
        with torch.no_grad():
            for _ in range(60):
                state, _ = Gibbs(("h", "x", "y")).step(model, state)
        counts = torch.bincount(state["y"] * 16 + index_of(state["x"]), minlength=48)
        assert_counts(counts, probabilities(model, labeled_states()))

    def test_normal_units_sample_their_law(self) -> None:
        model = RBM({"x": Gaussian([2], std=0.7)}, 2, weight_std=1.0)
        perturbed(model)
        law = model.conditional("x", {"h": torch.ones(40_000, 2, dtype=F64)})
        draws = law.sample()
        assert_means(draws, law.mean[0])
        assert_means((draws - law.mean).square(), torch.full((2,), 0.49, dtype=F64))
        x = torch.tensor([[0.1, 0.2]], dtype=F64)
        expected = stats.norm(law.mean[:1].detach(), 0.7).logpdf(x).sum()
        found = model.conditional("x", {"h": torch.ones(1, 2, dtype=F64)}).log_prob(x).detach()
        assert float(found) == pytest.approx(expected)


class TestPartition:
    @pytest.mark.parametrize(("visible", "hidden"), [(5, 3), (3, 5), (1, 4), (6, 1)])
    @centered
    def test_either_side_enumerated_equals_the_sum_over_all_states(
        self, visible: int, hidden: int, centering: float | None
    ) -> None:
        model = binary_rbm(visible, hidden, centering=centering)
        everything = torch.logsumexp(-model.energy({"v": bits(visible)}), 0)
        torch.testing.assert_close(model.log_partition(), everything.detach(), rtol=1e-12, atol=1e-12)

    @centered
    def test_with_a_label(self, centering: float | None) -> None:
        model = labeled_rbm(centering)
        everything = torch.logsumexp(-model.energy(labeled_states()), 0)
        torch.testing.assert_close(model.log_partition(), everything.detach(), rtol=1e-12, atol=1e-12)

    def test_normal_units_by_quadrature(self) -> None:
        model = RBM({"x": Gaussian([2], std=0.7)}, 3, weight_std=1.0)
        perturbed(model)
        axis = torch.linspace(-12, 12, 241, dtype=F64)  # the trapezoidal rule is exact to exp(-2 (pi std / 0.1)^2)
        total = log_partition(model, {"x": torch.cartesian_prod(axis, axis)}) + 2 * math.log(0.1)
        torch.testing.assert_close(model.log_partition(), total, rtol=1e-12, atol=1e-12)

    def test_too_many_units_are_refused_with_what_it_would_cost(self) -> None:
        with pytest.raises(
            ValueError, match=r"sums 2\^30 states of 40 units, about .* hours: expected at most 25 units"
        ):
            RBM({"v": Bernoulli([40])}, 30).log_partition()

    def test_a_large_sum_is_the_same_fused_and_not(self) -> None:
        """16 of 100 units through the compiled kernel, in blocks, against one matrix product and softplus."""
        model = RBM({"v": Bernoulli([100])}, 16, weight_std=0.3)
        h = bits(16)
        fields = h @ model.weight.double().T + model.units("v").bias.double()
        expected = torch.logsumexp(h @ model.hidden_bias.double() + torch.nn.functional.softplus(fields).sum(1), 0)
        torch.testing.assert_close(model.log_partition(), expected.detach(), rtol=1e-12, atol=1e-12)


class TestPath:
    @centered
    def test_ends_and_weights_are_those_of_the_formula(self, centering: float | None) -> None:
        """At beta = 1 the model, at beta = 0 independent units of known log Z; weights are energy differences."""
        model, states = labeled_rbm(centering), labeled_states()
        path = model.annealing_path([{name: value[:7] for name, value in states.items()}])
        rows = {name: path.begin[name] for name in ("x", "y")}
        known = 3 * math.log(2) + torch.nn.functional.softplus(rows["x"]).sum() + torch.logsumexp(rows["y"], 0)
        assert path.log_partition == pytest.approx(float(known), abs=1e-6)
        _, up = path.move(states, 0.0, 1.0)
        at_begin = states["x"] @ rows["x"] + rows["y"][states["y"]] + 3 * math.log(2)
        torch.testing.assert_close(up, -model.energy(states).detach() - at_begin.detach(), rtol=1e-10, atol=1e-10)
        _, down = path.move(states, 1.0, 0.0)
        torch.testing.assert_close(down, -up)

    def test_a_transition_leaves_its_distribution_invariant(self) -> None:
        model, n = labeled_rbm(), 40_000
        path = model.annealing_path()
        states = labeled_states()
        _, weight = path.move(states, 0.0, 0.6)
        _, first = path.move(states, 0.0, 0.0)
        base = -sum(model.units(name).energy(states[name], path.begin[name]) for name in ("x", "y"))
        p = torch.softmax(base + weight - first, 0).detach()
        chosen = torch.multinomial(p, n, replacement=True)
        moved, _ = path.move({name: value[chosen] for name, value in states.items()}, 0.6, 0.6)
        assert_counts(torch.bincount(moved["y"] * 16 + index_of(moved["x"]), minlength=48), p)

    def test_the_start_is_drawn_from_the_base(self) -> None:
        model = labeled_rbm()
        path = model.annealing_path()
        state = path.start(30_000)
        assert_means(state["x"], torch.sigmoid(path.begin["x"]).detach())
        assert_counts(torch.bincount(state["y"], minlength=3), torch.softmax(path.begin["y"], 0).detach())


class TestData:
    def test_biases_begin_at_the_data(self) -> None:
        model = RBM({"x": Bernoulli([1, 2, 2]), "y": Softmax(2)}, 3, weight_std=0.0, centering=0.01).double()
        x = torch.tensor([[0, 0, 1, 1.0], [0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1]], dtype=F64).view(4, 1, 2, 2)
        batch = {"x": x, "y": torch.tensor([0, 0, 0, 1])}
        model.initialize([{name: value[:2] for name, value in batch.items()}, {k: v[2:] for k, v in batch.items()}])
        zeros = {"h": model.hidden_offset[None]}
        on = model.conditional("x", zeros).mean.flatten()
        torch.testing.assert_close(on, torch.tensor([1e-3, 0.25, 0.5, 1 - 1e-3], dtype=F64))
        torch.testing.assert_close(model.conditional("y", zeros).mean[0], torch.tensor([0.75, 0.25], dtype=F64))
        torch.testing.assert_close(model.row_offset, torch.cat([x.flatten(1).mean(0), on.new_tensor([0.75, 0.25])]))

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: RBM({}, 3), "at least one unit"),
            (lambda: RBM({"h": Bernoulli([2])}, 3), "no group called h"),
            (lambda: RBM({"x": Bernoulli([2])}, 3, centering=2.0), r"a rate in \[0, 1\]"),
            (lambda: Softmax(1), "at least 2"),
            (lambda: Gaussian([2], std=0.0), "a number > 0"),
        ],
    )
    def test_bad_arguments(self, make, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            make()

    def test_filters_have_the_shape_of_the_data(self) -> None:
        model = RBM({"x": Bernoulli([1, 2, 3]), "y": Softmax(2)}, 5)
        assert model.filters("x").shape == (5, 1, 2, 3)
        assert torch.equal(model.filters("x")[4].flatten(), model.weight[:6, 4])


def test_scikit_learn_agrees_on_energies_and_on_the_law_of_a_gibbs_sweep() -> None:
    from sklearn.neural_network import BernoulliRBM

    model = binary_rbm()
    other = BernoulliRBM(3, random_state=0)
    other.components_ = model.weight.T.detach().numpy()
    other.intercept_hidden_ = model.hidden_bias.detach().numpy()
    other.intercept_visible_ = model.units("v").bias.detach().numpy()
    other.random_state_ = __import__("numpy").random.RandomState(0)
    v = bits(5)
    torch.testing.assert_close(torch.from_numpy(other._free_energy(v.numpy())), model.energy({"v": v}).detach())
    n, start = 20_000, bits(5)[11:12].expand(20_000, -1)
    theirs = torch.bincount(index_of(torch.from_numpy(other.gibbs(start.numpy())).double()), minlength=32)
    with torch.no_grad():
        ours = torch.bincount(index_of(Gibbs(("h", "v")).step(model, {"v": start})[0]["v"]), minlength=32)
    together = (theirs + ours).double() / (2 * n)
    few = together * n < 5
    table = torch.stack([theirs, ours])[:, ~few].numpy()
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


def test_rbms_agrees_on_energies() -> None:
    rbms = pytest.importorskip("rbms.bernoulli_bernoulli.classes", reason="the peer `rbms` is not installed")
    model = binary_rbm()
    other = rbms.BBRBM(
        weight_matrix=model.weight.detach(), vbias=model.units("v").bias.detach(), hbias=model.hidden_bias.detach()
    )
    v, h = bits(5)[:8], bits(3)
    torch.testing.assert_close(other.compute_energy_visibles(v), model.energy({"v": v}).detach())
    torch.testing.assert_close(other.compute_energy(v, h), model.joint({"v": v, "h": h}).detach())


def test_a_tempered_machine_is_that_of_the_joint_energy() -> None:
    """exp(-beta E(v, h)) with h summed out, for one beta and for one beta for each example."""
    model = binary_rbm()
    v, h = bits(5), bits(3)
    pairs = list(itertools.product(range(32), range(8)))
    rows = torch.tensor(pairs)
    joint = model.joint({"v": v[rows[:, 0]], "h": h[rows[:, 1]]}).view(32, 8)
    for beta in (0.3, 1.0):
        tempered: EnergyModel = model.tempered(beta)
        expected = -torch.logsumexp(-beta * joint, 1)
        torch.testing.assert_close(tempered.energy({"v": v}), expected, rtol=1e-12, atol=1e-12)
    betas = torch.linspace(0, 1, 32, dtype=F64)
    per_row = -torch.logsumexp(-betas[:, None] * joint, 1)
    torch.testing.assert_close(model.tempered(betas).energy({"v": v}), per_row, rtol=1e-12, atol=1e-12)


def test_bfloat16_products_round_the_weights_and_nothing_else() -> None:
    """Under autocast the energy of binary units is that of a machine whose weights have the bits of a bfloat16.

    What the products add is rounded once more, by half a unit in the last of 8 bits.
    """
    model = RBM({"v": Bernoulli([784])}, 500, weight_std=0.1)
    rounded = RBM({"v": Bernoulli([784])}, 500)
    rounded.load_state_dict(model.state_dict())
    with torch.no_grad():
        rounded.weight.copy_(model.weight.bfloat16())
    state = {"v": torch.randint(0, 2, (64, 784)).float()}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        energy = model.energy(state)
        assert set(model.conditional("h", state).sample().unique().tolist()) == {0.0, 1.0}
    logits = rounded.hidden_logits(state)
    limit = (logits.abs() * 2**-8).sum(1) + 1e-3
    assert energy.dtype == torch.float32
    assert bool(((energy - rounded.energy(state)).abs() <= limit).all())
