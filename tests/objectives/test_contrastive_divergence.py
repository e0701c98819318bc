"""The contrast against Hinton's rule and the gradient of the enumerated likelihood."""

import pytest
import torch
from support.densities import Bell, Quartic, gradients_of, quartic_state
from support.oracles import assert_means, bits, log_partition, probabilities
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel
from ebm_lightning.energies import RBM
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.objectives import ContrastiveDivergence

F64 = torch.float64


class Table(EnergyModel):
    """E(x) = table[x] over a handful of states."""

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(-counts.double().log())

    def forward(self, x: Tensor) -> Tensor:
        return self.table[x]


def _rbm() -> RBM:
    model = RBM({"v": Bernoulli([4])}, 3, weight_std=1.0).double()
    with torch.no_grad():
        for bias in (model.units("v").bias, model.hidden_bias):
            bias.normal_()
    return model


def test_ContrastiveDivergence_of_an_rbm_descends_by_hintons_rule() -> None:
    """-dloss/dW = <v p(h|v)>_data - <v p(h|v)>_chains, and likewise for the biases; the phases differ in size."""
    model, data, chains = _rbm(), bits(4)[3:9], bits(4)[6:16]
    ours = gradients_of(model, ContrastiveDivergence()(model, {"v": data}, {"v": chains}))

    def statistics(v: Tensor) -> dict[str, Tensor]:
        h = torch.sigmoid(model.hidden_bias + v @ model.weight)
        return {"weight": v.T @ h / len(v), "visible.v.bias": v.mean(0), "hidden_bias": h.mean(0)}

    for name, value in statistics(data).items():
        assert torch.allclose(-ours[name], value - statistics(chains)[name], atol=1e-14)


def test_ContrastiveDivergence_with_exact_samples_is_the_gradient_of_the_likelihood() -> None:
    """p = counts / 15 is drawn exactly by taking every state as often as it counts."""
    counts = torch.tensor([1, 2, 3, 4, 5])
    model, data = Table(counts), torch.tensor([0, 0, 3, 1])
    chains = torch.arange(5).repeat_interleave(counts)
    ours = gradients_of(model, ContrastiveDivergence()(model, {"x": data}, {"x": chains}))["table"]
    (exact,) = torch.autograd.grad(-(-model.table).log_softmax(0)[data].mean(), model.table)
    assert torch.allclose(ours, exact, atol=1e-14)


def test_ContrastiveDivergence_with_draws_from_an_rbm_estimates_its_likelihood_gradient() -> None:
    """Hidden units summed out by the model, visible ones enumerated: dlog p/dW from autograd of -F - log Z."""
    model, data, n = _rbm(), bits(4)[[3, 3, 12, 5]], 50_000
    log_p = -model(v=data) - torch.logsumexp(-model(v=bits(4)), 0)
    exact = torch.autograd.grad(-log_p.mean(), model.weight)[0]
    assert torch.allclose(torch.logsumexp(-model(v=bits(4)), 0), log_partition(model, {"v": bits(4)}))
    chains = bits(4)[torch.multinomial(probabilities(model, {"v": bits(4)}), n, replacement=True)]
    ours = gradients_of(model, ContrastiveDivergence()(model, {"v": data}, {"v": chains}))["weight"]
    hidden = torch.sigmoid(model.hidden_bias + chains @ model.weight).detach()
    of_each = chains[:, :, None] * hidden[:, None, :]
    assert_means(of_each, (of_each.mean(0) - (ours - exact)).detach())


def test_ContrastiveDivergence_terms_and_penalty() -> None:
    model = Bell(precision=2.0)
    data, chains = torch.randn(5, 1, dtype=F64), torch.randn(8, 1, dtype=F64)
    terms = ContrastiveDivergence(l2=0.3)(model, {"x": data}, {"x": chains})
    high, low = model(data), model(chains)
    assert torch.allclose(terms["gap"], high.mean() - low.mean())
    assert torch.allclose(terms["l2"], 0.3 * (high.square().mean() + low.square().mean()))
    assert torch.allclose(terms["loss"], terms["gap"] + terms["l2"])
    assert torch.allclose(terms["energy_data_std"], high.std(correction=0))
    assert torch.allclose(terms["energy_chains_std"], low.std(correction=0))
    assert torch.allclose(terms["energy_data"] - terms["energy_chains"], terms["gap"])
    assert "l2" not in ContrastiveDivergence()(model, {"x": data}, {"x": chains})


def test_ContrastiveDivergence_is_not_differentiated_through_the_sampler() -> None:
    model, data = Bell(), torch.randn(5, 1, dtype=F64)
    chains = model.precision * torch.randn(5, 1, dtype=F64)
    attached = gradients_of(model, ContrastiveDivergence()(model, {"x": data}, {"x": chains}))
    constant = gradients_of(model, ContrastiveDivergence()(model, {"x": data}, {"x": chains.detach()}))
    assert all(torch.equal(attached[name], constant[name]) for name in constant)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ContrastiveDivergence(l2=-1.0), r"ContrastiveDivergence\(l2=-1.0\)"),
        (lambda: ContrastiveDivergence()(Quartic(), quartic_state(), None), "give EBM a sampler"),
    ],
)
def test_ContrastiveDivergence_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
