"""Mixing of long chains: whether the samples of a model converge to its own distribution."""

from copy import copy
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ebm_lightning.chains.nonpersistent import DataChains, NoiseChains
from ebm_lightning.core import Chains, State, evaluating, start_chains, trajectory
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.feature_extractors import ExtractFeatures, FeatureExtractor, extract_all
from ebm_lightning.evaluation.metrics.chains import chain_ess, split_r_hat
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, percent_true, random_subset
from ebm_lightning.generation.samples import energies, initial_distribution
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots

MAX_R_HAT = 1.01
"""The largest R-hat of chains that have mixed (Vehtari et al. 2021)."""


@dataclass(eq=False)
class Mixing(Protocol):
    """Long chains of the module's sampler from test data and from noise: their energies, R-hat, ESS and drift.
    Energies are recorded at ``points`` evenly spaced transitions, and measured over the second half of them: split
    R-hat and effective sample size over all chains, and the mean energy of the chains from each start minus that of the
    test data, in standard deviations of the data's energies. That difference shows chains that saturate below or above
    the data (Nijkamp et al. 2020). Drift is the mean Euclidean distance of the chains from data to their start, in mean
    distances between two test examples: about 1 for chains that are independent of their start. Standard errors are
    over chains. If R-hat exceeds 1.01, the chains have not mixed, and all energies carry a warning. The plot of the
    energies has the standard deviation over chains. A sampler below temperature 1, such as most SGLD, has lower
    energies than the model's own distribution.

    A ``classifier`` counts modes at the ends of the chains: the number of classes, the entropy of their histogram in
    nats, at most the log of the number of classes, and the share of the chains from data that have changed their class.
    Chains whose label is clamped keep their class by construction.

    Args:
        num_chains: number of chains from each start.
        steps: transitions of each.
        points: number of recorded energies, at least 8 and at most ``steps``.
        classifier: of x, such as OwnClassifier, the model's own p(y | x); None counts no modes.

    Raises:
        ValueError: if a number is out of range; when measuring, if the run has no sampler of x, or the classifier
            cannot be loaded.
    """

    num_chains: int = 100
    steps: int = 2000
    points: int = 200
    classifier: FeatureExtractor | None = None

    def __post_init__(self) -> None:
        if self.num_chains < 2 or not 8 <= self.points <= self.steps:
            raise ValueError(f"{self.id}: expected num_chains >= 2 and 8 <= points <= steps")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        if module.sampler is None or "x" not in module.sampler.free:
            raise ValueError(f"{self.id} runs long chains of x, but this run has no sampler that moves x")
        extract = self.classifier.load(module, data) if self.classifier else None
        test = data.tensors("test")
        pos = {name: value.to(module.device) for name, value in random_subset(test, self.num_chains).items()}
        starts = {"data": DataChains(), "noise": NoiseChains(initial_distribution(module))}
        runs = {name: self._run(module, pos, chains) for name, chains in starts.items()}
        known = energies(module, module.model.positive_phase(test))
        second = {name: recorded[self.points // 2 :] for name, (recorded, _) in runs.items()}
        everything = torch.cat(list(second.values()), 1)
        r_hat = split_r_hat(everything)
        warning = not_mixed(r_hat, self.steps)
        found = {
            "energy_r_hat": Measurement(r_hat, warning=warning, label="R-hat of the energy"),
            "energy_ess": Measurement(chain_ess(everything), label=f"ESS of the energy, of {everything.numel()}"),
            "drift_from_data": drift(pos["x"], runs["data"][1]["x"]).labeled("drift from data"),
        }
        for name, of_chains in second.items():
            gap = energy_gap(of_chains.mean(0), known, warning)
            found[f"energy_from_{name}_minus_data_sd"] = gap.labeled(f"energy from {name} minus data's, sd")
        if extract is not None:
            ends = {name: classes(extract, end["x"], module.device) for name, (_, end) in runs.items()}
            found |= _modes(ends, classes(extract, pos["x"], module.device))
        return ProtocolResult(found, self._pictures(runs, known, data))

    @torch.no_grad()
    def _run(self, module: EBM, pos: State, chains: Chains) -> tuple[Tensor, State]:
        """The energies (points, chains) of the recorded transitions, on the CPU, and the final state."""
        assert module.sampler is not None
        sampler = copy(module.sampler)  # the adaptation of the copy leaves the run's own sampler as it is
        record = set(self._recorded_steps)
        with evaluating(module):
            state = start_chains(chains, sampler, module.model.positive_phase(pos))
            chain, recorded_energies = trajectory(sampler, module.model, state), []
            for step in tqdm(range(1, self.steps + 1), desc="mixing", unit="step", leave=False):
                state, _ = next(chain)
                if step in record:
                    recorded_energies.append(module.model.energy(state).double().cpu())
        return torch.stack(recorded_energies), state

    @property
    def _recorded_steps(self) -> list[int]:
        """The transitions after which energies are recorded."""
        return [self.steps * (i + 1) // self.points for i in range(self.points)]

    def _pictures(self, runs: dict[str, tuple[Tensor, State]], known: Tensor, data: DataModule) -> dict[str, Image]:
        steps = torch.tensor(self._recorded_steps, dtype=torch.float64)
        lines = {f"from {name}": (steps, recorded.mean(1), recorded.std(1)) for name, (recorded, _) in runs.items()}
        level, spread = (torch.full_like(steps, float(number)) for number in (known.mean(), known.std()))
        pictures = {
            "energies": plots.plot_curves({**lines, "test data": (steps, level, spread)}, "transition", "energy")
        }
        for name, (_, end) in runs.items():
            if plots.can_plot(end["x"]):
                pictures[f"from-{name}"] = plots.plot_samples(end["x"][:64], data.bounds)
        return pictures


def _modes(ends: dict[str, Tensor], start: Tensor) -> dict[str, Measurement]:
    """The measurements of the classes at the ends of chains, and at the start of those from data."""
    found = {}
    for name, labels in ends.items():
        found[f"classes_from_{name}"] = Measurement(len(set(labels.tolist())), label=f"classes found from {name}")
        found[f"class_entropy_from_{name}_nats"] = entropy(labels).labeled(f"entropy of the classes from {name}, nats")
    changed = percent_true(ends["data"] != start)
    return found | {"changed_class_percent": changed.labeled("chains from data that changed class, percent")}


def not_mixed(r_hat: float, steps: int) -> str:
    """The warning for energies of chains with this R-hat after ``steps`` transitions; empty if they have mixed."""
    if r_hat <= MAX_R_HAT:
        return ""
    return (
        f"R-hat of the energy is {r_hat:.3f}, more than {MAX_R_HAT}: chains from data and from noise have not mixed in "
        f"{steps} transitions, so that their energies are not those of the model; run longer chains"
    )


def drift(start: Tensor, end: Tensor) -> Measurement:
    """The mean distance from start to end (N, ...), in mean distances between two different starts."""
    moved = torch.linalg.vector_norm((end - start).flatten(1).double(), dim=1)
    between = torch.nn.functional.pdist(start.flatten(1).double()).mean()
    return Measurement(float(moved.mean() / between), float(moved.std() / between) / len(moved) ** 0.5)


def energy_gap(chains: Tensor, known: Tensor, warning: str) -> Measurement:
    """The mean energy of chains (M,) minus that of examples (N,), in standard deviations of the examples' energies."""
    known = known.double()
    unit = float(known.std())
    error = (float(chains.var()) / len(chains) + unit**2 / len(known)) ** 0.5
    return Measurement(float(chains.mean() - known.mean()) / unit, error / unit, warning=warning)


def classes(extract: ExtractFeatures, x: Tensor, device: torch.device) -> Tensor:
    """The class of every x (N, ...) under a network: int64 (N,), on the CPU."""
    return extract_all(extract, x, device)[1].argmax(1)


def entropy(labels: Tensor) -> Measurement:
    """-sum_k p_k log p_k in nats, of the shares p of labels (N,) >= 0.

    The estimate is biased low by about (classes - 1) / (2 N) (Miller 1955). The standard error is that of the delta
    method, sqrt((sum_k p_k log^2 p_k - H^2) / N).
    """
    p = labels.bincount().double() / len(labels)
    log_p = p[p > 0].log()
    found = -float((p[p > 0] * log_p).sum())
    spread = float((p[p > 0] * log_p.square()).sum()) - found**2
    return Measurement(found, (max(spread, 0.0) / len(labels)) ** 0.5)
