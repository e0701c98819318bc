"""EBM: the one LightningModule. It wires the positive phase, the negative phase and their comparison."""

from contextlib import nullcontext
from typing import Any, Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ebm_lightning.chains.nonpersistent import DataChains, NoiseChains
from ebm_lightning.chains.persistent import SampleBuffer
from ebm_lightning.core import (
    AdaptiveSampler,
    Bounded,
    Chains,
    EnergyModel,
    Info,
    Objective,
    Sampler,
    Schedule,
    State,
    Terms,
    evaluating,
    run,
)
from ebm_lightning.data.base import DataModule
from ebm_lightning.runs import checkpoints
from ebm_lightning.training.callbacks.auto_compile import AutoCompile
from ebm_lightning.training.callbacks.buffer import BufferCallback
from ebm_lightning.training.callbacks.sampler_state import SamplerState
from ebm_lightning.utils import fused_ops
from ebm_lightning.utils.cuda_graphs import Graphed
from ebm_lightning.utils.distributed import full_tensor


class EBM(L.LightningModule):
    """Trains an energy model by comparing what the world shows with what the model imagines.

    One training step: ``pos = model.positive_phase(batch)``; ``neg = sample_negatives(pos)``;
    ``objective(model, pos, neg)["loss"]`` is descended. It knows no method by name.

    Args:
        model: the energy.
        objective: how the two phases are compared.
        sampler: the Markov kernel of the negative phase; None where the objective needs no samples.
        steps: transitions of the sampler in one negative phase, at least 1; a schedule of the training step makes them
            grow, as in CD-k with a growing k.
        backprop: how many of the last transitions stay in the autograd graph: 0 for SGLD, 1 for improved CD, ``steps``
            for an energy-based transformer.
        chains: where the negative phase starts; None starts at the data (CD).
        optimizer: makes the optimizer from the parameters; None is Adam with torch's defaults. Weight decay, where it
            has any, spares parameters of one dimension: biases and gains.
        scheduler: makes the learning-rate scheduler from the optimizer; it is stepped once per training step.
        eval_sampling: whether the model is in eval mode during the negative phase (no dropout, no moving statistics).
        compiled: whether the transitions of the negative phase are compiled in training
            (:func:`~ebm_lightning.utils.fused_ops.compiled`): the same numbers up to rounding, from the same random
            numbers, in less time and memory, after a minute or two of compilation for each number of steps. It pays
            where transitions are differentiated, as in energy-based transformers, and for small nets. The objective,
            validation and protocols stay as they are. "auto" measures once whether it pays
            (:class:`~ebm_lightning.training.callbacks.auto_compile.AutoCompile`). None is no.
        channels_last: whether convolutions keep their weights, and so what passes between them, with the channels last
            in memory: the same numbers up to rounding, in three quarters of the time on a CPU, and what the matrix
            units of a GPU want. None is yes.
        cuda_graphs: whether the transitions of the negative phase are recorded on a GPU and replayed in training
            (:class:`~ebm_lightning.utils.cuda_graphs.Graphed`): the same numbers. It pays where a net is too small to
            fill the GPU while the next kernel is launched. None is no; on a CPU nothing changes.

    Raises:
        ValueError: where ``steps`` < 1, ``backprop`` lies outside 0..steps, the sampler's bounds differ from the
            data's, a run on a CPU without a C++ compiler is to be ``compiled``, or ``cuda_graphs`` are asked of an
            adaptive sampler or of transitions that are differentiated.
    """

    def __init__(
        self,
        model: EnergyModel,
        objective: Objective,
        sampler: Sampler | None = None,
        steps: int | Schedule = 1,
        backprop: int = 0,
        chains: Chains | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        eval_sampling: bool = True,
        compiled: bool | Literal["auto"] | None = None,
        channels_last: bool | None = None,
        cuda_graphs: bool | None = None,
    ) -> None:
        super().__init__()
        if isinstance(steps, int) and (steps < 1 or not 0 <= backprop <= steps):
            raise ValueError(f"EBM(steps={steps}, backprop={backprop}): expected steps >= 1 and 0 <= backprop <= steps")
        if cuda_graphs and (backprop or isinstance(sampler, AdaptiveSampler)):
            raise ValueError(
                f"EBM(cuda_graphs={cuda_graphs}, backprop={backprop}, sampler={type(sampler).__name__}): expected "
                "transitions that are not differentiated (backprop=0), of a sampler that does not adapt"
            )
        self.model, self.objective, self.sampler = model, objective, sampler
        if channels_last is not False:
            # Of tensors with four dimensions alone; torch's types know no call without a dtype.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps, self.backprop, self.chains = steps, backprop, chains or DataChains()
        self.optimizer, self.scheduler, self.eval_sampling = optimizer, scheduler, eval_sampling
        self.compiled, self.cuda_graphs = compiled, cuda_graphs
        self.compile_phase(compiled is True)
        self._continued = False
        if isinstance(self.chains.noise, nn.Module):
            self.noise = self.chains.noise  # what was fitted to the data is part of the checkpoint

    def setup(self, stage: str) -> None:
        """Refuses a sampler that clamps to another interval than the data lies in, and what cannot be compiled here."""
        if self.compiled is True and stage == "fit" and self.trainer.strategy.root_device.type == "cpu":
            fused_ops.require_compiler()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        clamp = self.sampler.bounds if self.sampler else None
        if isinstance(data, Bounded) and clamp is not None and data.bounds != clamp:
            raise ValueError(
                f"{type(self.sampler).__name__} clamps to {clamp}, but the values of {type(data).__name__} lie in "
                f"{data.bounds}: give both the same bounds"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses, in words, the weights of another model."""
        checkpoints.check_weights(self, checkpoint["state_dict"])
        self._continued = True

    def on_fit_start(self) -> None:
        """Prepares a model that no checkpoint has filled."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not self._continued and isinstance(data, DataModule):
            self.prepare(data)

    def prepare(self, data: DataModule) -> None:
        """Initializes the model, and fits where chains are born, to the training data."""
        with evaluating(self.model), torch.no_grad():
            self.model.initialize(data.eval_loader("train", device=self.device))
            if self.chains.noise is not None:
                self.chains.noise.fit(data.eval_loader("train", device=self.device))

    def configure_callbacks(self) -> list[L.Callback]:
        """What outlives a step brings the callback that manages its life, so that PCD cannot silently turn into CD."""
        kept: list[L.Callback] = [BufferCallback(self.chains)] if isinstance(self.chains, SampleBuffer) else []
        kept += [SamplerState(self.sampler)] if isinstance(self.sampler, AdaptiveSampler) else []
        return kept + ([AutoCompile()] if self.compiled == "auto" else [])

    def compile_phase(self, compiled: bool) -> None:
        """Whether transitions of the negative phase are compiled in training from now on."""
        self._walk = fused_ops.compiled(run) if compiled else run_chain_cached
        if self.cuda_graphs:
            self._walk = Graphed(self._walk)
        if compiled:
            for part in self.model.modules():
                _ = part.variables if isinstance(part, EnergyModel) else ()  # no compiler enters a cached property

    def training_step(self, batch: State, batch_idx: int) -> Terms:
        """Positive phase, negative phase, comparison; Lightning descends ``["loss"]``."""
        pos = self.model.positive_phase(batch)
        if batch_idx == 0:
            self.model.check(pos)
        neg = self.sample_negatives(pos)
        terms = self.objective(self.model, pos, neg)
        watched = {name: term.detach() for name, term in terms.items()}
        self._log_terms("train", watched)
        return {**watched, "loss": terms["loss"]}

    def sample_negatives(self, pos: State) -> State | None:
        """The hook for negative-sample generation: what the model imagines in answer to ``pos``, or None."""
        if self.sampler is None:
            return None
        start = self.chains.start(self.sampler.augment_state(pos), self.sampler.free)
        neg, info = self.run_negative_chains(start, self._steps_now, self.backprop)
        self.chains.finish(neg)
        self._log_terms("sampler", info)
        return neg

    def fresh_negatives(self, pos: State, backprop: int = 0) -> State | None:
        """A negative phase from where chains are born, or None: as in training, but no chain that is kept is moved."""
        if self.sampler is None:
            return None
        chains = DataChains() if self.chains.noise is None else NoiseChains(self.chains.noise)
        start = chains.start(self.sampler.augment_state(pos), self.sampler.free)
        return self.run_negative_chains(start, self._steps_now, backprop)[0]

    def gradient(self, batch: State) -> list[Tensor | None]:
        """The gradient of the training loss in every parameter that has one, from chains that are born at the call."""
        with torch.enable_grad():
            pos = self.model.positive_phase(batch)
            terms = self.objective(self.model, pos, self.fresh_negatives(pos, self.backprop))
            parameters = [p for p in self.parameters() if p.requires_grad]
            return list(torch.autograd.grad(terms["loss"], parameters, allow_unused=True))

    def wait(self) -> None:
        """Until the device has done what it was asked for, so that it can be timed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def run_negative_chains(self, start: State, steps: int, backprop: int = 0) -> tuple[State, Info]:
        """``steps`` transitions of the sampler from ``start``, in eval mode where ``eval_sampling`` says so."""
        assert self.sampler is not None
        walk = self._walk if self.training else run_chain_cached
        with evaluating(self.model) if self.eval_sampling else nullcontext():
            watched = (
                self._watched or walk is not run_chain_cached
            )  # made in one form, whether the step is logged or not
            return walk(self.sampler, self.model, start, steps, backprop, watched=watched)

    def validation_step(self, batch: State, batch_idx: int) -> None:
        self._evaluate("valid", batch, batch_idx)

    def test_step(self, batch: State, batch_idx: int) -> None:
        self._evaluate("test", batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if isinstance(self.sampler, AdaptiveSampler):
            self.sampler.follow(self.model)
        if self._logs_now:
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/grad_norm", full_tensor(torch.nn.utils.get_total_norm(gradients)))

    def make_optimizer(self) -> torch.optim.Optimizer:
        """A new optimizer of all parameters, in groups: biases without weight decay, a sampler's at its own rate."""
        optimizer = (self.optimizer or torch.optim.Adam)(self.parameters())
        if isinstance(self.sampler, nn.Module):
            add_sampler_param_group(optimizer, self.sampler, self.sampler.lr_multiplier, self.sampler.min_lr_ratio)
        exclude_biases_from_weight_decay(optimizer)
        return optimizer

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def _evaluate(self, stage: str, batch: State, batch_idx: int) -> None:
        """Energies of held-out data; for an objective that predicts or needs no samples, its terms as well."""
        pos = self.model.positive_phase(batch)
        if batch_idx == 0:
            self.model.check(pos)
        n = len(next(iter(pos.values())))
        if self.sampler is None or self.objective.predicts:
            terms = self.objective(self.model, pos, self.fresh_negatives(pos))
            self.log_dict({f"{stage}/{name}": term.detach() for name, term in terms.items()}, batch_size=n)
        self.log(f"{stage}/energy_data", self.model.energy(pos).detach().mean(), batch_size=n, sync_dist=True)

    @property
    def _steps_now(self) -> int:
        """Transitions of a negative phase at this training step."""
        return self.steps if isinstance(self.steps, int) else round(self.steps(self.global_step))

    @property
    def _logs_now(self) -> bool:
        """Whether this step is logged: a log call costs more than a small model's whole step."""
        return (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    @property
    def _watched(self) -> bool:
        return self._trainer is not None and self._logs_now

    def _log_terms(self, prefix: str, terms: dict[str, Tensor]) -> None:
        if self._watched:
            for name, term in terms.items():
                self.log(f"{prefix}/{name}", term, prog_bar=name == "gap" or (name == "loss" and "gap" not in terms))


def run_chain_cached(
    sampler: Sampler, model: EnergyModel, state: State, steps: int, backprop: int = 0, watched: bool = True
) -> tuple[State, Info]:
    """:func:`run`. Parametrized weights (spectral norm) are computed once where they are constant meanwhile."""
    with nullcontext() if backprop or model.training else parametrize.cached():
        return run(sampler, model, state, steps, backprop, watched=watched)


def exclude_biases_from_weight_decay(optimizer: torch.optim.Optimizer) -> None:
    """Takes parameters of one dimension out of weight decay, into groups of their own."""
    for group in [group for group in optimizer.param_groups if group.get("weight_decay")]:
        spared = [p for p in group["params"] if p.ndim < 2]
        group["params"] = [p for p in group["params"] if p.ndim >= 2]
        if spared:
            optimizer.add_param_group({**group, "params": spared, "weight_decay": 0.0})


def add_sampler_param_group(optimizer: torch.optim.Optimizer, part: nn.Module, factor: float, floor: float) -> None:
    """Gives the parameters of one part ``factor`` times the learning rate, in groups of their own.

    ``floor`` is their ``min_lr_ratio``: see :class:`~ebm_lightning.training.schedules.ScheduledLR`.
    """
    own = {id(p) for p in part.parameters()}
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in own]
        group["params"] = [p for p in group["params"] if id(p) not in own]
        if moved:
            optimizer.add_param_group({**group, "params": moved, "lr": factor * group["lr"], "min_lr_ratio": floor})
