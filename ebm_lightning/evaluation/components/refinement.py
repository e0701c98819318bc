"""A classifier that lets its energy move an image before it looks at it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.evaluation.components.class_posterior import log_posterior
from ebm_lightning.training.module import EBM


@dataclass(frozen=True)
class Refinement:
    """p(y | x) after ``steps`` transitions of the run's own sampler from x, averaged over ``chains`` of them: JEM-k.

    log p(y | x) = mean_c log p(y | x_c) - log sum_y exp(the same), over the ends x_c of parallel chains that all begin
    at x. That is the softmax of the averaged logits, which the released code of JEM averages too, and not the mean of
    the probabilities. The model sees no label meanwhile, so that chains descend E(x). With 0 steps it is p(y | x).
    Du & Mordatch (2019); Grathwohl et al. (2020), whose released code takes 5 chains.

    Args:
        steps: k, transitions of each chain, >= 0.
        chains: parallel chains, >= 1; one is enough for a sampler without noise.

    Raises:
        ValueError: where ``steps`` < 0 or ``chains`` < 1; at a call, where the run has no sampler that moves x.
    """

    steps: int
    chains: int = 5

    def __post_init__(self) -> None:
        if self.steps < 0 or self.chains < 1:
            raise ValueError(f"{self}: expected steps >= 0 and chains >= 1")

    def ends(self, module: EBM, state: State, block: str) -> Iterator[State]:
        """The refined states of one chain after another, without graph; the state itself, once, where ``steps`` is 0.

        Each chain has noise of its own, drawn when it is asked for. The label ``block`` is left out.
        """
        rest = {name: value for name, value in state.items() if name != block}
        if not self.steps:
            yield rest
            return
        if module.sampler is None or "x" not in module.sampler.free:
            raise ValueError(
                f"{self} moves x by the sampler of the run, but this run has none that moves it: train with a sampler "
                "of x, or leave out the refinement"
            )
        begin = module.sampler.augment_state(module.model.positive_phase(rest))
        for _ in range(self.chains):
            yield {**rest, "x": module.run_negative_chains(begin, self.steps)[0]["x"]}

    def log_posterior(self, module: EBM, state: State, block: str) -> Tensor:
        """The defended log p(block | x), (B, classes), float64, from fresh chains and without graph."""
        with torch.no_grad():
            ends = [log_posterior(module.model, end, block) for end in self.ends(module, state, block)]
        return ends[0] if len(ends) == 1 else torch.log_softmax(torch.stack(ends).mean(0), -1)
