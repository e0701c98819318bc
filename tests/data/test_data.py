"""Data: the order and randomness of batches, splits, the modules that need no files, and all of it under a trainer."""

import itertools
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from jsonargparse import ArgumentParser
from support.oracles import Z, identical
from torch import Tensor, nn

from ebm_lightning.core import State
from ebm_lightning.data import (
    Bars,
    BarsAndStripes,
    DataModule,
    Dequantized,
    Digits,
    DynamicBinarization,
    EvalLoader,
    FixedBinarization,
    Gray,
    HorizontalFlip,
    ImageModule,
    Images,
    InMemory,
    ReflectPadCrop,
    Squares,
    Streaming,
    Subset,
    Threshold,
    Toy2D,
    TrainStream,
)
from ebm_lightning.utils.random import mix, uniform


def noisy(batch: State, g: torch.Generator) -> State:
    return {"index": batch["index"], "noise": torch.rand(len(batch["index"]), generator=g)}


def stream(n: int = 22, batch_size: int = 4, length: int = 12, seed: int = 5, **shard: int) -> TrainStream:
    source = InMemory({"x": torch.arange(n)})
    return TrainStream(source, torch.arange(n), batch_size, length, seed, noisy, **shard)


def augmented_digits(**options: int | float) -> Digits:
    return Digits(
        64,
        pixels=Dequantized(),
        augmentations=[ReflectPadCrop(2), HorizontalFlip()],
        bounds=(-1.0, 1.0),
        noise=0.1,
        seed=3,
        **options,
    )


# Randomness


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


# The order


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    first, again, other = list(stream()), list(stream()), list(stream(seed=6))
    assert identical(first, again)
    assert not torch.equal(first[0]["index"], other[0]["index"])
    passes = [torch.cat([batch["index"] for batch in first[k : k + 5]]) for k in (0, 5)]
    assert all(len(set(shown.tolist())) == 20 for shown in passes)
    assert not torch.equal(*passes)
    assert len(stream()) == 12 == len(first)


def test_every_batch_has_randomness_of_its_own() -> None:
    noises = torch.cat([batch["noise"] for rank in (0, 1) for batch in stream(rank=rank, world=2)])
    assert len(noises.unique()) >= len(noises) - 1  # a float32 has 2^24 values: two coincidences have chance 1e-7


