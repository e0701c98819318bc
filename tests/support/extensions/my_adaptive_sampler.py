"""An adaptive sampler defined outside the package: its step size follows the size of the weights' gradient."""

import torch
from torch import Tensor

from ebm_lightning.core import AdaptiveSampler, EnergyModel, Info, State, energy_grad, step_info


class AdaptedLangevin(AdaptiveSampler):
    """Langevin dynamics whose step size shrinks while the weights move fast.

    Args:
        step_size: of the first step, in units of x squared per unit of energy.
    """

    free = ("x",)

    def __init__(self, step_size: float) -> None:
        self.step_size = step_size
        self.speed: Tensor | None = None

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        grad, energy = energy_grad(model, state, "x")
        s = self.step_size if self.speed is None else float(self.step_size / (1 + self.speed))
        noise = (2 * s) ** 0.5 * torch.randn_like(state["x"])
        return {**state, "x": state["x"] - s * grad + noise}, step_info(energy, grad) if with_info else {}

    def update(self, model: EnergyModel) -> None:
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        self.speed = norm if self.speed is None else self.speed.lerp(norm, 0.1)

    def state_dict(self) -> State:
        return {} if self.speed is None else {"speed": self.speed}

    def load_state_dict(self, state: State) -> None:
        self.speed = state["speed"]
