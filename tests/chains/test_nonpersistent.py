"""Chains that begin at the data or at noise, and what they share with those that persist."""

import pytest
import torch

from ebm_lightning.chains import DataChains, NoiseChains, SampleBuffer
from ebm_lightning.distributions import UniformNoise

N, SIZE = 6, 20


def _pos(n: int = N, value: float = 5.0) -> dict:
    return {"x": torch.full((n, 2), value), "y": torch.arange(n)}


def test_DataChains_start_at_the_data_and_NoiseChains_at_noise() -> None:
    pos = _pos()
    assert torch.equal(DataChains().start(pos, ("x",))["x"], pos["x"])
    noisy = NoiseChains(UniformNoise(-1.0, 0.0)).start(pos, ("x",))
    assert (noisy["x"] < 0).all()
    assert torch.equal(noisy["y"], pos["y"])


def test_NoiseChains_and_SampleBuffer_start_as_many_as_asked_for_with_the_clamped_variables_in_turn() -> None:
    """A phase of 9 or 4 chains beside 6 examples, fresh and kept."""
    for chains in (
        NoiseChains(UniformNoise(), num_chains=9),
        SampleBuffer(SIZE, num_chains=9),
        SampleBuffer(SIZE, num_chains=4),
    ):
        start = chains.start(_pos(), ("x",))
        assert start["x"].shape == (chains.num_chains, 2)
        assert (start["x"] < 1).all()
        assert start["y"].tolist() == [k % N for k in range(chains.num_chains)]
        chains.finish({**start, "x": torch.zeros(chains.num_chains, 2)})
    assert int(chains.alive.sum()) == 4


@pytest.mark.parametrize("make", [NoiseChains, lambda num_chains: SampleBuffer(3, num_chains=num_chains)])
def test_NoiseChains_and_SampleBuffer_refuse_to_be_none(make) -> None:
    with pytest.raises(ValueError, match=r"num_chains=0\): expected at least 1 chain"):
        make(num_chains=0)
