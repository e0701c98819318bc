"""DataModule: splits, seeds and shapes, and its batches under a trainer."""

from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from support.batches import augmented_digits
from support.configurations import configured_data
from support.fits import TrainingRecorder
from support.oracles import identical

from ebm_lightning.core import State
from ebm_lightning.data import (
    Bars,
    BarsAndStripes,
    DataModule,
    Digits,
    DynamicBinarization,
    FixedBinarization,
    Gray,
    HorizontalFlip,
    ImageModule,
    InMemory,
    Loading,
    ReflectPadCrop,
    Squares,
    Subset,
    Toy2D,
)

MODULES: list[Callable[[], DataModule]] = [
    Digits,
    BarsAndStripes,
    Bars,
    Squares,
    *(
        lambda name=name: Toy2D(name, samples=1000, test_size=200)
        for name in ("moons", "circles", "swiss_roll", "eight_gaussians", "checkerboard", "pinwheel")
    ),
]


@pytest.mark.parametrize("make", MODULES)
def test_DataModule_has_batches_of_its_shape_bounds_and_labels(make: Callable[[], DataModule]) -> None:
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
    batch_size: int = 8, val_size: int | float = 0.2, split_seed: int = 0, max_train: int | None = None
) -> Numbers:
    loading = Loading(seed=0, split_seed=split_seed, max_train=max_train, device_cache_gb=1)
    return Numbers(batch_size, val_size=val_size, loading=loading)


def members(data: DataModule, split: str) -> set[float]:
    return set(data.tensors(split)["x"].flatten().tolist())


