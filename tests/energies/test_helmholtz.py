"""The Helmholtz machine against enumeration: its energy and the draws of its recognition network."""

import pytest
import torch
from support.helmholtz import WIDTHS, every_state, machine
from support.oracles import assert_counts, bits, index_of, perturbed
from torch import Tensor

from ebm_lightning.data import Bars
from ebm_lightning.energies import HelmholtzMachine
from ebm_lightning.energies.boltzmann.units import Bernoulli, Gaussian, Softmax
from ebm_lightning.samplers import Gibbs

F64 = torch.float64


@pytest.mark.parametrize("hidden", [(3,), (3, 2), (2, 2, 1)])
def test_HelmholtzMachine_the_probabilities_of_all_states_sum_to_one(hidden: tuple[int, ...]) -> None:
    model = machine(hidden=hidden)
    widths = {"x": 3} | {f"h{level + 1}": width for level, width in enumerate(hidden)}
    assert model.variables == tuple(widths)
    total = torch.logsumexp(-model.energy(every_state(widths)), 0)
    torch.testing.assert_close(total, torch.zeros((), dtype=F64), rtol=0, atol=1e-12)
    assert model.log_partition() == 0
    assert model.log_partition().dtype == F64


def test_HelmholtzMachine_the_recognition_network_is_a_distribution_of_the_causes_for_every_example() -> None:
    model, latents = machine(), every_state({"h1": 3, "h2": 2})
    for x in bits(3):
        energy = model.recognition_energy({"x": x.expand(32, -1), **latents})
        torch.testing.assert_close(torch.logsumexp(-energy, 0), torch.zeros((), dtype=F64), rtol=0, atol=1e-12)


def test_HelmholtzMachine_energies_are_the_log_probabilities_written_out() -> None:
    """Unit by unit, with weights of their own for the two directions."""
    model, state = machine(), every_state(WIDTHS)
    weights = dict(model.named_parameters())

    def log_p(targets: Tensor, logits: Tensor) -> Tensor:
        p = 1 / (1 + torch.exp(-logits))
        return (targets * p.log() + (1 - targets) * (1 - p).log()).sum(1)

    x, h1, h2 = state.values()
    energy = -log_p(h2, weights["prior"]) - log_p(
        h1, h2 @ weights["generative.1.weight"].T + weights["generative.1.bias"]
    )
    energy = energy - log_p(x, h1 @ weights["generative.0.weight"].T + weights["visible.x.bias"])
    torch.testing.assert_close(model.energy(state), energy)
    recognized = -log_p(h1, x @ weights["recognition.0.weight"].T + weights["recognition.0.bias"])
    recognized = recognized - log_p(h2, h1 @ weights["recognition.1.weight"].T + weights["recognition.1.bias"])
    torch.testing.assert_close(model.recognition_energy(state), recognized)


def test_HelmholtzMachine_completes_by_draws_from_the_recognition_network() -> None:
    model, x = machine(), torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    state = model.positive_phase({"x": x.expand(5_000, -1), "y": torch.zeros(5_000)})
    p = (-model.recognition_energy({"x": x.expand(32, -1), **every_state({"h1": 3, "h2": 2})})).exp()
    draws = torch.cat([state["h1"], state["h2"]], 1)
    assert_counts(torch.bincount(index_of(draws), minlength=32), p.detach())
    assert not draws.requires_grad
    assert set(state) == {"x", "y", "h1", "h2"}


def test_HelmholtzMachine_groups_of_other_units_share_the_causes() -> None:
    """A normal variable and a label beside the binary one: the energy integrates to 1."""
    groups = {"x": Bernoulli([2]), "v": Gaussian([1], std=0.5), "y": Softmax(3)}
    model = perturbed(HelmholtzMachine(groups, [2], weight_std=0.7))
    v = torch.arange(-12, 12, 0.01, dtype=F64)[:, None]
    total = 0.0
    for code in every_state({"x": 2, "h1": 2})["x"].unique(dim=0):
        for h1 in bits(2):
            for label in range(3):
                n = len(v)
                state = {"x": code.expand(n, -1), "h1": h1.expand(n, -1), "v": v, "y": torch.full((n,), label)}
                total += float((-model.energy(state)).exp().sum().detach()) * 0.01
    assert total == pytest.approx(1, abs=1e-9)
    assert model.positive_phase({"x": code[None], "v": v[:1], "y": torch.zeros(1, dtype=torch.int64)})["h1"].shape == (
        1,
        2,
    )


def test_HelmholtzMachine_the_visible_bias_begins_at_the_logits_of_the_data() -> None:
    data = Bars(samples=2000, batch_size=100)
    model = HelmholtzMachine({"x": Bernoulli([1, 4, 4])}, [3, 1])
    model.initialize(data.eval_loader("train"))
    mean = data.tensors("train")["x"].flatten(1).mean(0)
    torch.testing.assert_close(torch.sigmoid(model.units("x").bias), mean)
    untouched = HelmholtzMachine({"x": Bernoulli([1, 4, 4])}, [3, 1], data_bias=False)
    untouched.initialize(iter(()))
    assert not untouched.units("x").bias.any()


BITS = {"x": Bernoulli([3])}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HelmholtzMachine({}, [2]), "expected at least one group and one layer"),
        (lambda: HelmholtzMachine(BITS, []), "expected at least one group and one layer"),
        (lambda: HelmholtzMachine(BITS, [2, 0]), r"hidden=\[2, 0\]"),
        (lambda: HelmholtzMachine({"h1": Bernoulli([3])}, [2]), "no group called h1"),
        (lambda: HelmholtzMachine({"x": Bernoulli([3], probabilities=True)}, [2]), "set probabilities: false"),
        (lambda: machine().check({"x": torch.rand(2, 3)}), "take values 0 and 1"),
        (lambda: machine().check({"x": torch.zeros(2, 4)}), r"holds values of shape \(3,\), got \(4,\)"),
        (lambda: machine().positive_phase({"z": torch.zeros(2, 3)}), "'x' is to be moved or scored"),
        (lambda: Gibbs(("h1",)).step(machine(), every_state(WIDTHS)), "HelmholtzMachine is not GibbsSampleable"),
    ],
)
def test_HelmholtzMachine_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
