"""Ranks that share out the gradient and the optimizer's memory learn what one process does."""

from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from support import ROOT
from support.forked import ranks
from torch.distributed.tensor import DTensor

from ebm_lightning import EBM, Trainer
from ebm_lightning.core import Sampler
from ebm_lightning.energies import RBM, DeepEnergy
from ebm_lightning.energies.boltzmann.units import Bernoulli
from ebm_lightning.energies.networks import MLP
from ebm_lightning.objectives import ContrastiveDivergence
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.samplers import SGLD, FastWeights, Gibbs
from ebm_lightning.training.sharded_strategy import ShardedStrategy

DESCENT = ("--model.init_args.optimizer=torch.optim.SGD", "--model.init_args.optimizer.init_args.momentum=0.9")
ALIKE = ("--model.init_args.chains=DataChains", "--trainer.max_steps=4", "--checkpoint.every_n_steps=2", *DESCENT)
EBT = (
    *(f"-c={ROOT}/experiments/gladstone2025_ebt/{name}.yaml" for name in ("text_s1", "smoke", "smoke_text_s")),
    *(*ALIKE, "--model.init_args.scheduler=null", "--model.init_args.optimizer.init_args.lr=0.1"),
    *("--trainer.limit_val_batches=0", "--trainer.accumulate_grad_batches=2", f"--trainer.callbacks={__name__}.Held"),
    *('--data.init_args.loading={"max_train": null}', "--data.init_args.val_size=0.2", "--trainer.strategy=auto"),
    "--model.init_args.sampler.init_args.step_size=20",  # steeper descents make rounding grow
)
JEM = (
    *("--trainer.callbacks=[]", "--model.init_args.model=JEM", "--model.init_args.model.init_args.classes=10"),
    "--model.init_args.model.init_args.net=ebm_lightning.energies.networks.MLP",
    *(f"--model.init_args.model.init_args.net.init_args.{size}" for size in ("inputs=64", "hidden=[16]", "outputs=10")),
    *("--model.init_args.sampler.init_args.noise=0", "--data.init_args.noise=0", "--trainer.val_check_interval=2"),
    *(*ALIKE, "--model.init_args.optimizer.init_args.lr=0.5", "--samples.every_n_steps=2"),
)


class Held(L.Callback):
    """Logs how many numbers the optimizer of this rank remembers of the parameters that are shared out."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        momenta = [state["momentum_buffer"] for state in trainer.optimizers[0].state.values()]
        parts = [momentum.to_local().numel() for momentum in momenta if isinstance(momentum, DTensor)]
        pl_module.log("held", float(sum(parts)))


def _checkpoint(run: Path, step: int) -> dict:
    return torch.load(RunFolder(run).checkpoint(step), weights_only=True)


def _check_alike(one: Path, two: Path) -> None:
    """Weights and momenta of the last step, which are those of a run that has moved."""
    (ours, theirs, before) = (_checkpoint(run, step) for run, step in ((two, 4), (one, 4), (one, 2)))
    weights, others = ours["state_dict"], theirs["state_dict"]
    torch.testing.assert_close(weights, others, rtol=1e-4, atol=1e-5)
    assert max(float((others[name] - before["state_dict"][name]).abs().max()) for name in others) > 1e-2
    (momenta,), (other_momenta,) = ours["optimizer_states"], theirs["optimizer_states"]
    torch.testing.assert_close(momenta, other_momenta, rtol=1e-4, atol=1e-5)


def test_an_energy_based_transformer_on_two_ranks_that_were_stopped(ebm, tmp_path: Path) -> None:
    """Two batches a step; one step by ddp, whose checkpoint is continued. Rank 0 has the larger half of the rows."""
    one, two = tmp_path / "x" / "one", tmp_path / "x" / "two"
    status, said = ebm("fit", *EBT, "--run", one, "--data.init_args.batch_size=8")
    assert status == 0, said
    for steps, strategy in ((1, "ddp"), (2, "sharded"), (4, "sharded")):
        arguments = ("fit", *EBT, "--run", two, f"--trainer.max_steps={steps}", "--data.init_args.batch_size=4")
        for status, said in ranks(arguments, tmp_path / "logs", strategy=strategy):
            assert status == 0, said
    _check_alike(one, two)
    shared = [weight for weight in _checkpoint(two, 4)["state_dict"].values() if weight.ndim]
    held = sum(weight[: (len(weight) + 1) // 2].numel() for weight in shared)
    assert list(RunFolder(two).metrics()["held"].values()) == [0, held, held, held]
    assert held < 0.6 * sum(weight.numel() for weight in shared)


def test_a_classifier_with_langevin_chains_on_two_ranks(ebm, tiny: Path, tmp_path: Path) -> None:
    """With validation and pictures between the steps, for which the weights are whole; the last step is one of ddp."""
    one, two = tmp_path / "x" / "one", tmp_path / "x" / "two"
    status, said = ebm("fit", "-c", tiny, *JEM, "--run", one)
    assert status == 0, said
    for steps, strategy in ((3, "sharded"), (4, "ddp")):
        arguments = ("fit", "-c", tiny, *JEM, f"--trainer.max_steps={steps}", "--data.init_args.batch_size=8")
        for status, said in ranks((*arguments, "--run", two), tmp_path / "logs", strategy=strategy):
            assert status == 0, said
    _check_alike(one, two)
    ours, theirs = (RunFolder(run).metrics()["val/energy_data"] for run in (two, one))
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(
    ("model", "sampler", "callbacks", "words"),
    [
        (RBM({"x": Bernoulli((4,))}, 3), Gibbs(("x",)), [], "RBM, which is initialized by its data"),
        (
            DeepEnergy(MLP(4, [3])),
            FastWeights(SGLD(0.1, noise=0.0), rate=0.1),
            [],
            "FastWeights, which follows the weights",
        ),
        (DeepEnergy(MLP(4, [3])), None, [EMAWeightAveraging()], "the callback that averages weights"),
        (DeepEnergy(torch.nn.Conv2d(2, 1, 3)), None, [], "weights that have their channels last .*"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(
    model: torch.nn.Module, sampler: Sampler | None, callbacks: list[L.Callback], words: str
) -> None:
    strategy, module = ShardedStrategy(), EBM(model, ContrastiveDivergence(), sampler)
    module.trainer = Trainer(accelerator="cpu", logger=False, callbacks=callbacks)
    strategy.connect(module)
    with pytest.raises(ValueError, match=f"the strategy sharded cannot train with {words}: use ddp, or do without"):
        strategy.configure_ddp()
