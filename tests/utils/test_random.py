"""Random streams: seeds that spread, draws that leave no trace, and a training stream that nothing disturbs."""

import io
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from scipy import stats
from support.oracles import FALSE_ALARM, Z

from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.training.callbacks.random_state import TrainingRandomState
from ebm_lightning.utils.random import capture, drawn_since, isolated, mix, restore, seed_all, uniform

FAMILIES = {
    "one number": lambda i: (i,),
    "seeds of rank 0": lambda i: (i, 0, 0),
    "ranks of seed 0": lambda i: (0, i, 0),
    "salts": lambda i: (0, 0, i),
    "seeds and ranks": lambda i: (i // 316, i % 316),
    "multiples of 2^32": lambda i: (i << 32,),
    "multiples of 2^44": lambda i: (7, i << 44),
}
"""Neighboring inputs, such as seeds and ranks are: the number i becomes the parts of a seed."""


@pytest.mark.parametrize("parts", FAMILIES.values(), ids=FAMILIES)
def test_the_low_32_bits_of_neighboring_seeds_collide_no_more_than_random_numbers(
    parts: Callable[[int], tuple[int, ...]],
) -> None:
    """Of n random numbers below 2^32, n^2 / 2^33 pairs collide on average, by a Poisson law."""
    n = 100_000
    collisions = n - len({mix(*parts(i)) % 2**32 for i in range(n)})
    assert collisions <= stats.poisson.isf(FALSE_ALARM, n**2 / 2**33)


def _bits(numbers: list[int]) -> np.ndarray:
    """The 64 bits of each number, lowest first (n, 64)."""
    return np.unpackbits(np.array(numbers, dtype="<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")


@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_bit_of_every_part_flips_each_bit_of_a_seed_half_of_the_time(position: int) -> None:
    """For each pair of an input and an output bit the flips are binomial(n, 1/2)."""
    n = 400
    draw = random.Random(0)
    inputs = [[draw.getrandbits(64) if i % 2 else draw.getrandbits(10) for _ in range(3)] for i in range(n)]
    before = _bits([mix(*parts) for parts in inputs])
    flips = []
    for bit in range(64):
        flipped = [[part ^ (1 << bit) * (k == position) for k, part in enumerate(parts)] for parts in inputs]
        flips.append((_bits([mix(*parts) for parts in flipped]) ^ before).sum(0))
    low, high = stats.binom.isf([1 - FALSE_ALARM / (2 * 64 * 64), FALSE_ALARM / (2 * 64 * 64)], n, 0.5)
    assert low <= np.min(flips)
    assert np.max(flips) <= high


def test_the_order_of_the_parts_counts() -> None:
    assert len({mix(*parts) for parts in itertools.permutations((1, 2, 3))}) == 6
    assert mix(1) != mix(1, 0) != mix(0, 1)


def _draw() -> list[object]:
    """Some numbers of each stream; an odd number of normal ones, of which Python and NumPy keep the second in hand."""
    global_stream = np.random
    return [
        torch.rand(3).tolist(),
        torch.randn(1).tolist(),
        random.random(),
        random.gauss(0, 1),
        global_stream.rand(2).tolist(),
        global_stream.normal(),
    ]


def test_restored_streams_go_on_as_they_did() -> None:
    seed_all(5)
    _draw()
    state = capture()
    expected = [_draw(), _draw()]
    assert expected[0] != expected[1]
    restore(state)
    assert [_draw(), _draw()] == expected
    kept = io.BytesIO()
    torch.save(state, kept)
    kept.seek(0)
    restore(torch.load(kept, weights_only=True))
    assert [_draw(), _draw()] == expected


def test_isolated_draws_follow_their_seed_and_leave_the_streams_outside_alone() -> None:
    seed_all(5)
    expected = [_draw(), _draw(), _draw()]
    seed_all(5)
    outside, inside = [_draw()], []
    for seed in (1, 2, 1):
        with isolated(seed):
            inside.append(_draw())
    outside.append(_draw())
    with pytest.raises(ValueError, match="no generator"), isolated(3):
        raise ValueError(f"no generator draws {_draw()} twice")
    outside.append(_draw())
    assert outside == expected
    assert inside[0] == inside[2] != inside[1]
    assert all(a != b for a, b in zip(inside[0], inside[1], strict=True))


def _first_draw(rank: int, salt: int = 0) -> float:
    stream = TrainingRandomState()
    stream.reseed(salt)
    trainer = SimpleNamespace(global_rank=rank)
    stream.on_train_start(trainer, None)
    torch.rand(100)  # whatever is drawn before the first step
    stream.on_train_batch_start(trainer, None, None, 0)
    return float(torch.rand(()))


def test_every_rank_and_every_rollback_has_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    draws = [_first_draw(rank, salt) for rank in range(4) for salt in range(3)]
    assert len(set(draws)) == 12
    assert _first_draw(2, 1) == draws[2 * 3 + 1]
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    assert _first_draw(0) not in draws


def test_the_stream_of_training_continues_after_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    seed_all(mix(3, 1, 0))
    expected = [_draw() for _ in range(3)]
    stream, trainer, steps = TrainingRandomState(), SimpleNamespace(global_rank=1), []
    stream.on_train_start(trainer, None)
    for step in range(3):
        _draw()
        stream.on_train_batch_start(trainer, None, None, step)
        steps.append(_draw())
        stream.on_train_batch_end(trainer, None, None, None, step)
    assert steps == expected


def test_another_number_of_ranks_starts_the_streams_anew_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    rank_state = {"not": "looked at"}
    stream = TrainingRandomState()
    with pytest.warns(UserWarning, match="written by 2 ranks and is continued by 1"):
        stream.load_rank_state_dict([rank_state, rank_state], 0, 1)
    stream.on_train_start(SimpleNamespace(global_rank=0), None)
    assert float(torch.rand(())) not in [_first_draw(rank) for rank in range(2)]


class Restless(L.Callback):
    """Draws from every stream in all hooks of a callback between two training steps."""

    def on_train_batch_end(self, *_: object) -> None:
        _draw()

    on_fit_start = on_train_start = on_train_epoch_end = on_save_checkpoint = on_train_batch_end
    on_validation_start = on_validation_batch_start = on_validation_batch_end = on_validation_end = on_train_batch_end


VARIANTS = {
    "other callbacks draw": (f"--trainer.callbacks+={__name__}.Restless",),
    "no pictures": ("--samples.every_n_steps=0",),
    "pictures at other steps": ("--samples.every_n_steps=4",),
    "no validation": ("--trainer.limit_val_batches=0",),
    "validation at every step": ("--trainer.val_check_interval=1",),
    "numbers and checkpoints at other steps": ("--trainer.log_every_n_steps=5", "--checkpoint.every_n_steps=1"),
}


@pytest.fixture(scope="module")
def plain() -> dict[Path, dict]:
    """The end of the run of tiny.yaml without any of the variants, made once."""
    return {}


def _end(run: Path) -> dict:
    newest = RunFolder(run).checkpoints()[-1]
    content = torch.load(newest, weights_only=True)
    rank_state = torch.load(checkpoints.rank_file(newest, 0, 1), weights_only=True)
    (chains,) = (value for key, value in rank_state.items() if "Buffer" in key)
    return {**content["state_dict"], **{f"raw {k}": v for k, v in content["current_model_state"].items()}, **chains}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_whatever_else_draws_or_watches_a_run_ends_with_the_same_weights(
    variant: tuple[str, ...], ebm, tiny: Path, tmp_path: Path, plain: dict
) -> None:
    if not plain:
        assert ebm("fit", "-c", tiny, "--run", tmp_path / "plain")[0] == 0
        plain |= _end(tmp_path / "plain")
    assert ebm("fit", "-c", tiny, "--run", tmp_path / "variant", *variant)[0] == 0
    end = _end(tmp_path / "variant")
    assert end.keys() == plain.keys()
    for name, value in plain.items():
        assert torch.equal(end[name], value), name


def test_another_seed_ends_with_other_weights(ebm, tiny: Path, tmp_path: Path) -> None:
    ends = []
    for seed in (3, 4):
        folder = tmp_path / str(seed)
        assert ebm("fit", "-c", tiny, "--run", folder, "--seed_everything", seed, "--trainer.max_steps", 1)[0] == 0
        ends.append(_end(folder))
    moving = [name for name in ends[0] if name.endswith("weight") or name == "store.x"]
    assert len(moving) == 5
    assert not any(torch.equal(ends[0][name], ends[1][name]) for name in moving)


def test_it_is_known_whether_a_number_was_drawn() -> None:
    before = capture()
    torch.zeros(3).sum()
    assert not drawn_since(before)
    torch.rand(1)
    assert drawn_since(before)


def test_mix_is_splitmix64() -> None:
    # The first outputs of the published generator for the seeds 1234567 and 0.
    assert mix(1234567) == 6457827717110365317
    assert mix(0) == 0xE220A8397B1DCDAF


def test_every_part_of_a_seed_reaches_the_low_32_bits() -> None:
    seeds = {mix(*parts) % 2**32 for parts in itertools.product(range(6), repeat=4)}
    assert len(seeds) >= 6**4 - 2  # 1296 of 2^32: one coincidence has probability 2e-4, three 1e-12


def test_hashed_uniform_numbers_are_mix_of_the_counter_and_uniform() -> None:
    u = uniform(7, torch.arange(100_000))
    expected = [(mix(7, counter) >> 40) / 2**24 for counter in range(1000)]
    assert u[:1000].tolist() == expected
    assert abs(float(u.mean()) - 0.5) < Z * (1 / 12 / len(u)) ** 0.5
    counts = torch.histc(u, bins=10, min=0, max=1)
    chi_square = float(((counts - 10_000).square() / 10_000).sum())
    assert chi_square < 46.0  # 9 degrees of freedom, false alarm 6e-7
    assert torch.equal(uniform(7, torch.tensor([99_999, 3])), u[[99_999, 3]])
