"""Refinement: an image is moved by the sampler of the run before it is classified."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.evaluation.components.class_posterior import log_posterior
from ebm_lightning.training.module import EBM


@dataclass(frozen=True)
class Refinement:
    """p(y | x) after ``steps`` transitions of the run's own sampler from x, averaged over ``chains`` chains: JEM-k.

    log p(y | x) = mean_c log p(y | x_c) - log sum_y exp(mean_c log p(y | x_c)), over the ends x_c of parallel chains
    that start at x. It is the softmax of the averaged logits, as in the released code of JEM, and not the mean of the
    probabilities. The label is left out of the state, so that the chains sample from E(x). With 0 steps it is p(y | x).
    Du & Mordatch (2019); Grathwohl et al. (2020), whose released code takes 5 chains.

    Args:
        steps: k, transitions of each chain, >= 0.
        chains: parallel chains, >= 1; more than one is of no use for a sampler without noise.

    Raises:
        ValueError: if ``steps`` < 0 or ``chains`` < 1; at a call, if the run has no sampler that moves x.
    """

    steps: int
    chains: int = 5

    def __post_init__(self) -> None:
        if self.steps < 0 or self.chains < 1:
            raise ValueError(f"{self}: expected steps >= 0 and chains >= 1")

    def ends(self, module: EBM, state: State, block: str) -> Iterator[State]:
        """The refined state of each chain, without graph and without the label ``block``.

        The noise of a chain is drawn when its state is requested. With 0 steps, the state itself is given once.
        """
        rest = {name: value for name, value in state.items() if name != block}
        if not self.steps:
            yield rest
            return
        if module.sampler is None or "x" not in module.sampler.free:
            raise ValueError(
                f"{self} moves x by the sampler of the run, but this run has no sampler of x: train with one, or leave "
                "out the refinement"
            )
        start = module.sampler.augment_state(module.model.positive_phase(rest))
        for _ in range(self.chains):
            yield {**rest, "x": module.run_negative_chains(start, self.steps)[0]["x"]}

    def log_posterior(self, module: EBM, state: State, block: str) -> Tensor:
        """log p(block | x) after the refinement, (B, classes), float64, without graph. The chains are fresh."""
        with torch.no_grad():
            ends = [log_posterior(module.model, end, block) for end in self.ends(module, state, block)]
        return ends[0] if len(ends) == 1 else torch.log_softmax(torch.stack(ends).mean(0), -1)
