"""Where samples come from: checkpoints, the buffer, fresh chains."""

from pathlib import Path

import pytest
import torch
from support.measured import IndependentDraws, sampled_module
from support.oracles import Examples
from support.targets import Still

from ebm_lightning import EBM
from ebm_lightning.chains import NoiseChains, SampleBuffer
from ebm_lightning.energies import JEM, Gaussian, JointJEM
from ebm_lightning.energies.networks import MLP
from ebm_lightning.evaluation import FreshChains, FromBuffer, FromCheckpoints
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs import checkpoints
from ebm_lightning.runs.folder import RunFolder


def _saved(run: RunFolder, module: EBM, steps: range) -> None:
    """Checkpoints whose Gaussian has its mean at the step."""
    for step in steps:
        weights = module.state_dict() | {"model.mean": torch.full((3,), float(step))}
        path = run.checkpoint(step)
        checkpoints.save_atomically({"state_dict": weights}, path)
        checkpoints.save_atomically({}, checkpoints.rank_file(path, 0, 1))


def test_FromCheckpoints_draws_equal_parts_from_the_newest_valid_checkpoints(tmp_path: Path) -> None:
    run, module = RunFolder(tmp_path), sampled_module(Gaussian([7.0] * 3, [1e-6] * 3), tmp_path)
    _saved(run, module, range(10, 60, 10))
    run.checkpoint(30).write_bytes(b"damaged")
    data = Examples(torch.zeros(4, 3), torch.arange(4), classes=4)
    with pytest.warns(UserWarning, match="is damaged and skipped"):
        drawn = FromCheckpoints(3, 25, 1).draw(module, data)
    steps, counts = drawn["x"].round().unique(return_counts=True)
    assert dict(zip(steps.tolist(), counts.tolist(), strict=True)) == {50: 9 * 3, 40: 8 * 3, 20: 8 * 3}
    assert torch.equal(module.model.mean, torch.full((3,), 7.0)), "the trained weights must be put back"
    for step in (50, 40, 20):
        of_this = drawn["y"][drawn["x"][:, 0].round() == step]
        assert of_this.bincount(minlength=4).min() >= 2, "every checkpoint draws every class"
    words = r"has 4 that are valid: take fewer, or train with `checkpoint\.keep: 5`"
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(ValueError, match=words):
        FromCheckpoints(5, 25, 1).draw(module, data)


def test_FromBuffer_draws_some_of_the_living_chains_with_their_labels() -> None:
    buffer = SampleBuffer(40, keep=("y",))
    pos = {"x": torch.zeros(30, 1), "y": torch.arange(30)}
    start = buffer.start(pos, ("x",))
    buffer.finish({**start, "x": start["y"][:, None] + 0.5})
    module = EBM(Gaussian([0.0], [1.0]), ContrastiveDivergence(), sampler=IndependentDraws(), chains=buffer)
    drawn = FromBuffer(20).draw(module, Examples(torch.zeros(2, 1)))
    assert torch.equal(drawn["x"][:, 0], drawn["y"] + 0.5)
    assert len(drawn["y"].unique()) == 20
    assert not torch.equal(drawn["y"].sort().values, torch.arange(20)), "a random choice"
    with pytest.raises(ValueError, match="more chains of x than the 30 in the buffer"):
        FromBuffer(31).draw(module, Examples(torch.zeros(2, 1)))


def test_FreshChains_deal_the_labels_in_turn() -> None:
    model = JointJEM(JEM(MLP(4, [3], outputs=3), 3))
    module = EBM(model, ContrastiveDivergence(), sampler=Still(), chains=NoiseChains())
    drawn = FreshChains(1001, 1).draw(module, Examples(torch.zeros(3, 1, 2, 2), torch.arange(3), 3))
    assert drawn["x"].shape == (1001, 1, 2, 2)
    assert torch.equal(drawn["y"], torch.arange(1001) % 3)


UNBOUNDED = Examples(torch.zeros(3, 1, 2, 2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FreshChains(0, 1), "expected num_samples >= 1"),
        (lambda: FromBuffer(0), "expected num_samples >= 1"),
        (lambda: FromCheckpoints(5, 4, 1), "1 <= last <= num_samples"),
        (lambda: FromBuffer(1).draw(sampled_module(Gaussian([0.0], [1.0])), UNBOUNDED), "this one has NoiseChains"),
    ],
)
def test_FreshChains_FromBuffer_and_FromCheckpoints_refuse_what_cannot_work_with_a_message(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
