"""A sampler defined outside the package: random-walk Metropolis, which takes no gradient."""

from dataclasses import KW_ONLY, dataclass

import torch

from ebm_lightning.core import EnergyModel, Info, Sampler, State, select_variable


@dataclass(frozen=True)
class RandomWalkMetropolis(Sampler):
    """Propose x + scale N(0, 1) and accept it with probability min(1, exp(E(x) - E(proposal))).

    It leaves exp(-E), normalized, invariant at every scale. Info: ``energy``, the mean at the start of the step;
    ``accept``, the share of accepted proposals. Metropolis et al. (1953).

    Args:
        scale: standard deviation of a proposal in units of the variable, > 0.
        free: the one variable that moves, shape (B, ...).

    Raises:
        ValueError: if ``scale`` <= 0, or ``free`` does not name exactly one variable.
    """

    scale: float
    _: KW_ONLY
    free: tuple[str, ...] = ("x",)

    def __post_init__(self) -> None:
        _ = self.block
        if not self.scale > 0:
            raise ValueError(f"RandomWalkMetropolis(scale={self.scale}): expected a number > 0")

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        x = select_variable(model, state, self.block)
        proposal = {**state, self.block: x + self.scale * torch.randn_like(x)}
        before, after = model.energy(state), model.energy(proposal)
        accepted = torch.rand_like(before) < (before - after).exp()
        moved = torch.where(accepted.view(-1, *[1] * (x.ndim - 1)), proposal[self.block], x)
        info = {"energy": before.detach().mean(), "accept": accepted.to(before.dtype).mean()}
        return {**state, self.block: moved}, info if with_info else {}
