"""Samples of a trained module: chains from its initial distribution, for `ebm sample` and the protocols."""

from copy import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ebm_lightning.chains.nonpersistent import NoiseChains
from ebm_lightning.core import Noise, Sampler, State, evaluating, start_chains, trajectory
from ebm_lightning.data.base import DataModule
from ebm_lightning.distributions.noise import DataInit, UniformNoise
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.plots import can_plot, plot_samples
from ebm_lightning.utils.random import isolated


def initial_distribution(module: EBM) -> Noise:
    """The distribution from which chains of this module are initialized without data.

    It is that of the module's chains or, if these start at data, uniform within the bounds of the sampler. A sampler
    that predicts from x does not move x: then the chains start at the state that the model's ``positive_phase`` gives.
    """
    if module.chains.init is not None and not isinstance(module.chains.init, DataInit):
        return module.chains.init
    if module.sampler is not None and "x" not in module.sampler.free:
        return DataInit()
    bounds = module.sampler.bounds if module.sampler else None
    return UniformNoise(*(bounds or (0.0, 1.0)))


def empty_batch(data: DataModule, num_samples: int, device: torch.device) -> State:
    """A batch in the shape of the data: zeros, and each label of the data equally often, in turn."""
    batch = {"x": torch.zeros(num_samples, *data.shape, dtype=data.dtype, device=device)}
    if data.classes:
        batch["y"] = torch.arange(num_samples, device=device) % data.classes
    return batch


def conditioning_batch(module: EBM, data: DataModule, num_samples: int) -> State:
    """The batch that fresh chains are conditioned on.

    It is an empty batch or, if the sampler does not move x, the first ``num_samples`` test examples.
    """
    if module.sampler is None or "x" in module.sampler.free:
        return empty_batch(data, num_samples, module.device)
    batches: list[State] = []
    for batch in data.eval_loader("test", device=module.device):
        batches.append(batch)
        if sum(len(one["x"]) for one in batches) >= num_samples:
            break
    return {name: torch.cat([batch[name] for batch in batches])[:num_samples] for name in batches[0]}


def init_chains(module: EBM, pos: State) -> tuple[Sampler, State]:
    """A copy of the module's sampler, and the initial state of its chains for a completed ``pos``.

    The adaptation of the copy leaves the run's own sampler as it is.

    Raises:
        ValueError: if the module has no sampler.
    """
    if module.sampler is None:
        raise ValueError("this run was trained without a sampler, so nothing can be drawn from it: give EBM a sampler")
    sampler = copy(module.sampler)
    return sampler, start_chains(NoiseChains(initial_distribution(module)), sampler, pos)


@torch.no_grad()
def fresh_chains(module: EBM, pos: State, steps: int, progress: bool = False) -> State:
    """The end of ``steps`` transitions from noise, one chain for each example of ``pos``, with its clamped variables.

    The model is in eval mode meanwhile.

    Raises:
        ValueError: if the module has no sampler.
    """
    with evaluating(module):
        sampler, state = init_chains(module, module.model.positive_phase(pos))
        chain = trajectory(sampler, module.model, state)
        for _ in tqdm(range(steps), desc="sampling", unit="step", disable=not progress, leave=False):
            state, _ = next(chain)
    return state


@torch.no_grad()
def energies(module: EBM, state: State, batch_size: int = 500) -> Tensor:
    """E of every example of a full state, in batches, in eval mode; shape (N,), on the CPU."""
    parts = []
    with evaluating(module):
        for i in range(0, len(next(iter(state.values()))), batch_size):
            batch = {name: value[i : i + batch_size].to(module.device) for name, value in state.items()}
            parts.append(module.model.energy(batch))
    return torch.cat(parts).float().cpu()


def save_samples(module: EBM, state: State, folder: Path, name: str) -> list[Path]:
    """Write final states as ``<name>.png`` (if they can be drawn) and ``<name>.npz`` with their energies."""
    assert module.sampler is not None
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for block in module.sampler.free:
        if block in module.model.variables and can_plot(state[block]):
            files.append(folder / f"{name}{'' if block == 'x' else f'-{block}'}.png")
            plot_samples(state[block], module.sampler.bounds).save(files[-1])
    arrays = {key: value.cpu().numpy() for key, value in state.items()}
    files.append(folder / f"{name}.npz")
    arrays["energy"] = energies(module, state).numpy()
    np.savez_compressed(files[-1], **arrays)  # type: ignore[arg-type]
    return files


def draw_samples(
    module: EBM, data: DataModule, folder: Path, num_samples: int = 64, steps: int = 500, seed: int = 0
) -> list[Path]:
    """Draw fresh chains from noise and save them: a picture and an .npz with every variable and the energies.

    Args:
        module: the trained module.
        data: of the run, for the shape of a sample and the number of classes, or for the examples to predict from.
        folder: for the files.
        num_samples: number of samples, at least 1.
        steps: transitions of each chain, at least 1.
        seed: of the chains' random numbers.

    Returns:
        The files written, the picture first.
    """
    if num_samples < 1 or steps < 1:
        raise ValueError(f"sample(num_samples={num_samples}, steps={steps}): expected both to be at least 1")
    with isolated(seed):
        state = fresh_chains(module, conditioning_batch(module, data, num_samples), steps, progress=True)
        return save_samples(module, state, folder, f"fresh-{steps}-steps-seed-{seed}")