def test_DataModule_has_splits_that_are_disjoint_complete_and_seeded() -> None:
    data = numbers()
    train, val, test = (members(data, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (80, 20, 20)
    assert train | val == set(map(float, range(100)))
    assert members(numbers(), "val") == val
    assert members(numbers(val_size=20), "val") == val
    assert members(numbers(split_seed=1), "val") != val
    assert members(numbers(split_seed=1), "test") == test
    smoke = numbers(max_train=16)
    assert members(smoke, "train") < train
    assert len(members(smoke, "train")) == 16
    assert members(smoke, "val") == val
    streamed = torch.cat([batch["x"] for batch in data.train_stream(10)]).flatten().tolist()
    assert set(streamed) == train


def test_DataModule_tensors_are_the_batches_of_validation() -> None:
    data = augmented_digits()
    joined = torch.cat([batch["x"] for batch in data.eval_loader("val")])
    assert torch.equal(joined, data.tensors("val")["x"])


def test_DataModule_has_evaluation_draws_independent_of_the_run() -> None:
    first, second = (Digits(pixels=DynamicBinarization(), loading=Loading(seed=seed)) for seed in (1, 2))
    assert torch.equal(first.tensors("test")["x"], second.tensors("test")["x"])
    assert not torch.equal(next(iter(first.train_stream(1)))["y"], next(iter(second.train_stream(1)))["y"])


def test_Loading_seed_None_takes_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    assert identical(list(Digits().train_stream(2)), list(Digits(loading=Loading(seed=11)).train_stream(2)))
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert identical(list(Digits().train_stream(2)), list(Digits(loading=Loading(seed=0)).train_stream(2)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Digits(0), "batch_size=0"),
        (lambda: Digits(val_size=1.0), "share in"),
        (lambda: Digits(val_size=-1), "share in"),
        (lambda: Loading(device_cache_gb=-1), "device_cache_gb"),
        (lambda: Loading(max_train=0), "max_train=0"),
        (lambda: numbers(val_size=100).tensors("train"), "so that some remain"),
        (lambda: numbers(batch_size=81).train_stream(1), "there are 80"),
        (lambda: numbers(batch_size=30).train_stream(1, world_size=3), "needs 90 training examples"),
        (lambda: numbers(val_size=2).eval_loader("val", world_size=3), "among 3 ranks"),
        (lambda: numbers().train_stream(-1), "length=-1"),
        (lambda: numbers().train_stream(1, rank=2, world_size=2), "rank < world_size"),
        (lambda: numbers().train_dataloader(), "not attached"),
    ],
)
def test_DataModule_and_Loading_refuses_what_cannot_work(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


class Recorder(TrainingRecorder):
    """Keeps the batches of validation and test too."""

    def __init__(self) -> None:
        super().__init__()
        self.validated: list[State] = []
        self.tested: list[State] = []

    def validation_step(self, batch: State, batch_idx: int) -> None:
        self.validated.append(batch)

    def test_step(self, batch: State, batch_idx: int) -> None:
        self.tested.append(batch)


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


def test_DataModule_gives_a_trainer_one_long_epoch() -> None:
    data, module = augmented_digits(val_size=150), Recorder()
    fit = trainer(15, accumulate=2, val_check_interval=10)
    fit.fit(module, datamodule=data)
    assert fit.global_step == 15
    assert fit.current_epoch == 1
    assert identical(module.trained, list(augmented_digits(val_size=150).train_stream(30)))
    expected = list(augmented_digits(val_size=150).eval_loader("val"))
    assert identical(module.validated, expected * 3)
    fit.test(module, datamodule=data, verbose=False)
    assert identical(module.tested, list(augmented_digits().eval_loader("test")))
    assert data.tensors("test")["x"].shape == (297, 1, 8, 8)


@pytest.mark.parametrize("stop", [3, 10])
def test_DataModule_resumes_in_the_middle_of_an_epoch(stop: int, tmp_path: Path) -> None:
    data = Digits(200, noise=0.1, loading=Loading(seed=2))
    module = Recorder()
    first = trainer(stop, accumulate=2)
    first.fit(module, datamodule=data)
    first.save_checkpoint(tmp_path / "middle.ckpt")
    resumed = trainer(14, accumulate=2)
    resumed.fit(module, datamodule=Digits(200, noise=0.1, loading=Loading(seed=2)), ckpt_path=tmp_path / "middle.ckpt")
    assert resumed.global_step == 14
    assert identical(module.trained, list(Digits(200, noise=0.1, loading=Loading(seed=2)).train_stream(28)))


def test_DataModule_continues_after_epochs_and_needs_no_validation() -> None:
    module = Recorder()
    trainer(6, limit_train_batches=4).fit(module, datamodule=Digits(200, loading=Loading(seed=2), val_size=0))
    assert identical(module.trained, list(Digits(200, loading=Loading(seed=2), val_size=0).train_stream(6)))
    assert not module.validated


def test_DataModule_needs_max_steps() -> None:
    counted_in_epochs = trainer(-1, max_epochs=1)
    with pytest.raises(ValueError, match=r"set trainer\.max_steps"):
        counted_in_epochs.fit(Recorder(), datamodule=Digits())


def test_DataModule_is_configured_by_its_signature() -> None:
    data = configured_data(
        """
        data:
          class_path: ebm_lightning.data.Digits
          init_args:
            batch_size: 32
            val_size: 0.2
            bounds: [-1, 1]
            loading: {max_train: 100}
            pixels:
              class_path: ebm_lightning.data.FixedBinarization
              init_args: {seed: 3}
        """
    )
    assert isinstance(data, ImageModule)
    assert data.bounds == (-1.0, 1.0)
    assert data.pixels == FixedBinarization(3)
    assert data.loading == Loading(max_train=100)
    assert (data.size("train"), len(data.tensors("val")["x"])) == (100, 300)
    data = configured_data(
        """
        data:
          class_path: ebm_lightning.data.Images
          init_args:
            name: cifar10
            val_size: 5000
            augmentations:
            - class_path: ebm_lightning.data.ReflectPadCrop
            - class_path: ebm_lightning.data.HorizontalFlip
              init_args: {probability: 0.25}
        """
    )
    assert data.augmentations == (ReflectPadCrop(4), HorizontalFlip(0.25))
    assert data.pixels == Gray()
    assert (data.val_size, data.shape, data.classes) == (5000, (3, 32, 32), 10)
