"""Pictures while a model trains: fresh samples, and the energies of data, chains and noise."""

import sys
from functools import partial
from typing import Any

import lightning.pytorch as L
import torch

from ebm_lightning.core import AGE, State
from ebm_lightning.generation.samples import birth_noise, energies, fresh_chains
from ebm_lightning.runs.loggers import log_picture
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots
from ebm_lightning.utils.random import isolated


class SamplePictures(L.Callback):
    """Every so many steps: pictures of fresh and kept chains, and histograms of the energies of data, chains and noise.

    It draws from streams of its own: with or without it a run has the same weights.

    Args:
        every_n_steps: training steps between pictures; 0 for none.
        number: chains in a picture.
        steps: transitions of each chain from noise.
    """

    def __init__(self, every_n_steps: int = 1000, number: int = 36, steps: int = 200) -> None:
        if every_n_steps < 0 or number < 1 or steps < 1:
            raise ValueError(
                f"SamplePictures(every_n_steps={every_n_steps}, number={number}, steps={steps}): expected "
                "every_n_steps >= 0, number >= 1 and steps >= 1"
            )
        self.every_n_steps, self.number, self.steps = every_n_steps, number, steps

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
        if AGE in (kept := module.chains.examples(sys.maxsize)):
            log_picture(trainer, "chains/age", lambda: plots.histogram({"chains": kept[AGE]}, "age in negative phases"))
        for name, x in module.chains.examples(self.number).items():
            if name in module.model.variables and plots.drawable(x) and torch.isfinite(x).all():
                log_picture(trainer, f"chains/{name}", partial(plots.picture, x))

    @torch.no_grad()
    def draw(self, trainer: L.Trainer, module: EBM, batch: State) -> None:
        """Sends the pictures to the loggers."""
        assert module.sampler is not None
        few = {name: value[: self.number] for name, value in batch.items()}
        fresh = fresh_chains(module, few, self.steps)
        for name in module.sampler.free:
            if name in module.model.variables and plots.drawable(fresh[name]):
                log_picture(trainer, f"fresh/{name}", partial(plots.picture, fresh[name], module.sampler.bounds))
        data = module.model.positive_phase(batch)
        noise = birth_noise(module)
        shown = {
            "data": energies(module, data),
            "fresh chains": energies(module, fresh),
            "noise": energies(
                module, data | {name: noise.sample(data[name]) for name in module.sampler.free if name in data}
            ),
        }
        kept = module.chains.examples(len(next(iter(batch.values()))))
        if set(module.model.variables) <= kept.keys():
            shown["buffer"] = energies(module, kept)
        log_picture(trainer, "energies", lambda: plots.histogram(shown, "energy"))
