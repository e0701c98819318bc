"""Replica exchange: chains at several temperatures, or under earlier snapshots of the model, that swap states."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ebm_lightning.core import REPLICAS, AdaptiveSampler, Bounds, EnergyModel, Info, Sampler, State
from ebm_lightning.core import tempered as temper
from ebm_lightning.samplers.wrappers.base import WrappedSampler, check_not_adaptive

FORGETTING = 0.1
"""The weight of the newest swap in the running means of the acceptance."""


@dataclass(frozen=True)
class ParallelTempering(WrappedSampler):
    """Parallel tempering: replicas of every chain at the inverse temperatures ``betas``, with swaps between neighbors.

    A transition is one step of ``sampler`` on every rung k, on the energy E_k of ``tempered(model, betas[k])``, and
    then one swap of the rungs k and k + 1, for all even k or for all odd k (a fair coin), each with the probability
    min(1, exp(E_k(x_k) + E_l(x_l) - E_k(x_l) - E_l(x_k))), l = k + 1. If ``sampler`` leaves the distribution of each
    rung invariant, their product is invariant. The first rung is the model; its variables keep their names, and the
    negative phase consists of them only. The other rungs are auxiliary free variables, "x.replicas" (B, rungs - 1, ...)
    for "x", which persist if the chains do. A free variable that was not in the state when the chains started, such as
    the hidden units of an RBM, has no replicas: ``sampler`` has to draw it before another depends on it, and a swap
    moves it together with the others. A step costs one step of ``sampler`` and two energies for each rung.
    Info: ``swap``, the mean acceptance probability, and the info of ``sampler``, averaged over all rungs.
    Swendsen & Wang (1986); Geyer (1991); Desjardins et al. (2010) for RBMs.

    Args:
        sampler: the kernel; its bounds become this sampler's.
        betas: inverse temperatures, from 1, the model itself, down to the hottest rung, which should mix without swaps:
            at least two, not increasing, all >= 0 (> 0 for unbounded variables).

    Raises:
        ValueError: if ``betas`` are not as above, or the inner sampler is adaptive; at a step, if the state has no
            replicas.

    >>> import torch
    >>> from ebm_lightning.energies import DoubleWell
    >>> from ebm_lightning.samplers import MALA
    >>> sampler = ParallelTempering(MALA(0.1), betas=(1.0, 0.5, 0.25))
    >>> state, info = sampler.step(DoubleWell(), sampler.augment_state({"x": torch.zeros(5, 1)}))
    >>> state["x"].shape, state["x.replicas"].shape
    (torch.Size([5, 1]), torch.Size([5, 2, 1]))
    """

    sampler: Sampler
    _: KW_ONLY
    betas: tuple[float, ...]
    free: tuple[str, ...] = field(init=False)
    bounds: Bounds | None = field(init=False)

    def __post_init__(self) -> None:
        falls = all(hot <= cold for cold, hot in pairwise(self.betas))
        if len(self.betas) < 2 or self.betas[0] != 1 or not falls or not self.betas[-1] >= 0:
            raise ValueError(
                f"ParallelTempering(betas={self.betas}): expected at least two numbers, from 1 downwards, all >= 0"
            )
        check_not_adaptive(self, self.sampler)
        object.__setattr__(self, "free", _with_replicas(self.sampler.free))
        object.__setattr__(self, "bounds", self.sampler.bounds)

    def augment_state(self, state: State) -> State:
        return _extended(self.sampler, state, len(self.betas) - 1)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        rungs = len(self.betas)
        ladder, clamped = _ladder(self.sampler, state, rungs)
        n = len(next(iter(ladder.values())))
        fixed = {name: value.repeat_interleave(rungs, 0) for name, value in clamped.items()}
        tempered = temper(model, _repeated(self.betas, n, state))
        end, info = self.sampler.step(
            tempered, fixed | {name: x.flatten(0, 1) for name, x in ladder.items()}, with_info
        )
        moved = {name: end[name].reshape(n, rungs, *end[name].shape[1:]) for name in self.sampler.free if name in end}

        def energies(ladder: State) -> Tensor:
            return tempered.energy(fixed | {name: x.flatten(0, 1) for name, x in ladder.items()}).view(n, rungs)

        swapped, _, acceptance = exchange(moved, energies)
        return state | _to_state(swapped, ladder), info | {"swap": acceptance.mean()} if with_info else {}


class TrajectoryTempering(AdaptiveSampler):
    """Parallel trajectory tempering: replicas of every chain under earlier snapshots of the model, with swaps.

    It replaces the temperatures of parallel tempering by earlier parameters of the model, at which the modes were not
    yet separated: the rungs are the model, its newest snapshot, and so on to the earliest. A transition is one step of
    ``sampler`` on every rung and then one swap of the rungs k and k + 1, for all even k or for all odd k (a fair coin),
    each with the probability min(1, exp(E_k(x_k) + E_l(x_l) - E_k(x_l) - E_l(x_k))), l = k + 1; E is the energy, for an
    RBM the free energy. Variables and replicas are as in :class:`ParallelTempering`.

    The first snapshot is taken in the first training step, and a further one if the mean acceptance between the model
    and the newest snapshot falls below ``threshold``. If no rung is left, the snapshot is dropped for which the product
    of the acceptances on both of its sides is the largest; the earliest is always kept. Rungs without a snapshot repeat
    the earliest one, or, before the first snapshot, the model: swaps between equal rungs are always accepted, at the
    usual cost. Each rank of a run has its own snapshots.

    The state consists of the snapshots and the running mean of the acceptance between neighbors, which ``step``
    updates: use a ``copy.copy`` of the sampler for draws outside of training, such as pictures. A process that loads a
    trained model, `ebm sample` or `ebm test`, has no snapshots, and all its rungs are the model; in Python, :meth:`of`
    takes the snapshots of a run.
    Info: ``swap``, the mean acceptance probability; ``swap_newest``, the running mean between the model and the newest
    snapshot; ``snapshots``, their number; and the info of ``sampler`` on the rung of the model.
    Bereux, Decelle, Furtlehner, Rosset & Seoane (2025, arXiv 2405.15376).

    Args:
        sampler: the kernel; its bounds become this sampler's.
        rungs: the largest number of snapshots, at least 1.
        threshold: the acceptance below which a snapshot is taken, in [0, 1]; 0 keeps only the first one.

    Raises:
        ValueError: if ``rungs`` < 1, ``threshold`` lies outside [0, 1], or the inner sampler is adaptive too; at a
            step, if the state has no replicas.

    >>> import torch
    >>> from ebm_lightning.energies import DoubleWell
    >>> from ebm_lightning.samplers import MALA
    >>> model, sampler = DoubleWell(), TrajectoryTempering(MALA(0.1), rungs=2)
    >>> sampler.update(model)  # the first snapshot; EBM calls it in every training step
    >>> state, info = sampler.step(model, sampler.augment_state({"x": torch.zeros(5, 1)}))
    >>> state["x.replicas"].shape, info["snapshots"].item()
    (torch.Size([5, 2, 1]), 1.0)
    """

    def __init__(self, sampler: Sampler, *, rungs: int, threshold: float = 0.25) -> None:
        if rungs < 1 or not 0 <= threshold <= 1:
            raise ValueError(
                f"TrajectoryTempering(rungs={rungs}, threshold={threshold}): expected rungs >= 1 and threshold in "
                "[0, 1]"
            )
        check_not_adaptive(self, sampler)
        self.sampler, self.rungs, self.threshold = sampler, rungs, threshold
        self.free, self.bounds = _with_replicas(sampler.free), sampler.bounds
        self.snapshots: list[EnergyModel] = []
        self.acceptance = torch.ones(rungs)
        self._loaded: State = {}

    @classmethod
    def of(cls, sampler: Sampler, models: Sequence[EnergyModel]) -> "TrajectoryTempering":
        """The sampler with given snapshots, the earliest first, for draws from a trained model.

        The replicas of a variable are in the opposite order, the newest snapshot first.
        """
        made = cls(sampler, rungs=len(models), threshold=0.0)
        made.snapshots = list(reversed(models))
        return made

    def augment_state(self, state: State) -> State:
        return _extended(self.sampler, state, self.rungs)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        self._rebuild(model)
        snapshots = self.snapshots or [model]
        models = [model, *snapshots, *snapshots[-1:] * (self.rungs - len(snapshots))]
        ladder, clamped = _ladder(self.sampler, state, len(models))
        ends = [self.sampler.step(rung, clamped | _rung(ladder, k), with_info) for k, rung in enumerate(models)]
        names = [name for name in self.sampler.free if name in ends[0][0]]
        moved = {name: torch.stack([end[name] for end, _ in ends], 1) for name in names}

        def energies(ladder: State) -> Tensor:
            return torch.stack([rung.energy(clamped | _rung(ladder, k)) for k, rung in enumerate(models)], 1)

        swapped, lower, acceptance = exchange(moved, energies)
        mean = self.acceptance.to(acceptance)
        self.acceptance = mean.index_copy(0, lower, mean[lower].lerp(acceptance, FORGETTING))
        if not with_info:
            return state | _to_state(swapped, ladder), {}
        swaps = {
            "swap": acceptance.mean(),
            "swap_newest": self.acceptance[0],
            "snapshots": acceptance.new_tensor(len(self.snapshots)),
        }
        return state | _to_state(swapped, ladder), ends[0][1] | swaps

    def update(self, model: EnergyModel) -> None:
        self._rebuild(model)
        if not self.snapshots or (self.rungs > 1 and self.acceptance[0] < self.threshold):
            self._take(model)

    def state_dict(self) -> State:
        if self._loaded or not self.snapshots:
            return dict(self._loaded)
        weights = {
            f"{k}.{name}": value.clone()
            for k, snapshot in enumerate(self.snapshots)
            for name, value in snapshot.state_dict().items()
        }
        return weights | {"acceptance": self.acceptance}

    def load_state_dict(self, state: State) -> None:
        """Restore the snapshots, at the next call with a model."""
        self._loaded = dict(state)

    def _take(self, model: EnergyModel) -> None:
        """Make the model the newest snapshot, and drop one if no rung is left."""
        if len(self.snapshots) == self.rungs:
            without = self.acceptance[:-1] * self.acceptance[1:]  # entry k: the acceptance without snapshot k
            k = int(without.argmax())
            del self.snapshots[k]
            self.acceptance = torch.cat([self.acceptance[:k], without[k : k + 1], self.acceptance[k + 2 :]])
        self.snapshots.insert(0, _frozen(model))
        self.acceptance = torch.cat([torch.ones_like(self.acceptance[:1]), self.acceptance])[: self.rungs]

    def _rebuild(self, model: EnergyModel) -> None:
        """Make the snapshots of a loaded state: copies of the model with their weights."""
        if self._loaded:
            loaded, self._loaded = self._loaded, {}
            self.acceptance = loaded["acceptance"]
            weights: dict[int, State] = {}
            for key, value in loaded.items():
                rung, _, name = key.partition(".")
                if name:
                    weights.setdefault(int(rung), {})[name] = value
            self.snapshots = [_frozen(model) for _ in weights]
            for k, snapshot in enumerate(self.snapshots):
                snapshot.load_state_dict(weights[k])


def exchange(ladder: State, energies: Callable[[State], Tensor]) -> tuple[State, Tensor, Tensor]:
    """One Metropolis swap of neighboring rungs of all chains, of all even pairs or of all odd ones.

    Two rungs have a single pair, which is always proposed. Return the ladder; the lower rung k of each proposed pair,
    (pairs,); and its acceptance probability min(1, exp(E_k(x_k) + E_l(x_l) - E_k(x_l) - E_l(x_k))), the mean over the
    chains, (pairs,).

    Args:
        ladder: variables by name, (B, rungs, ...).
        energies: maps such a ladder to the energies E_k(x_k), (B, rungs).
    """
    n, rungs = next(iter(ladder.values())).shape[:2]
    device = next(iter(ladder.values())).device
    lower = torch.arange(int(torch.randint(2, ())) if rungs > 2 else 0, rungs - 1, 2, device=device)
    partner = torch.arange(rungs, device=device)
    partner[lower], partner[lower + 1] = lower + 1, lower
    with torch.no_grad():
        gain = energies(ladder) - energies({name: x[:, partner] for name, x in ladder.items()})
        p = (gain[:, lower] + gain[:, lower + 1]).clamp_max(0).exp()
        accepted = (torch.rand_like(p) < p).long()
    source = torch.arange(rungs, device=device).repeat(n, 1)
    source[:, lower] += accepted
    source[:, lower + 1] -= accepted
    row = torch.arange(n, device=device)[:, None]
    return {name: x[row, source] for name, x in ladder.items()}, lower, p.mean(0)


def log_partition_along(models: Sequence[EnergyModel], samples: Sequence[State], log_z0: float | Tensor) -> Tensor:
    """log Z of each of ``models``, float64 (models,), from that of the first, by importance sampling.

    log Z_{t+1} = log Z_t + log mean exp(E_t(x) - E_{t+1}(x)) over draws x of model t; the mean is unbiased for
    Z_{t+1} / Z_t if the draws are exact, and its error is small if neighboring models overlap. Bereux et al. (2025).

    Args:
        models: models along a training trajectory, the earliest first.
        samples: draws of every model but the last, full states.
        log_z0: log Z of the first model, in nats.

    Raises:
        ValueError: if ``samples`` are not one state for each model but the last.
    """
    if len(samples) != len(models) - 1:
        raise ValueError(
            f"log_partition_along: got {len(samples)} sets of samples for {len(models)} models: expected one for each "
            "model but the last"
        )
    log_z = [torch.as_tensor(log_z0, dtype=torch.float64)]
    with torch.no_grad():
        for (here, there), state in zip(pairwise(models), samples, strict=True):
            log_ratio = (here.energy(state) - there.energy(state)).double()
            log_z.append(log_z[-1].to(log_ratio) + log_ratio.logsumexp(0) - math.log(len(log_ratio)))
    return torch.stack([value.cpu() for value in log_z])


def _with_replicas(free: tuple[str, ...]) -> tuple[str, ...]:
    return (*free, *(name + REPLICAS for name in free))


def _extended(sampler: Sampler, state: State, number: int) -> State:
    """The state with ``number`` replicas of each of its free variables, initialized to copies."""
    state = sampler.augment_state(state)
    present = {name: state[name] for name in sampler.free if name in state}
    return state | {name + REPLICAS: torch.stack([x] * number, 1) for name, x in present.items()}


def _ladder(sampler: Sampler, state: State, rungs: int) -> tuple[State, State]:
    """(the free variables that have replicas, (B, rungs, ...); the clamped variables and metadata)."""
    names = [name for name in sampler.free if name in state and name + REPLICAS in state]
    wrong = [name for name in names if state[name + REPLICAS].shape[1] != rungs - 1]
    if not names or wrong:
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        raise ValueError(
            f"expected {rungs - 1} replicas of {wrong or list(sampler.free)} in the state, (B, {rungs - 1}, ...) under "
            f"the name with {REPLICAS!r} after it, got {shapes}: start from sampler.augment_state(state)"
        )
    free = _with_replicas(sampler.free)
    ladder = {name: torch.cat([state[name][:, None], state[name + REPLICAS]], 1) for name in names}
    return ladder, {name: value for name, value in state.items() if name not in free}


def _rung(ladder: State, k: int) -> State:
    return {name: x[:, k] for name, x in ladder.items()}


def _to_state(swapped: State, ladder: State) -> State:
    """The first rung under the names of the variables, and the replicas of the variables of ``ladder``."""
    return _rung(swapped, 0) | {name + REPLICAS: swapped[name][:, 1:] for name in ladder}


def _repeated(numbers: tuple[float, ...], times: int, state: State) -> Tensor:
    """The numbers, repeated, in the dtype and on the device of the state's variables; usable in every grad mode."""
    dtype = next((value.dtype for value in state.values() if value.is_floating_point()), torch.get_default_dtype())
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=next(iter(state.values())).device).repeat(times)


def _frozen(model: EnergyModel) -> EnergyModel:
    return copy.deepcopy(model).eval().requires_grad_(False)
