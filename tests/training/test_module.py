"""What one training step does: what it descends, whom it calls, and what it leaves as it was."""

import pytest
import torch
from support.densities import Bell, normal_draws
from support.fits import fit, quiet_trainer, sgd
from support.oracles import identical
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ebm_lightning import EBM
from ebm_lightning.chains import SampleBuffer
from ebm_lightning.core import Chains, State
from ebm_lightning.data.synthetic.bars import BarsAndStripes
from ebm_lightning.energies import ConditionalDeepEnergy, DeepEnergy
from ebm_lightning.energies.networks import MLP
from ebm_lightning.objectives import ContrastiveDivergence, DenoisingScoreMatching
from ebm_lightning.samplers import SGLD, Langevin
from ebm_lightning.training.acceleration import Acceleration
from ebm_lightning.training.callbacks.buffer import BufferCallback

F64 = torch.float64


class Recorded(Chains):
    """Chains that start at the data with noise, and remember what they were asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.started: list[State] = []
        self.finished: list[State] = []

    def start(self, pos: State, free: tuple[str, ...]) -> State:
        self.calls.append("start")
        self.started.append({name: value.detach().clone() for name, value in pos.items()})
        return self.started[-1]

    def finish(self, end: State) -> None:
        self.calls.append("finish")
        self.finished.append(end)


class Moody(ConditionalDeepEnergy):
    """An energy over points and labels that remembers in which mode it was evaluated."""

    def __init__(self) -> None:
        super().__init__(nn.Bilinear(2, 1, 1))
        self.modes: list[bool] = []

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.modes.append(self.training)
        return super().forward(x.square(), y)


class Watched(EBM):
    """Keeps both phases, and the gradients of every step beside autograd's of the objective alone."""

    def training_step(self, batch: State, batch_idx: int):
        self.pos = self.model.positive_phase(batch)
        return super().training_step(batch, batch_idx)

    def sample_negatives(self, pos: State) -> State | None:
        self.neg = super().sample_negatives(pos)
        return self.neg

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        neg = self.neg and {name: value.detach() for name, value in self.neg.items()}
        loss = self.objective(self.model, self.pos, neg)["loss"]
        alone = torch.autograd.grad(loss, list(self.model.parameters()))
        filled = [parameter.grad.clone() for parameter in self.model.parameters()]
        self.gradients = [*getattr(self, "gradients", []), (filled, alone)]


def _labeled(batches: int) -> DataLoader:
    return DataLoader([{"x": torch.randn(8, 2), "y": torch.randn(8, 1)} for _ in range(batches)], batch_size=None)


@pytest.mark.parametrize("backprop", [0, 1, 3])
def test_a_step_descends_the_objective_alone_whatever_the_sampler_leaves_in_the_graph(backprop: int) -> None:
    module = Watched(Moody(), ContrastiveDivergence(l2=0.1), Langevin(0.05), steps=3, backprop=backprop)
    quiet_trainer(4).fit(module, _labeled(4))
    assert len(module.gradients) == 4
    for filled, alone in module.gradients:
        for ours, theirs in zip(filled, alone, strict=True):
            assert theirs.abs().sum() > 0
            assert torch.allclose(ours, theirs, atol=1e-6)


def test_chains_finish_once_for_every_start_and_clamped_variables_stay_the_same_objects() -> None:
    chains = Recorded()
    quiet_trainer(3).fit(EBM(Moody(), ContrastiveDivergence(), Langevin(0.05), steps=2, chains=chains), _labeled(3))
    assert chains.calls == ["start", "finish"] * 3
    for start, end in zip(chains.started, chains.finished, strict=True):
        assert end["y"] is start["y"]
        assert not torch.equal(end["x"], start["x"])
        assert not end["x"].requires_grad


