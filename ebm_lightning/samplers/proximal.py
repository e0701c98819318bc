"""Langevin dynamics with several updates for each pass through the whole network: Proximal YOPO-SGLD."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ebm_lightning.core import Bounds, EnergyModel, Info, Sampler, State, energy_grad, select_variable, step_info


@dataclass(frozen=True)
class ProximalSGLD(Sampler):
    """``inner`` steps x <- x - step_size J(x)^T p with one p = dE/dh, h = first(x) and J = dh/dx, then noise N(0, 1).

    By the chain rule J^T p is dE/dx at the start of the transition, where p is computed; in later inner steps J is
    updated and p is not, so that one pass through the whole network yields several updates of x. With ``inner`` 1 this
    is :class:`SGLD`, with the same random numbers. A linear first layer, such as the convolution of a WideResNet, has a
    constant J: the transition is then that of SGLD with the step size inner step_size, at the cost of more passes
    through that layer. M outer and N inner updates are ``steps: M`` of the EBM and ``inner: N`` here. The temperature
    is noise^2 / (2 inner step_size), for small steps and without clip and bounds: 0 in the published setting, step_size
    0.2, inner 5, clip 1, bounds (-1, 1) and no noise.
    Info: ``energy`` and ``grad_norm`` (before clipping) at the start of the transition, and ``clip_share``, the share
    of gradient elements clipped there, if ``clip`` is set. Yang & Ji (2021), Proximal YOPO-SGLD of JEM++, and their
    released code; Zhang et al. (2019), YOPO.

    Args:
        step_size: factor of the gradient in an inner step, > 0, in units of the variable squared per unit of energy.
        first: path of the layer in the model, such as "net.trunk.0". Its input is the variable itself; any other path
            from the variable to the energy would contribute to the first inner step only.
        inner: N, inner steps in one transition, >= 1.
        noise: standard deviation of the noise of one transition, >= 0, in units of the variable.
        clip: every element of an inner gradient is clipped to [-clip, clip]; None for no clipping.
        bounds: the interval to which positions are clamped after every inner step; None for no bounds.
        free: the one variable that moves, shape (B, ...).

    Raises:
        ValueError: if a number is out of range, or ``free`` does not name exactly one variable; at a step, if
            ``first`` is no such layer of the model.

    >>> import torch
    >>> from ebm_lightning.energies import DeepEnergy
    >>> from ebm_lightning.samplers import SGLD
    >>> _ = torch.manual_seed(0)
    >>> energy = DeepEnergy(torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.SiLU(), torch.nn.Linear(4, 1)))
    >>> inner, outer = ProximalSGLD(0.1, first="net.0", inner=5, noise=0.0), SGLD(0.5, noise=0.0)
    >>> x = {"x": torch.zeros(1, 2)}
    >>> torch.allclose(inner.step(energy, x)[0]["x"], outer.step(energy, x)[0]["x"])  # the first layer is linear
    True
    """

    step_size: float
    _: KW_ONLY
    first: str
    inner: int
    noise: float
    clip: float | None = None
    bounds: Bounds | None = None
    free: tuple[str, ...] = ("x",)

    def __post_init__(self) -> None:
        _ = self.block
        if not (self.step_size > 0 and self.inner >= 1 and self.noise >= 0):
            raise ValueError(
                f"ProximalSGLD(step_size={self.step_size}, inner={self.inner}, noise={self.noise}): expected "
                "step_size > 0, inner >= 1 and noise >= 0"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"ProximalSGLD(clip={self.clip}): expected a number > 0, or None for no clipping")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"ProximalSGLD(bounds={self.bounds}): expected (low, high) with low < high, or None")

    @property
    def temperature(self) -> float:
        """noise^2 / (2 inner step_size): the temperature of Langevin dynamics with the same transition."""
        return self.noise**2 / (2 * self.inner * self.step_size)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        block, x = self.block, select_variable(model, state, self.block)
        layer = self._layer(model)
        grad, p, energy = self._gradients(layer, model, state)
        info = step_info(energy, grad, self.clip) if with_info else {}
        for left in reversed(range(self.inner)):
            x = x - self.step_size * (grad if self.clip is None else grad.clamp(-self.clip, self.clip))
            if left == 0 and self.noise > 0:
                x = x + self.noise * torch.randn_like(x)
            if self.bounds is not None:
                x = x.clamp(*self.bounds)
            if left > 0:
                grad, _ = energy_grad(_First(layer, p), {"x": x}, "x")
        return {**state, block: x}, info

    def _layer(self, model: EnergyModel) -> nn.Module:
        try:
            return model.get_submodule(self.first)
        except AttributeError as reason:
            raise ValueError(
                f"ProximalSGLD(first={self.first!r}) is no part of {type(model).__name__}: name the path of the layer "
                f"that takes {self.block}, such as 'net.trunk.0' of a JEM around a WideResNet"
            ) from reason

    def _gradients(self, layer: nn.Module, model: EnergyModel, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """dE/dx, dE/dh and the energies (B,), from one pass through the whole model."""
        inputs: list[Tensor] = []
        slopes: list[Tensor] = []

        def record(_: nn.Module, args: tuple[Any, ...], h: Tensor) -> None:
            inputs.append(args[0])
            h.register_hook(slopes.append)  # type: ignore[no-untyped-call]

        handle = layer.register_forward_hook(record)
        try:
            grad, energy = energy_grad(model, state, self.block)
        finally:
            handle.remove()
        if len(inputs) != 1 or len(slopes) != 1 or not (inputs[0] is state[self.block] or inputs[0].is_leaf):
            raise ValueError(
                f"ProximalSGLD(first={self.first!r}) needs a layer that takes {self.block} itself, once in every pass; "
                f"in {type(model).__name__} this one does not: name the first layer, or sample by SGLD"
            )
        return grad, slopes[0], energy


class _First(EnergyModel):
    """p . first(x), whose gradient in x is J^T p."""

    def __init__(self, layer: nn.Module, p: Tensor) -> None:
        super().__init__()
        self.layer, self.p = layer, p

    def forward(self, x: Tensor) -> Tensor:
        return (self.p * self.layer(x)).flatten(1).sum(1)
