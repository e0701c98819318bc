"""None"""

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from ebm_lightning import EBM
from ebm_lightning.chains import SampleBuffer
from ebm_lightning.core import EnergyModel, Objective, State, Terms
from ebm_lightning.data import (
    DataStream,
    FixedBinarization,
    HorizontalFlip,
    ImageModule,
    InMemory,
    Loading,
    Preprocessing,
    Subset,
)
from ebm_lightning.energies import JEM
from ebm_lightning.energies.networks import MLP
from ebm_lightning.objectives import Classification, ContrastiveDivergence, FromStream, Sum
from ebm_lightning.samplers import SGLD
from ebm_lightning.training.trainer import Trainer
from ebm_lightning.utils.random import mix

FLIPPED = HorizontalFlip(1.0)


class Numbered(ImageModule):
    """40 images of 1 x 2 x 3 pixels in two classes, no two alike and none its own mirror image."""

    classes = 2

    def __init__(self, batch_size: int = 6, pixels: Preprocessing | None = None, **settings) -> None:
        super().__init__(batch_size, pixels=pixels, val_size=0, loading=Loading(seed=7), **settings)

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 2, 3)

    def images(self) -> Tensor:
        return torch.arange(240, dtype=torch.uint8).view(40, 1, 2, 3)

    def load(self) -> tuple[Subset, Subset]:
        rows = Subset(InMemory({"x": self.images(), "y": torch.arange(40) % 2}), torch.arange(40))
        return rows, rows


def _same(left: list[State], right: list[State]) -> bool:
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(left, right, strict=True)
    )


def _joint() -> Numbered:
    streams = {"labeled": DataStream(9, [FLIPPED], noise=0.2), "plain": DataStream()}
    return Numbered(noise=0.1, augmentations=[HorizontalFlip(0.5)], streams=streams)


def test_every_stream_is_the_one_it_would_be_alone() -> None:
    batches = list(_joint().train_stream(12))
    alone = {
        "": Numbered(noise=0.1, augmentations=[HorizontalFlip(0.5)]).train_stream(12),
        "_labeled": Numbered(9, noise=0.2, augmentations=[FLIPPED]).train_stream(12, seed=mix(7, 1)),
        "_plain": Numbered().train_stream(12, seed=mix(7, 2)),
    }
    expected = [
        {f"{name}{end}": value for end, batch in zip(alone, parts, strict=True) for name, value in batch.items()}
        for parts in zip(*alone.values(), strict=True)
    ]
    assert _same(batches, expected)
    assert next(iter(batches[0])) == "x"


@pytest.mark.parametrize("stop", [1, 4, 5, 11])
def test_resumed_streams_repeat_the_uninterrupted_ones(stop: int) -> None:
    whole, resumed = _joint().train_stream(12), _joint().train_stream(12)
    head = list(itertools.islice(whole, stop))
    resumed.load_state_dict(whole.state_dict())
    assert _same(head + list(itertools.islice(resumed, 12 - stop)), list(_joint().train_stream(12)))


def test_the_ranks_share_the_global_batch_of_every_stream() -> None:
    """Without noise and augmentation the images are the same in whatever slices they come."""
    whole, part = (Numbered(2 * n, streams={"labeled": DataStream(3 * n)}) for n in (2, 1))
    ranks = [list(part.train_stream(15, rank=rank, world_size=2)) for rank in range(2)]
    for batch, *shares in zip(whole.train_stream(15), *ranks, strict=True):
        for name, value in batch.items():
            assert torch.equal(value, torch.cat([share[name] for share in shares]))


def test_evaluation_has_no_further_streams() -> None:
    data = _joint()
    assert data.tensors("test").keys() == {"x", "y"}
    assert _same([data.tensors("train")], [Numbered().tensors("train")])


@dataclass(frozen=True)
class Recording(Objective):
    """An objective that keeps the data it sees."""

    objective: Objective
    seen: list[State] = field(default_factory=list)

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        self.seen.append(pos)
        return self.objective(model, pos, neg)


def _shown(images: Tensor, data: Tensor) -> bool:
    """Whether every image is one of the data."""
    return bool((images[:, None] - data[None]).abs().flatten(2).amax(2).amin(1).max() < 1e-6)


def test_FromStream_shows_each_term_its_stream(tmp_path) -> None:
    plain, labeled = Recording(ContrastiveDivergence()), Recording(Classification())
    module = EBM(
        JEM(MLP(6, [4], outputs=2), 2),
        Sum({"generative": plain, "discriminative": FromStream(labeled, "labeled")}),
        SGLD(0.1, noise=0.01),
        chains=SampleBuffer(20),
    )
    data = Numbered(streams={"labeled": DataStream(9, [FLIPPED])})
    images = data.images() / 255
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=4, accelerator="cpu", default_root_dir=tmp_path, enable_checkpointing=False, **quiet)
    trainer.fit(module, data)
    assert [len(pos["x"]) for pos in plain.seen] == [6] * 4
    assert [len(pos["x"]) for pos in labeled.seen] == [len(pos["y"]) for pos in labeled.seen] == [9] * 4
    for pos, own in zip(plain.seen, labeled.seen, strict=True):
        assert _shown(pos["x"], images)
        assert _shown(own["x"], images.flip(-1))
        assert not _shown(own["x"], images)
        row = (own["x"].flip(-1)[:, None] - images[None]).abs().flatten(2).amax(2).argmin(1)
        assert torch.equal(own["y"], row % 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DataStream(0), "expected 1 or more examples per batch"),
        (lambda: DataStream(noise=-0.1), "noise >= 0"),
        (lambda: Numbered(streams={"labeled": DataStream(41)}).train_stream(1), "needs 41 training examples"),
        (
            lambda: Numbered(pixels=FixedBinarization(), streams={"labeled": DataStream(None, [FLIPPED])}),
            "an augmented image is another one in each pass: leave out the augmentations",
        ),
        (
            lambda: FromStream(Classification(), "labeled")(JEM(MLP(6, [], 2), 2), {"x": torch.zeros(2, 6)}, None),
            r"finds no variable x_labeled or the like in the batch, which holds \['x'\]",
        ),
    ],
)
def test_FromStream_what_cannot_work_is_refused_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
