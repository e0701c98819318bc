"""Chains that change ranks: between processes, none is lost, and each rank keeps its share."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from ebm_lightning import EBM, SampleBuffer, Trainer
from ebm_lightning.data import Toy2D
from ebm_lightning.energies import DeepEnergy
from ebm_lightning.energies.networks import MLP
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import Langevin
from ebm_lightning.training.callbacks.exchange import ChainExchange, exchange

RANKS, SIZE, EMPTY = 3, 10, 2


def _filled(rank: int) -> SampleBuffer:
    """Chains that say whose they are: x is 100 rank + slot, with ages 0, 1, ...; rank 0 has EMPTY empty slots."""
    buffer = SampleBuffer(SIZE)
    alive = SIZE - EMPTY if rank == 0 else SIZE
    buffer.store = {"x": 100.0 * rank + torch.arange(float(SIZE))[:, None], "y": torch.full((SIZE,), rank)}
    buffer.age, buffer.alive = torch.arange(SIZE), torch.arange(SIZE) < alive
    buffer.full = rank > 0
    return buffer


def _rank(rank: int, place: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=RANKS)
    buffer = _filled(rank)
    for salt in (5, 6):
        exchange(buffer, salt)
        torch.save(
            {**buffer.store, "age": buffer.age, "alive": buffer.alive, "full": buffer.full}, place / f"{salt}-{rank}"
        )


def test_ChainExchange_loses_no_chain_and_each_rank_has_a_third_of_every_other(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_rank, (tmp_path,), RANKS, start_method="fork")
    before = torch.cat([_filled(rank).store["x"] for rank in range(RANKS)]).flatten()
    for salt in (5, 6):
        shards = [torch.load(tmp_path / f"{salt}-{rank}") for rank in range(RANKS)]
        for shard in shards:
            origin = (shard["x"].flatten() // 100).long()
            assert torch.equal(shard["y"], origin), "variables of a chain were parted"
            assert torch.equal(shard["age"], shard["x"].flatten().long() % 100)
            assert torch.equal(shard["alive"], (origin > 0) | (shard["age"] < SIZE - EMPTY))
            assert shard["full"] == bool(shard["alive"].all())
        assert torch.equal(torch.cat([shard["x"] for shard in shards]).flatten().sort().values, before)
        if salt == 5:  # SIZE // RANKS from each of the others; what is left over stays
            counts = torch.stack([(shard["x"].flatten() // 100).long().bincount(minlength=RANKS) for shard in shards])
            share = SIZE // RANKS
            assert torch.equal(counts, share + (SIZE - RANKS * share) * torch.eye(RANKS, dtype=torch.int64))
    again = torch.load(tmp_path / "6-0")["x"].flatten() // 100
    assert (again > 0).any(), "the second exchange took back the first"


def test_ChainExchange_names_what_cannot_be_exchanged() -> None:
    with pytest.raises(ValueError, match=r"ChainExchange\(every_n_steps=0\)"):
        ChainExchange(0)
    module = EBM(DeepEnergy(MLP(2, [4])), ContrastiveDivergence(), Langevin(0.01))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_steps=1, callbacks=[ChainExchange(1)], **quiet)
    with pytest.raises(ValueError, match="DataChains, which is not ExchangeableChains"):
        trainer.fit(module, Toy2D("moons", batch_size=8, samples=64, test_size=8))