def test_the_ranks_share_the_global_batch_in_contiguous_slices() -> None:
    whole = list(stream(n=50, batch_size=12))
    ranks = [list(stream(n=50, batch_size=4, rank=rank, world=3)) for rank in range(3)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        assert torch.equal(batch["index"], torch.cat([share["index"] for share in shares]))


@pytest.mark.parametrize("stop", [1, 3, 5, 7, 10])
def test_a_resumed_stream_repeats_the_uninterrupted_one(stop: int) -> None:
    data = augmented_digits(valid=1500 - 330)
    uninterrupted = list(data.train_stream(12))
    begun = data.train_stream(12)
    head = list(itertools.islice(begun, stop))
    state = begun.state_dict()
    assert state == {"epoch": (stop - 1) // 5, "samples": ((stop - 1) % 5 + 1) * 64}
    resumed = augmented_digits(valid=1500 - 330).train_stream(12)
    resumed.load_state_dict(state)
    assert identical(head + list(itertools.islice(resumed, 12 - stop)), uninterrupted)


def test_the_state_is_advanced_when_the_batch_is_handed_out() -> None:
    batches = stream()
    iterator = iter(batches)
    assert batches.state_dict() == {"epoch": 0, "samples": 0}
    next(iterator)
    assert batches.state_dict() == {"epoch": 0, "samples": 4}


def test_a_second_iter_goes_on() -> None:
    whole, batches = list(stream()), stream()
    assert identical(list(itertools.islice(batches, 3)) + list(itertools.islice(batches, 9)), whole)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_ranks_neither_repeats_nor_skips(before: int, after: int) -> None:
    n, size, done = 48, 4, 3
    shown, states = [], []
    for rank in range(before):
        batches = stream(n, size, rank=rank, world=before)
        shown += [batch["index"] for batch in itertools.islice(batches, done)]
        states.append(batches.state_dict())
    assert all(state == states[0] for state in states)
    rest = (n - done * before * size) // (after * size)
    for rank in range(after):
        batches = stream(n, size, rank=rank, world=after)
        batches.load_state_dict(states[0])
        shown += [batch["index"] for batch in itertools.islice(batches, rest)]
        assert batches.state_dict()["epoch"] == 0
    everything = torch.cat(shown).tolist()
    assert len(everything) == len(set(everything)) == (done * before + rest * after) * size


def test_evaluation_sees_every_row_once_and_the_same_every_time() -> None:
    source, rows = InMemory({"x": torch.arange(30)}), torch.arange(5, 28)
    loaders = [EvalLoader(source, rows, 4, 0, noisy, rank=rank, world=3) for rank in range(3)]
    passes = [list(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [2, 2, 2] == [len(batches) for batches in passes]
    shown = torch.cat([batch["index"] for batches in passes for batch in batches])
    assert torch.equal(shown.sort().values, rows)
    assert identical(passes[1], list(loaders[1]))
    single = list(EvalLoader(source, rows, 4, 0, noisy))
    assert torch.equal(torch.cat([batch["index"] for batch in single]), rows)
    assert not torch.equal(single[0]["noise"], single[1]["noise"])


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    data = augmented_digits()
    list(data.train_stream(3))
    data.tensors("test")
    source = Streaming(list(range(20)), decode_number, workers=0)
    list(TrainStream(source, torch.arange(20), 4, 3, 0, noisy))
    Toy2D("moons", samples=100, test=10).tensors("train")
    assert torch.equal(before, torch.get_rng_state())


# Sources


def decode_number(number: int) -> State:
    return {"x": torch.tensor(float(number)), "y": torch.tensor(number % 3)}


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_gives_the_batches_of_memory(workers: int) -> None:
    rows = torch.arange(3, 25)
    numbers = torch.arange(30)
    memory = InMemory({"x": numbers.float(), "y": numbers % 3}, first_index=100)
    streaming = Streaming(range(30), decode_number, workers, first_index=100)

    def jittered(batch: State, g: torch.Generator) -> State:
        return {**batch, "x": batch["x"] + torch.rand(len(batch["x"]), generator=g)}

    both = [list(TrainStream(source, rows, 4, 8, 1, jittered)) for source in (memory, streaming)]
    assert identical(*both)
    assert len(both[0]) == 8
    assert torch.equal(both[0][0]["index"] - 100, both[0][0]["x"].floor().long())


def test_memory_stays_on_the_cpu_beyond_its_limit() -> None:
    source = InMemory({"x": torch.zeros(10, dtype=torch.uint8)})
    assert source.to(torch.device("meta"), limit=9) is source
    assert source.to(torch.device("meta"), limit=10).tensors["x"].device.type == "meta"


# DataModules


MODULES: list[Callable[[], DataModule]] = [
    Digits,
    BarsAndStripes,
    Bars,
    Squares,
    *(
        lambda name=name: Toy2D(name, samples=1000, test=200)
        for name in ("moons", "circles", "swiss_roll", "eight_gaussians", "checkerboard", "pinwheel")
    ),
]


@pytest.mark.parametrize("make", MODULES)
def test_batches_have_the_shape_the_bounds_and_the_labels_they_promise(make: Callable[[], DataModule]) -> None:
    data = make()
    batch = next(iter(data.train_stream(1)))
    assert batch["x"].shape == (128, *data.shape)
    assert batch["x"].dtype == torch.float32
    assert set(batch) == ({"x"} if data.classes is None else {"x", "y"})
    if data.classes is not None:
        assert batch["y"].dtype == torch.int64
        assert sorted(set(data.tensors("train")["y"].tolist())) == list(range(data.classes))
    if data.bounds is not None:
        x = data.tensors("test")["x"]
        assert (float(x.min()), float(x.max())) == data.bounds


class Numbers(DataModule):
    """The numbers 0..99 for training and 100..119 for test."""

    @property
    def shape(self) -> tuple[int]:
        return (1,)

    def load(self) -> tuple[Subset, Subset]:
        source = InMemory({"x": torch.arange(120.0)[:, None]})
        return Subset(source, torch.arange(100)), Subset(source, torch.arange(100, 120))


def numbers(
    batch_size: int = 8, valid: int | float = 0.2, split_seed: int = 0, max_train: int | None = None
) -> Numbers:
    return Numbers(batch_size, valid=valid, split_seed=split_seed, seed=0, memory_gb=1, max_train=max_train)


def members(data: DataModule, split: str) -> set[float]:
    return set(data.tensors(split)["x"].flatten().tolist())


def test_splits_are_disjoint_complete_and_seeded() -> None:
    data = numbers()
    train, valid, test = (members(data, split) for split in ("train", "valid", "test"))
    assert (len(train), len(valid), len(test)) == (80, 20, 20)
    assert train | valid == set(map(float, range(100)))
    assert members(numbers(), "valid") == valid
    assert members(numbers(valid=20), "valid") == valid
    assert members(numbers(split_seed=1), "valid") != valid
    assert members(numbers(split_seed=1), "test") == test
    smoke = numbers(max_train=16)
    assert members(smoke, "train") < train
    assert len(members(smoke, "train")) == 16
    assert members(smoke, "valid") == valid
    streamed = torch.cat([batch["x"] for batch in data.train_stream(10)]).flatten().tolist()
    assert set(streamed) == train


def test_whole_splits_are_what_validation_sees() -> None:
    data = augmented_digits()
    joined = torch.cat([batch["x"] for batch in data.eval_loader("valid")])
    assert torch.equal(joined, data.tensors("valid")["x"])


def test_evaluation_draws_do_not_depend_on_the_run() -> None:
    first, second = (Digits(pixels=DynamicBinarization(), seed=seed) for seed in (1, 2))
    assert torch.equal(first.tensors("test")["x"], second.tensors("test")["x"])
    assert not torch.equal(next(iter(first.train_stream(1)))["y"], next(iter(second.train_stream(1)))["y"])


def test_a_module_takes_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    assert identical(list(Digits().train_stream(2)), list(Digits(seed=11).train_stream(2)))
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert identical(list(Digits().train_stream(2)), list(Digits(seed=0).train_stream(2)))


def test_images_are_scaled_to_their_bounds_and_noise_is_added_after() -> None:
    plain, scaled = Digits(), Digits(bounds=(-1.0, 1.0))
    assert scaled.bounds == (-1.0, 1.0)
    torch.testing.assert_close(scaled.tensors("test")["x"], 2 * plain.tensors("test")["x"] - 1, rtol=0, atol=1e-6)
    noisy_digits = Digits(64, bounds=(-1.0, 1.0), noise=0.2, test_noise=0.03)
    residue = noisy_digits.tensors("test")["x"].double() - scaled.tensors("test")["x"]
    n = residue.numel()
    assert abs(float(residue.mean())) < Z * 0.03 / n**0.5
    assert abs(float(residue.std()) / 0.03 - 1) < Z / (2 * n) ** 0.5
    clean = next(iter(Digits(64, bounds=(-1.0, 1.0)).train_stream(1)))["x"].double()
    residue = next(iter(noisy_digits.train_stream(1)))["x"] - clean
    assert abs(float(residue.std()) / 0.2 - 1) < Z / (2 * residue.numel()) ** 0.5


def test_training_images_are_augmented_and_others_are_not() -> None:
    flipped = Digits(64, augmentations=[HorizontalFlip(1.0)])
    assert torch.equal(next(iter(flipped.train_stream(1)))["x"], next(iter(Digits(64).train_stream(1)))["x"].flip(-1))
    assert torch.equal(flipped.tensors("valid")["x"], Digits(64).tensors("valid")["x"])


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_bars_and_stripes_are_every_pattern_once(side: int) -> None:
    data = BarsAndStripes(side, samples=(2 ** (side + 1) - 2) * 100)
    states, probabilities = data.exact()
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * side**2).view(-1, 1, side, side)
    alike = [(images == images.roll(1, axis)).flatten(1).all(1) for axis in (2, 3)]
    expected = images[alike[0] | alike[1]]
    assert len(states) == 2 ** (side + 1) - 2
    assert torch.equal(states.flatten(1).unique(dim=0), expected.flatten(1).unique(dim=0))
    assert torch.equal(probabilities, torch.full((len(states),), 1 / len(states), dtype=torch.float64))
    _, counts = data.tensors("train")["x"].flatten(1).unique(dim=0, return_counts=True)
    assert counts.tolist() == [100] * len(states)
    assert torch.equal(data.tensors("test")["x"], states)


@pytest.mark.parametrize("name", ["moons", "circles", "swiss_roll", "eight_gaussians", "checkerboard", "pinwheel"])
def test_toys_are_centered_and_of_unit_scale(name: str) -> None:
    data = Toy2D(name, samples=4000, test=1000, valid=0)
    x = data.tensors("train")["x"].double()
    torch.testing.assert_close(x.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-5)
    assert float(x.square().mean()) == pytest.approx(1, abs=1e-5)
    test = data.tensors("test")["x"].double()
    error = test.square().mean(1).std() / 1000**0.5
    assert abs(float(test.square().mean()) - 1) < 1.5 * Z * float(error)  # 1.5: the scale is itself of a sample
    assert torch.equal(Toy2D(name, samples=4000, test=1000, valid=0).tensors("train")["x"].double(), x)
    assert not torch.equal(Toy2D(name, samples=4000, test=1000, valid=0, split_seed=1).tensors("train")["x"], x.float())


def test_the_checkerboard_fills_its_squares_and_the_gaussians_their_circle() -> None:
    # Both sets have mean 0, and per coordinate the mean squares 4/3 and 8 + 1/4, which undo the scale.
    board = Toy2D("checkerboard", samples=20_000, valid=0).tensors("train")["x"] * (4 / 3) ** 0.5
    inside = (board - board.round()).abs().min(1).values > 0.05  # away from the edges, which the scale moves
    parity = board[inside].floor().sum(1).remainder(2)
    assert bool((parity == 0).all())
    tensors = Toy2D("eight_gaussians", samples=20_000, valid=0).tensors("train")
    centers = torch.stack([tensors["x"][tensors["y"] == k].mean(0) for k in range(8)]) * 8.25**0.5
    torch.testing.assert_close(torch.linalg.vector_norm(centers, dim=1), torch.full((8,), 4.0), rtol=0, atol=0.2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Digits(0), "batch_size=0"),
        (lambda: Digits(valid=1.0), "share in"),
        (lambda: Digits(valid=-1), "share in"),
        (lambda: Digits(noise=-0.1), "standard deviation"),
        (lambda: Digits(bounds=(1.0, -1.0)), "lower value first"),
        (lambda: Digits(memory_gb=-1), "memory_gb"),
        (lambda: Digits(max_train=0), "max_train=0"),
        (lambda: numbers(valid=100).tensors("train"), "so that some are left"),
        (lambda: numbers(batch_size=81).train_stream(1), "there are 80"),
        (lambda: numbers(batch_size=30).train_stream(1, world=3), "needs 90 training examples"),
        (lambda: numbers(valid=2).eval_loader("valid", world=3), "among 3 ranks"),
        (lambda: numbers().train_stream(-1), "length=-1"),
        (lambda: numbers().train_stream(1, rank=2, world=2), "rank < world"),
        (lambda: numbers().train_dataloader(), "not attached"),
        (lambda: Toy2D("moon"), "expected one of moons"),
        (lambda: Toy2D("moons", samples=1), "samples >= 2"),
        (lambda: BarsAndStripes(0), "side=0"),
        (lambda: BarsAndStripes(4, samples=29), "30 patterns"),
        (lambda: Threshold(1.0), "threshold < 1"),
        (lambda: ReflectPadCrop(0), "1 or more pixels"),
        (lambda: HorizontalFlip(1.5), r"in \[0, 1\]"),
        (lambda: Streaming([], decode_number, workers=-1), "worker processes"),
        (lambda: InMemory({"x": torch.zeros(3), "y": torch.zeros(4)}), "one common length"),
        (lambda: Images("imagenet"), "no image data set is called"),
        (lambda: Images("mnist", labels_per_class=0), "labels_per_class=0.*: expected 1 or more, or null"),
    ],
)
def test_faults_are_told_in_words(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# Under a trainer


class Recorder(L.LightningModule):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained: list[State] = []
        self.validated: list[State] = []
        self.tested: list[State] = []

    def training_step(self, batch: State, batch_idx: int) -> Tensor:
        self.trained.append(batch)
        return self.weight * batch["x"].mean()

    def validation_step(self, batch: State, batch_idx: int) -> None:
        self.validated.append(batch)

    def test_step(self, batch: State, batch_idx: int) -> None:
        self.tested.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(steps: int, accumulate: int = 1, **options: object) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        **options,
    )


def test_a_trainer_is_given_one_long_epoch() -> None:
    data, module = augmented_digits(valid=150), Recorder()
    fit = trainer(15, accumulate=2, val_check_interval=10)
    fit.fit(module, datamodule=data)
    assert fit.global_step == 15
    assert fit.current_epoch == 1
    assert identical(module.trained, list(augmented_digits(valid=150).train_stream(30)))
    expected = list(augmented_digits(valid=150).eval_loader("valid"))
    assert identical(module.validated, expected * 3)
    fit.test(module, datamodule=data, verbose=False)
    assert identical(module.tested, list(augmented_digits().eval_loader("test")))
    assert data.tensors("test")["x"].shape == (297, 1, 8, 8)


@pytest.mark.parametrize("stop", [3, 10])
def test_a_trainer_resumes_in_the_middle_of_its_epoch(stop: int, tmp_path: Path) -> None:
    data = Digits(200, noise=0.1, seed=2)
    module = Recorder()
    first = trainer(stop, accumulate=2)
    first.fit(module, datamodule=data)
    first.save_checkpoint(tmp_path / "middle.ckpt")
    resumed = trainer(14, accumulate=2)
    resumed.fit(module, datamodule=Digits(200, noise=0.1, seed=2), ckpt_path=tmp_path / "middle.ckpt")
    assert resumed.global_step == 14
    assert identical(module.trained, list(Digits(200, noise=0.1, seed=2).train_stream(28)))


def test_a_run_cut_into_epochs_goes_on_and_needs_no_validation() -> None:
    module = Recorder()
    trainer(6, limit_train_batches=4).fit(module, datamodule=Digits(200, seed=2, valid=0))
    assert identical(module.trained, list(Digits(200, seed=2, valid=0).train_stream(6)))
    assert not module.validated


def test_runs_are_counted_in_steps() -> None:
    counted_in_epochs = trainer(-1, max_epochs=1)
    with pytest.raises(ValueError, match=r"set trainer\.max_steps"):
        counted_in_epochs.fit(Recorder(), datamodule=Digits())


def test_a_module_is_configured_by_its_signature() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(DataModule, "data")
    config = parser.parse_string(
        """
        data:
          class_path: ebm_lightning.data.Digits
          init_args:
            batch_size: 32
            valid: 0.2
            bounds: [-1, 1]
            pixels:
              class_path: ebm_lightning.data.FixedBinarization
              init_args: {seed: 3}
        """
    )
    data = parser.instantiate_classes(config).data
    assert isinstance(data, ImageModule)
    assert data.bounds == (-1.0, 1.0)
    assert data.pixels == FixedBinarization(3)
    assert len(data.tensors("valid")["x"]) == 300
    config = parser.parse_string(
        """
        data:
          class_path: ebm_lightning.data.Images
          init_args:
            name: cifar10
            valid: 5000
            augmentations:
            - class_path: ebm_lightning.data.ReflectPadCrop
            - class_path: ebm_lightning.data.HorizontalFlip
              init_args: {probability: 0.25}
        """
    )
    data = parser.instantiate_classes(config).data
    assert data.augmentations == (ReflectPadCrop(4), HorizontalFlip(0.25))
    assert data.pixels == Gray()
    assert (data.valid, data.shape, data.classes) == (5000, (3, 32, 32), 10)
