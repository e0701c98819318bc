"""Pictures while a model trains: fresh samples, and the energies of data, chains and noise."""

import sys
from functools import partial
from typing import Any

import lightning.pytorch as L
import torch

from ebm_lightning.core import AGE, State
from ebm_lightning.generation.samples import energies, fresh_chains, initial_distribution
from ebm_lightning.runs.loggers import log_picture
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots
from ebm_lightning.utils.random import isolated


class SamplePictures(L.Callback):
    """Logs pictures of fresh and persistent chains, and histograms of the energies of data, chains and noise.

    Its random numbers are isolated: a run has the same weights with and without it.

    Args:
        every_n_steps: training steps between pictures; 0 for none.
        num_chains: chains in a picture.
        steps: transitions of each chain from noise.
    """

    def __init__(self, every_n_steps: int = 1000, num_chains: int = 36, steps: int = 200) -> None:
        if every_n_steps < 0 or num_chains < 1 or steps < 1:
            raise ValueError(
                f"SamplePictures(every_n_steps={every_n_steps}, num_chains={num_chains}, steps={steps}): expected "
                "every_n_steps >= 0, num_chains >= 1 and steps >= 1"
            )
        self.every_n_steps, self.num_chains, self.steps = every_n_steps, num_chains, steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: State, batch_idx: int
    ) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and trainer.is_global_zero:
            assert isinstance(pl_module, EBM)
            if pl_module.sampler is not None:
                with isolated(trainer.global_step):
                    self.draw(trainer, pl_module, batch)
                    self.draw_chains(trainer, pl_module)

    def draw_chains(self, trainer: L.Trainer, module: EBM) -> None:
        """Send pictures of chains that persist, and a histogram of their ages, to the loggers."""
        if AGE in (stored := module.chains.examples(sys.maxsize)):
            log_picture(
                trainer, "chains/age", lambda: plots.plot_histogram({"chains": stored[AGE]}, "age in negative phases")
            )
        for name, x in module.chains.examples(self.num_chains).items():
            if name in module.model.variables and plots.can_plot(x) and torch.isfinite(x).all():
                log_picture(trainer, f"chains/{name}", partial(plots.plot_samples, x))

    @torch.no_grad()
    def draw(self, trainer: L.Trainer, module: EBM, batch: State) -> None:
        """Log the pictures."""
        assert module.sampler is not None
        few = {name: value[: self.num_chains] for name, value in batch.items()}
        fresh = fresh_chains(module, few, self.steps)
        for name in module.sampler.free:
            if name in module.model.variables and plots.can_plot(fresh[name]):
                log_picture(trainer, f"fresh/{name}", partial(plots.plot_samples, fresh[name], module.sampler.bounds))
        data = module.model.positive_phase(batch)
        noise = initial_distribution(module)
        by_set = {
            "data": energies(module, data),
            "fresh chains": energies(module, fresh),
            "noise": energies(
                module, data | {name: noise.sample(data[name]) for name in module.sampler.free if name in data}
            ),
        }
        persistent = module.chains.examples(len(next(iter(batch.values()))))
        if set(module.model.variables) <= persistent.keys():
            by_set["buffer"] = energies(module, persistent)
        log_picture(trainer, "energies", lambda: plots.plot_histogram(by_set, "energy"))
