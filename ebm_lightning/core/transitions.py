"""The one loop that runs a sampler, and the gradient of an energy in a variable."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ebm_lightning.core.contracts import Chains, EnergyModel, Info, Sampler, State, select_variable


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and every part of it back into its own mode afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Restore a module's buffers, such as the statistics of training, afterwards."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def energy_grad(model: EnergyModel, state: State, block: str) -> tuple[Tensor, Tensor]:
    """(dE/dblock, E): the gradient in one variable, in its shape, and the detached energies (B,).

    Differentiable exactly if grad mode is on at the call. It works under ``no_grad`` and under ``inference_mode``
    as well, and never fills the ``.grad`` of a parameter. While torch.compile traces a function that calls it, the
    gradient is torch.func's: the compiler cannot differentiate what autograd.grad gives once more.
    """
    if torch.compiler.is_compiling():
        return _energy_grad_by_func(model, state, block)
    differentiable = torch.is_grad_enabled()
    # Inference mode cannot be left for a part of a graph: a tensor made in it takes no part in autograd, not even under
    # enable_grad. So the mode is switched off here, and what was made in it is cloned into a normal tensor first.
    with torch.inference_mode(False), torch.enable_grad():
        state = {name: value.clone() if value.is_inference() else value for name, value in state.items()}
        x = select_variable(model, state, block)
        if not (differentiable and x.requires_grad):
            x = x.detach().requires_grad_()
        energy = model.energy({**state, block: x})
        (grad,) = torch.autograd.grad(energy.sum(), x, create_graph=differentiable)
    return grad, energy.detach()


def _energy_grad_by_func(model: EnergyModel, state: State, block: str) -> tuple[Tensor, Tensor]:
    """:func:`energy_grad` as a compiler can trace it; a gradient flows through it if grad mode is on."""

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        energy = model.energy({**state, block: x})
        return energy.sum(), energy

    grad, (_, energy) = torch.func.grad_and_value(total, has_aux=True)(select_variable(model, state, block))
    return grad, energy.detach()


def step_info(energy: Tensor, grad: Tensor, clip: float | Tensor | None = None) -> Info:
    """The info of a gradient step at energies (B,) with gradients (B, ...).

    ``energy``, the mean; ``grad_norm``, the mean Euclidean norm of a gradient; with ``clip`` also ``clip_share``, the
    share of gradient elements beyond it.
    """
    grad = grad.detach()
    info = {
        "energy": energy.detach().mean(),
        "grad_norm": torch.linalg.vector_norm(grad.flatten(1), dim=1).mean(),
    }
    if clip is not None:
        info["clip_share"] = (grad.abs() > clip).to(grad.dtype).mean()
    return info


def start_chains(chains: Chains, sampler: Sampler, pos: State) -> State:
    """Where chains start for a positive phase, with the auxiliary variables that the sampler moves."""
    return chains.start(sampler.augment_state(pos), sampler.free)


def trajectory(
    sampler: Sampler, model: EnergyModel, state: State, with_info: bool = True
) -> Iterator[tuple[State, Info]]:
    """The only loop: an endless chain from ``state``; the caller decides when to stop."""
    while True:
        state, info = sampler.step(model, state, with_info)
        yield state, info


def run_chain(
    sampler: Sampler, model: EnergyModel, state: State, steps: int, backprop: int = 0, with_info: bool = True
) -> tuple[State, Info]:
    """``steps`` transitions, of which the last ``backprop`` stay in the autograd graph (0: SGLD; steps: EBT).

    The info is the mean over the steps of the sampler's info, and for every free variable of the start
    ``drift_<name>``, the mean over the batch of the Euclidean distance between its start and its end; it is empty if
    ``with_info`` is False.
    Raises ValueError if ``steps`` < 1 or ``backprop`` lies outside 0..steps.
    """
    if steps < 1 or not 0 <= backprop <= steps:
        raise ValueError(
            f"run_chain(steps={steps}, backprop={backprop}): expected steps >= 1 and 0 <= backprop <= steps"
        )
    chain, infos, end = trajectory(sampler, model, state, with_info), [], state
    for k in range(steps):
        with torch.set_grad_enabled(k >= steps - backprop):
            end, info = next(chain)
        infos.append(info)
    return end, _summary(sampler, state, end, infos) if with_info else {}


@torch.no_grad()
def _summary(sampler: Sampler, start: State, end: State, infos: list[dict[str, Any]]) -> Info:
    summary = {name: torch.stack([info[name].detach() for info in infos]).mean() for name in infos[0]}
    for name in [name for name in sampler.free if name in start]:
        moved = (end[name] - start[name]).float().reshape(len(start[name]), -1)
        summary[f"drift_{name}"] = torch.linalg.vector_norm(moved, dim=1).mean()
    return summary