@pytest.mark.parametrize("eval_sampling", [True, False])
def test_the_model_is_in_eval_mode_while_it_imagines_and_in_train_mode_again_after(eval_sampling: bool) -> None:
    """Per step: two gradients of the sampler, then data and chains in the objective."""
    module = EBM(Moody(), ContrastiveDivergence(), Langevin(0.05), steps=2, eval_sampling=eval_sampling)
    quiet_trainer(2).fit(module, _labeled(2))
    assert module.model.modes == [not eval_sampling, not eval_sampling, True, True] * 2
    assert module.model.training


def test_the_model_is_in_train_mode_again_after_a_sampler_that_failed() -> None:
    module = EBM(Moody(), ContrastiveDivergence(), Langevin(0.05, free=("z",)))
    with pytest.raises(ValueError, match="'z' is to be moved or scored"):
        module.run_negative_chains({"x": torch.randn(8, 2), "y": torch.randn(8, 1)}, 1)
    assert module.model.training


class Given(EBM):
    """Imagines one fixed point: the hook for negative samples, overridden."""

    def sample_negatives(self, pos: State) -> State | None:
        return {**pos, "x": torch.full_like(pos["x"], 3.0)}


def test_negatives_of_a_subclass_are_the_ones_compared_with() -> None:
    """dloss/dprecision = mean x^2 / 2 - 3^2 / 2 and dloss/dmean = 3 - mean x, at mean 0 and precision 1."""
    model, x = Bell(), normal_draws(50)
    fit(Given(model, ContrastiveDivergence(), optimizer=sgd(0.01)), x, steps=1)
    assert model.precision.item() == pytest.approx(1 - 0.01 * float(x.square().mean() - 9) / 2)
    assert model.mean.item() == pytest.approx(-0.01 * float(3 - x.mean()))


def test_a_module_without_a_sampler_imagines_nothing() -> None:
    module = EBM(Bell(), DenoisingScoreMatching(0.5))
    assert module.sample_negatives({"x": normal_draws(4)}) is None


def test_a_sampler_that_clamps_to_another_interval_than_the_data_is_refused() -> None:
    module = EBM(DeepEnergy(MLP(4, [4])), ContrastiveDivergence(), SGLD(0.1, noise=0.1, bounds=(-1.0, 1.0)))
    with pytest.raises(
        ValueError,
        match=r"SGLD clamps to \(-1.0, 1.0\), but the values of BarsAndStripes lie in \(0.0, 1.0\): "
        "give both the same bounds",
    ):
        fit(module, BarsAndStripes(2), steps=1)


@pytest.mark.parametrize(("steps", "backprop"), [(0, 0), (2, 3), (2, -1)])
def test_a_module_refuses_impossible_numbers_of_steps(steps: int, backprop: int) -> None:
    with pytest.raises(ValueError, match="expected steps >= 1 and 0 <= backprop <= steps"):
        EBM(Bell(), ContrastiveDivergence(), Langevin(0.1), steps, backprop)


def test_cuda_graphs_are_refused_where_a_phase_is_not_the_same_every_time_and_change_nothing_on_a_cpu() -> None:
    with pytest.raises(ValueError, match=r"needs transitions that are not differentiated \(backprop=0\)"):
        EBM(Bell(), ContrastiveDivergence(), Langevin(0.1), 2, backprop=1, acceleration=Acceleration(cuda_graphs=True))
    found = []
    for asked in (None, True):
        module = EBM(Bell(), ContrastiveDivergence(), Langevin(0.1), 3, acceleration=Acceleration(cuda_graphs=asked))
        torch.manual_seed(2)
        found.append(module.run_negative_chains({"x": torch.zeros(4, 1, dtype=F64)}, 3)[0])
    assert identical(*found)


def test_EBM_brings_the_callback_of_a_SampleBuffer_and_none_for_other_chains() -> None:
    buffered = EBM(Bell(), ContrastiveDivergence(), Langevin(0.1), chains=SampleBuffer(4))
    assert [type(callback) for callback in buffered.configure_callbacks()] == [BufferCallback]
    assert EBM(Bell(), ContrastiveDivergence(), Langevin(0.1)).configure_callbacks() == []
