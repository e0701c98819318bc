"""EBM: the LightningModule, which connects the positive phase, the negative phase and their contrast."""

from contextlib import nullcontext
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ebm_lightning.chains import DataChains, NoiseChains
from ebm_lightning.core import (
    AdaptiveSampler,
    Bounded,
    Chains,
    DataInitialized,
    EnergyModel,
    Info,
    Objective,
    Sampler,
    Schedule,
    State,
    Terms,
    check_names,
    evaluating,
    run_chain,
    start_chains,
)
from ebm_lightning.data.base import DataModule
from ebm_lightning.runs import checkpoints
from ebm_lightning.training.acceleration import Acceleration
from ebm_lightning.training.callbacks.auto_compile import AutoCompile
from ebm_lightning.training.callbacks.buffer import BufferCallback
from ebm_lightning.training.callbacks.sampler_state import SamplerState
from ebm_lightning.training.optim import SamplerParamGroup, add_sampler_param_group, exclude_biases_from_weight_decay
from ebm_lightning.utils import fused_ops
from ebm_lightning.utils.cuda_graphs import Graphed
from ebm_lightning.utils.distributed import full_tensor

METADATA = ("descent.step", "data.index")
"""The metadata that may be in a batch and be variables of a model."""


class EBM(L.LightningModule):
    """A module that trains an energy model by contrasting data with samples from the model.

    One training step: ``pos = model.positive_phase(batch)``; ``neg = sample_negatives(pos)``;
    ``objective(model, pos, neg)["loss"]`` is minimized.

    Args:
        model: the energy.
        objective: the contrast of the two phases.
        sampler: the Markov kernel of the negative phase; None if the objective needs no samples.
        steps: transitions of the sampler in one negative phase, at least 1; a schedule makes the number depend
            on the training step, as in CD-k with a growing k.
        backprop: the number of last transitions that stay in the autograd graph: 0 for SGLD, 1 for improved CD,
            ``steps`` for an energy-based transformer.
        chains: the chains of the negative phase; None starts at the data (CD).
        optimizer: makes the optimizer from the parameters; None is Adam with torch's defaults. Its weight decay
            excludes parameters of one dimension: biases and gains.
        scheduler: makes the learning-rate scheduler from the optimizer; it is stepped once per training step.
        sampler_param_group: learning rate of the sampler's parameters; None is that of the model.
        eval_sampling: whether the model is in eval mode during the negative phase (no dropout, no moving statistics).
        acceleration: what makes a step faster; None is ``Acceleration()``.

    Raises:
        ValueError: if ``steps`` < 1, ``backprop`` lies outside 0..steps, a variable has a name that is no identifier,
            the sampler's bounds differ from the data's, a run on a CPU is to be compiled without a C++ compiler, or
            ``cuda_graphs`` is set for an adaptive sampler or for transitions that are differentiated.
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
        sampler_param_group: SamplerParamGroup | None = None,
        eval_sampling: bool = True,
        acceleration: Acceleration | None = None,
    ) -> None:
        super().__init__()
        self.acceleration = acceleration or Acceleration()
        if isinstance(steps, int) and (steps < 1 or not 0 <= backprop <= steps):
            raise ValueError(f"EBM(steps={steps}, backprop={backprop}): expected steps >= 1 and 0 <= backprop <= steps")
        if self.acceleration.cuda_graphs and (backprop or isinstance(sampler, AdaptiveSampler)):
            raise ValueError(
                f"EBM({self.acceleration}, backprop={backprop}, sampler={type(sampler).__name__}): cuda_graphs needs "
                "transitions that are not differentiated (backprop=0), of a sampler that does not adapt"
            )
        if isinstance(model, EnergyModel):
            check_names(model, model.variables, METADATA)
        self.model, self.objective, self.sampler = model, objective, sampler
        if self.acceleration.channels_last:
            # Only tensors with four dimensions change; torch's types declare no call without a dtype.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps, self.backprop, self.chains = steps, backprop, chains or DataChains()
        self.optimizer, self.scheduler, self.eval_sampling = optimizer, scheduler, eval_sampling
        self.sampler_param_group = sampler_param_group or SamplerParamGroup()
        self.compile_phase(self.acceleration.compile is True)
        self._continued = False
        if isinstance(self.chains.init, nn.Module):
            self.initial_distribution = self.chains.init  # a fitted distribution is part of the checkpoint

    def setup(self, stage: str) -> None:
        """Raise ValueError if the bounds of sampler and data differ, or compilation is not possible on this machine."""
        if self.acceleration.compile is True and stage == "fit" and self.trainer.strategy.root_device.type == "cpu":
            fused_ops.require_compiler()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        clamp = self.sampler.bounds if self.sampler else None
        if isinstance(data, Bounded) and clamp is not None and data.bounds != clamp:
            raise ValueError(
                f"{type(self.sampler).__name__} clamps to {clamp}, but the values of {type(data).__name__} lie in "
                f"{data.bounds}: give both the same bounds"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError, with an explanatory message, if the weights are those of another model."""
        checkpoints.check_weights(self, checkpoint["state_dict"])
        self._continued = True

    def on_fit_start(self) -> None:
        """Prepare the model, unless a checkpoint was loaded."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not self._continued and isinstance(data, DataModule):
            self.prepare(data)

    def prepare(self, data: DataModule) -> None:
        """Initialize the model, and fit the initial distribution of chains, to the training data."""
        with evaluating(self.model), torch.no_grad():
            if isinstance(self.model, DataInitialized):
                self.model.initialize(data.eval_loader("train", device=self.device))
            if self.chains.init is not None:
                self.chains.init.fit(data.eval_loader("train", device=self.device))

    def configure_callbacks(self) -> list[L.Callback]:
        """The callbacks that save the state of chains and sampler: without them a continued PCD would become CD."""
        callbacks: list[L.Callback] = [BufferCallback(self.chains)] if self.chains.stateful else []
        if self.sampler is not None and self.sampler.stateful and not isinstance(self.sampler, nn.Module):
            callbacks.append(SamplerState(self.sampler))  # a module's parameters and buffers are in the checkpoint
        return callbacks + ([AutoCompile()] if self.acceleration.compile == "auto" else [])

    def compile_phase(self, compile: bool) -> None:
        """Set whether transitions of the negative phase are compiled in training from now on."""
        self._transitions = fused_ops.compiled(run_chain) if compile else run_chain_cached
        if self.acceleration.cuda_graphs:
            self._transitions = Graphed(self._transitions)
        if compile:
            for part in self.model.modules():  # the compiler cannot trace a cached property: compute it before
                _ = part.variables if isinstance(part, EnergyModel) else ()

    def training_step(self, batch: State, batch_idx: int) -> Terms:
        """Positive phase, negative phase and objective; Lightning minimizes ``["loss"]``."""
        pos = self.model.positive_phase(batch)
        if batch_idx == 0:
            check_names(self.model, batch, METADATA)
            self.model.check(pos)
        neg = self.sample_negatives(pos)
        terms = self.objective(self.model, pos, neg)
        logged = {name: term.detach() for name, term in terms.items()}
        self._log_terms("train", logged)
        return {**logged, "loss": terms["loss"]}

    def sample_negatives(self, pos: State) -> State | None:
        """Samples from the model for the positive phase ``pos``, or None: the hook for negative-sample generation."""
        if self.sampler is None:
            return None
        start = start_chains(self.chains, self.sampler, pos)
        neg, info = self.run_negative_chains(start, self._steps_now, self.backprop)
        self.chains.finish(neg)
        self._log_terms("sampler", info)
        return neg

    def fresh_negatives(self, pos: State, backprop: int = 0) -> State | None:
        """A negative phase of newly initialized chains, or None: as in training, without moving persistent chains."""
        if self.sampler is None:
            return None
        chains = DataChains() if self.chains.init is None else NoiseChains(self.chains.init)
        return self.run_negative_chains(start_chains(chains, self.sampler, pos), self._steps_now, backprop)[0]

    def gradient(self, batch: State) -> list[Tensor | None]:
        """The gradient of the training loss in each trainable parameter, from newly initialized chains."""
        with torch.enable_grad():
            pos = self.model.positive_phase(batch)
            terms = self.objective(self.model, pos, self.fresh_negatives(pos, self.backprop))
            parameters = [p for p in self.parameters() if p.requires_grad]
            return list(torch.autograd.grad(terms["loss"], parameters, allow_unused=True))

    def wait(self) -> None:
        """Wait until the device has finished, for timing."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def run_negative_chains(self, start: State, steps: int, backprop: int = 0) -> tuple[State, Info]:
        """``steps`` transitions of the sampler from ``start``, in eval mode if ``eval_sampling``."""
        assert self.sampler is not None
        transitions = self._transitions if self.training else run_chain_cached
        # Eval mode makes the chains a sampler of one fixed energy: dropout would change it from step to step, and batch
        # norm would couple the chains of a batch and mix their statistics into the running ones.
        with evaluating(self.model) if self.eval_sampling else nullcontext():
            # Compiled or recorded transitions have one form, with info, whether or not the step is logged.
            with_info = self._is_logged or transitions is not run_chain_cached
            return transitions(self.sampler, self.model, start, steps, backprop, with_info=with_info)

    def validation_step(self, batch: State, batch_idx: int) -> None:
        """Log the energies of a validation batch, and the terms of an objective that predicts or needs no samples."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: State, batch_idx: int) -> None:
        """Log the same terms of a test batch."""
        self._evaluate("test", batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update an adaptive sampler, and log the norm of the gradient."""
        if isinstance(self.sampler, AdaptiveSampler):
            self.sampler.update(self.model)
        if self._logs_now:
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/grad_norm", full_tensor(torch.nn.utils.get_total_norm(gradients)))

    def make_optimizer(self) -> torch.optim.Optimizer:
        """A new optimizer: biases have no weight decay, the sampler's parameters have their own learning rate."""
        optimizer = (self.optimizer or torch.optim.Adam)(self.parameters())
        if isinstance(self.sampler, nn.Module):
            add_sampler_param_group(optimizer, self.sampler, self.sampler_param_group)
        exclude_biases_from_weight_decay(optimizer)
        return optimizer

    def configure_optimizers(self) -> Any:
        """The optimizer and, if any, the learning-rate scheduler, for Lightning."""
        optimizer = self.make_optimizer()
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def _evaluate(self, stage: str, batch: State, batch_idx: int) -> None:
        """Log energies of held-out data and, for an objective that predicts or needs no samples, its terms."""
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
        """The number of transitions of the negative phase at this training step."""
        return self.steps if isinstance(self.steps, int) else round(self.steps(self.global_step))

    @property
    def _logs_now(self) -> bool:
        """Whether this step is logged: a log call takes longer than a training step of a small model."""
        return (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    @property
    def _is_logged(self) -> bool:
        return self._trainer is not None and self._logs_now

    def _log_terms(self, prefix: str, terms: dict[str, Tensor]) -> None:
        if self._is_logged:
            for name, term in terms.items():
                self.log(f"{prefix}/{name}", term, prog_bar=name == "gap" or (name == "loss" and "gap" not in terms))


def run_chain_cached(
    sampler: Sampler, model: EnergyModel, state: State, steps: int, backprop: int = 0, with_info: bool = True
) -> tuple[State, Info]:
    """:func:`run_chain`. Parametrized weights (spectral norm) are computed once if they are constant."""
    with nullcontext() if backprop or model.training else parametrize.cached():
        return run_chain(sampler, model, state, steps, backprop, with_info=with_info)
