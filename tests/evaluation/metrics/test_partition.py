"""log Z by enumeration, and by chains that two processes share."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from support.annealed import bernoulli_case, wavy_rbm
from support.oracles import log_partition
from torch import distributed

from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import MLP
from ebm_lightning.evaluation.metrics import AIS, Exact, Linear, LogPartition, ais, anneal
from ebm_lightning.utils.random import isolated


def test_Exact_an_exact_value_is_that_of_enumeration_and_has_no_spread() -> None:
    model, states, _ = bernoulli_case()
    found = Exact()(model, [])
    assert found.log_z == pytest.approx(float(log_partition(model, states)), abs=1e-10)
    assert (found.low, found.high, found.standard_error, found.warning) == (found.log_z, found.log_z, 0.0, "")
    with pytest.raises(ValueError, match=r"sums 2\^4 states .* expected at most 3 units"):
        Exact(largest=3)(model, [])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: AIS(Linear(3), 1), r"AIS\(betas=Linear\(num_temperatures=3\), chains=1, fit_base=True\)"),
        (lambda path: AIS(Linear(3))(DeepEnergy(MLP(2, [3])), []), "DeepEnergy is not Annealable"),
    ],
)
def test_AIS_what_cannot_work_is_refused_with_a_message(call: Callable[[Any], object], words: str) -> None:
    path = wavy_rbm().annealing_path()
    with pytest.raises(ValueError, match=words):
        call(path)


def _one_of_two(rank: int, folder: str) -> None:
    """What each of two processes does: its share of the chains, from a stream of its own."""
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", limit, 2, rank)
    torch.manual_seed(0)
    path = wavy_rbm().annealing_path()
    with isolated(rank):
        torch.save(vars(ais(path, Linear(20)(), 99)), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_AIS_on_two_ranks_shares_the_chains_and_agrees_on_the_estimate(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_one_of_two, (str(tmp_path),), 2, start_method="fork")
    path = wavy_rbm().annealing_path()
    shares = []
    for rank in range(2):
        with isolated(rank):
            shares.append(anneal(path, Linear(20)(), 50)[0])
    assert not torch.equal(*shares)
    expected = vars(LogPartition.from_weights(path.log_partition, torch.cat(shares)))
    assert expected["chains"] == 100
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected)
