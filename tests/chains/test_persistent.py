"""What survives a negative phase: every rule of the buffer against a few lines that say the same."""

import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, Z

from ebm_lightning.chains import FIFO, Reservoir, SampleBuffer, Uint8Storage, WriteBack
from ebm_lightning.distributions import DataInit, GaussianNoise, UniformNoise
from ebm_lightning.energies import Gaussian
from ebm_lightning.generation.samples import initial_distribution
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.samplers import Langevin
from ebm_lightning.training.module import EBM

N, SIZE = 6, 20


def _pos(n: int = N, value: float = 5.0) -> dict:
    return {"x": torch.full((n, 2), value), "y": torch.arange(n)}


def _live(buffer: SampleBuffer, rounds: int, free: tuple[str, ...] = ("x",)) -> None:
    for k in range(rounds):
        start = buffer.start(_pos(), free)
        buffer.finish({**start, "x": torch.full((N, 2), float(k + 1))})


def test_SampleBuffer_with_FloatStorage_comes_back_as_it_ended() -> None:
    buffer = SampleBuffer(N, init=GaussianNoise(std=0.1))
    first = buffer.start(_pos(), ("x",))
    assert (first["x"].abs() < 1).all()
    assert (first["chain.age"] == 0).all()
    end = torch.randn(N, 2)
    buffer.finish({**first, "x": end})
    again = buffer.start(_pos(), ("x",))
    expected = torch.empty(N, 2)
    expected[first["chain.slot"]] = end
    assert torch.equal(again["x"], expected[again["chain.slot"]])
    assert (again["chain.age"] == 1).all()


@pytest.mark.parametrize("reinit_prob", [0.0, 0.3, 1.0])
def test_SampleBuffer_reinitializes_the_share_of_its_probability(reinit_prob: float) -> None:
    buffer = SampleBuffer(N, reinit_prob=reinit_prob, init=UniformNoise(-2.0, -1.0))
    rounds, reborn = 400, 0
    _live(buffer, 1)
    for _ in range(rounds):
        start = buffer.start(_pos(), ("x",))
        reborn += int((start["x"][:, 0] < 0).sum())
        buffer.finish({**start, "x": torch.ones(N, 2)})
    spread = (reinit_prob * (1 - reinit_prob) / (rounds * N)) ** 0.5
    assert abs(reborn / (rounds * N) - reinit_prob) <= Z * spread


def test_WriteBack_and_FIFO_choose_these_slots() -> None:
    drawn = torch.tensor([4, 1, 7])
    assert torch.equal(WriteBack().slots(drawn, 8, 100), drawn)
    assert torch.equal(FIFO().slots(drawn, 8, 7), torch.tensor([7, 0, 1]))


def test_Reservoir_holds_every_finished_chain_with_equal_probability() -> None:
    size, finished, trials = 5, 20, 4000
    counts = torch.zeros(finished)
    for _ in range(trials):
        kept = torch.full((size,), -1)
        for seen in range(0, finished, 4):
            slots = Reservoir().slots(torch.zeros(4), size, seen)
            chosen = slots >= 0
            kept[slots[chosen]] = torch.arange(seen, seen + 4)[chosen]
        counts[kept] += 1
    share = size / finished
    spread = (share * (1 - share) / trials) ** 0.5
    z = stats.norm.isf(FALSE_ALARM / (2 * finished))
    assert (counts / trials - share).abs().max() < z * spread


def test_Reservoir_never_writes_one_slot_twice_at_once() -> None:
    for _ in range(200):
        slots = Reservoir().slots(torch.zeros(8), 4, 4)
        written = slots[slots >= 0]
        assert len(written.unique()) == len(written)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_Uint8Storage_keeps_256_levels_and_dequantizes_within_one(bounds: tuple[float, float]) -> None:
    storage, low, high = Uint8Storage(bounds), *bounds
    x = torch.rand(10_000) * (high - low) + low
    kept = storage.encode(x)
    assert kept.dtype == torch.uint8
    back = storage.decode(kept)
    assert (back - x).abs().max() <= (high - low) / 256 + 1e-6
    assert torch.equal(storage.encode(back), kept)
    assert torch.equal(storage.encode(torch.tensor([low - 1, high + 1])), torch.tensor([0, 255], dtype=torch.uint8))


def test_SampleBuffer_keeps_labels_with_their_chains_and_takes_others_from_the_batch() -> None:
    buffer = SampleBuffer(SIZE, keep=("y",))
    for _ in range(30):
        start = buffer.start(_pos(), ("x",))
        # every chain writes its own label into its position, so that the two can be compared later
        living = start["chain.age"] > 0
        assert torch.equal(start["x"][living, 0].long(), start["y"][living])
        assert torch.equal(start["y"][~living], _pos()["y"][~living])
        buffer.finish({**start, "x": start["y"].float()[:, None].expand(N, 2)})


def test_SampleBuffer_leaves_a_variable_the_data_does_not_have_to_the_sampler() -> None:
    buffer = SampleBuffer(SIZE)
    start = buffer.start(_pos(), ("h", "x"))
    assert "h" not in start
    buffer.finish({**start, "h": torch.zeros(N, 3)})
    assert set(buffer.store) == {"x"}


