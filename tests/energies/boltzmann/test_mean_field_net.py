"""The network that fine-tunes a deep machine begins as one more sweep."""

import pytest
import torch
from support.boltzmann import deep_machine
from support.oracles import bits

from ebm_lightning.energies import MeanFieldNet
from ebm_lightning.objectives import Classification


class TestMeanFieldNet:
    def test_the_network_begins_as_one_more_sweep(self) -> None:
        """At the fixed point another sweep changes nothing: its hidden layers are the mean-field activities."""
        dbm = deep_machine("three layers")
        net, x = MeanFieldNet(dbm, 4, sweeps=500).double(), bits(3)
        settled, state = dbm.positive_phase({"x": x}), net.positive_phase({"x": x})
        assert set(state) == {"x", "mu2", "mu3"}
        logits = settled["h3"] @ net.output.weight.T + net.output.bias
        torch.testing.assert_close(net.logits(state), logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(net.conditional("y", {"x": x}).logits, net.logits(state))
        energy = net.energy({**state, "y": torch.full((8,), 2)})
        torch.testing.assert_close(energy, -net.logits(state)[:, 2])

    def test_the_machine_stays_as_it_is(self) -> None:
        net = MeanFieldNet(deep_machine("two layers"), 2).double()
        pos = net.positive_phase({"x": bits(4), "y": torch.arange(16) % 2})
        Classification()(net, pos, None)["loss"].backward()
        moved = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
        assert moved == {name for name, _ in net.named_parameters() if not name.startswith(("dbm.", "label."))}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: MeanFieldNet(deep_machine("centered"), 3), "without centering"),
        (lambda: MeanFieldNet(deep_machine("two layers"), 3).check({"x": 2 * bits(4)}), r"values in \[0, 1\]"),
        (lambda: MeanFieldNet(deep_machine("two layers"), 3).check({"x": bits(4)}), "hold none"),
    ],
)
def test_MeanFieldNet_mistakes_are_refused_with_a_message(act, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()