def test_SampleBuffer_refuses_a_batch_larger_than_itself() -> None:
    with pytest.raises(ValueError, match=r"SampleBuffer\(size=4\) cannot serve a batch of 6; make it at least 6"):
        SampleBuffer(4).start(_pos(), ("x",))


def test_SampleBuffer_ages_and_chains_survive_a_state_dict() -> None:
    buffer = SampleBuffer(SIZE, replacement=FIFO())
    _live(buffer, 7)
    copy = SampleBuffer(SIZE, replacement=FIFO())
    copy.load_state_dict({key: value.clone() for key, value in buffer.state_dict().items()})
    assert copy.seen == buffer.seen == 7 * N
    assert torch.equal(copy.store["x"], buffer.store["x"])
    torch.manual_seed(3)
    ours = buffer.start(_pos(), ("x",))
    torch.manual_seed(3)
    theirs = copy.start(_pos(), ("x",))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_SampleBuffer_shards_return_to_their_ranks_and_are_dealt_anew_to_another_number() -> None:
    states = []
    for rank in range(2):
        buffer = SampleBuffer(4)
        start = buffer.start({"x": torch.zeros(4, 1)}, ("x",))
        buffer.finish({**start, "x": (start["chain.slot"] + 10 * rank).float()[:, None]})
        states.append(buffer.state_dict())
    same = SampleBuffer(4)
    same.load_state_dict(same.merge_state_dicts(states, rank=1, world_size=2))
    assert same.store["x"].flatten().tolist() == [10, 11, 12, 13]
    dealt = [SampleBuffer(4) for _ in range(4)]
    for rank, buffer in enumerate(dealt):
        buffer.load_state_dict(buffer.merge_state_dicts(states, rank, world_size=4))
    living = torch.cat([buffer.store["x"][buffer.alive].flatten() for buffer in dealt])
    assert sorted(living.tolist()) == [0, 1, 2, 3, 10, 11, 12, 13]
    assert all(int(buffer.alive.sum()) == 2 for buffer in dealt)
    one = SampleBuffer(6)
    one.load_state_dict(one.merge_state_dicts(states, 0, 1))
    with pytest.raises(ValueError, match=r"SampleBuffer\(size=5\) cannot load 6 chains"):
        SampleBuffer(5).load_state_dict(one.state_dict())
    assert one.store["x"].flatten().tolist() == [0, 10, 1, 11, 2, 12]


def test_SampleBuffer_with_DataInit_begins_at_the_data_and_then_goes_its_own_way() -> None:
    chains, data = SampleBuffer(4, init=DataInit()), {"x": torch.rand(4, 3), "h": torch.rand(4, 2)}
    start = chains.start(data, ("x", "h"))
    assert torch.equal(start["x"], data["x"])
    assert torch.equal(start["h"], data["h"])
    chains.finish({**start, "x": start["x"] + 1})
    again = chains.start({"x": torch.zeros(4, 3), "h": torch.zeros(4, 2)}, ("x", "h"))
    assert torch.equal(again["x"][again["chain.slot"].argsort()], (data["x"] + 1)[start["chain.slot"].argsort()])


def test_DataInit_without_data_is_noise() -> None:
    module = EBM(
        Gaussian([0.0], [1.0]), ContrastiveDivergence(), Langevin(0.1), chains=SampleBuffer(4, init=DataInit())
    )
    assert initial_distribution(module) == UniformNoise()
    with pytest.raises(ValueError, match="no density"):
        DataInit().log_prob(torch.zeros(1, 2))


def test_SampleBuffer_refuses_too_much_memory_before_it_is_taken() -> None:
    """6 chains of 1000 float32 and one int64 take 24,048 bytes."""
    pos = {"x": torch.rand(2, 1000), "y": torch.zeros(2, dtype=torch.int64)}
    SampleBuffer(6, keep=("y",), max_buffer_gb=24.048e-6 * (1 + 1e-9)).start(pos, ("x",))
    buffer = SampleBuffer(6, keep=("y",), max_buffer_gb=24e-6)
    with pytest.raises(ValueError, match=r"would keep 2.4e-05 GB of x, y, more than .*: expected a size of at most 5"):
        buffer.start(pos, ("x",))
    assert buffer.state_dict() == {}


def test_SampleBuffer_of_another_size_gives_the_contrast_of_the_means_over_examples_and_over_chains() -> None:
    module = EBM(
        Gaussian([0.0, 0.0], [1.0, 4.0]), ContrastiveDivergence(), Langevin(0.1), chains=SampleBuffer(9, num_chains=9)
    )
    pos = {"x": torch.randn(4, 2)}
    neg = module.sample_negatives(pos)
    gap = module.objective(module.model, pos, neg)["gap"]
    energy = module.model.energy
    torch.testing.assert_close(gap, energy(pos).mean() - energy(neg).mean())
    assert len(neg["x"]) == 9
