"""Adversarial robustness: the accuracy of a classifier under projected gradient ascent."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ebm_lightning.core import Bounds, EnergyModel, State, evaluating
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.class_posterior import check_labels, log_posterior
from ebm_lightning.evaluation.components.refinement import Refinement
from ebm_lightning.evaluation.components.threat_models import ThreatModel
from ebm_lightning.evaluation.protocol import Protocol, ProtocolResult, percent, random_subset, snake_case
from ebm_lightning.evaluation.protocols.classification import labeled
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots

MAX_SURVIVING_SHARE = 0.05
"""The largest share of images that survive a successful attack at the chance radius."""


@dataclass(eq=False)
class Robustness(Protocol):
    """Accuracy of p(y | x) under projected gradient ascent on -log p(y | x), at several radii of each norm.

    Madry et al. (2018): x <- the projection of x + s u onto the threat model and the bounds, with u the direction of
    steepest ascent and s = 2.5 radius / ``steps``. The first ascent starts at the image, the other ``restarts`` - 1 at
    random points of the ball. An image counts as wrong if any point of any ascent is classified wrongly, in this or a
    smaller ball; of these points the one with the largest loss is kept and plotted. The images are a random subset of
    the test split, the same in every run. Standard errors are binomial.

    An attack can fail because the gradient is masked (Athalye, Carlini & Wagner 2018). So the accuracy is also measured
    at the ``chance_radius`` of each norm, at which it must be about 0; if more than 5 percent survive there, every
    accuracy in this norm carries a warning.

    A classifier with a refinement (JEM-k) is attacked through its randomness and its sampler: u comes from the mean
    over the chains of the gradient of -log p(y | x_c) at their ends x_c (EOT), passed back through the sampler as if it
    were the identity (BPDA; Athalye, Carlini & Wagner 2018). During the ascents an image is wrong if its
    classification by these chains is; the one point that is kept is classified by fresh chains, so that no image counts
    as wrong because of one unlucky draw among many.

    Args:
        threat_models: the norms, each with its radii.
        steps: of an ascent.
        restarts: ascents for each image and radius.
        num_examples: images, at most; published numbers take 1000 or more.
        block: the label.
        refinement: of an image before it is classified; None attacks p(y | x) as it is.

    Raises:
        ValueError: if there is no norm or one of them twice, or ``steps``, ``restarts`` or ``num_examples`` < 1; when
            measuring, if the labels of the data are missing or not those of the model, the model has no p(y | x) or one
            without a gradient in x, a norm has no ``chance_radius`` and the data no bounds, or the run has no sampler
            for the refinement.
    """

    threat_models: list[ThreatModel]
    steps: int = 40
    restarts: int = 5
    num_examples: int = 1000
    block: str = "y"
    refinement: Refinement | None = None

    def __post_init__(self) -> None:
        if not self.threat_models or len({threat.name for threat in self.threat_models}) < len(self.threat_models):
            raise ValueError(f"{self.id}: expected one or more threat models, each of another norm")
        if min(self.steps, self.restarts, self.num_examples) < 1:
            raise ValueError(f"{self.id}: expected steps >= 1, restarts >= 1 and num_examples >= 1")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        state = labeled(self.id, data, "test", self.block)
        state = random_subset(state, self.num_examples)
        result = ProtocolResult({})
        with evaluating(module):
            for threat in self.threat_models:
                self._measure(threat, module, state, data, result)
        return result

    def _measure(
        self, threat: ThreatModel, module: EBM, state: State, data: DataModule, result: ProtocolResult
    ) -> None:
        """Measure one norm, from radius 0 to the chance radius.

        Only the images that survive a radius are attacked at the next one. The clean accuracy carries no warning, since
        it is measured without an attack.
        """
        grid, chance_radius = sorted(threat.radii), self._chance_radius(threat, data)
        worst, n = state["x"].clone(), len(state["x"])
        alive = torch.ones(n, dtype=torch.bool, device=worst.device)
        accuracies: list[float] = []
        for radius in tqdm([0.0, *grid, chance_radius], desc=threat.name, unit="radius", leave=False):
            if len(accuracies) > len(grid) and plots.can_plot(worst):
                result.pictures[f"{threat.name}-adversarial"] = plots.plot_samples(worst[:64], data.bounds)
            survivors = alive.nonzero().flatten()
            for rows in torch.split(survivors, 500) if len(survivors) else ():
                batch = {name: value[rows] for name, value in state.items()}
                worst[rows], wrong = self.attack(module, batch, threat, radius, data.bounds)
                alive[rows] = ~wrong
            accuracies.append(float(alive.double().mean()))
        warning = masking(threat, chance_radius, accuracies[-1])
        clean, *attacked, surviving = [percent(share, n, warning) for share in accuracies]
        result.measurements["accuracy_percent"] = replace(clean, warning="", label="accuracy, percent")
        for radius, found in zip(grid, attacked, strict=True):
            attack = f"{threat.name} {radius:g}"
            result.measurements[f"accuracy_{snake_case(attack)}_percent"] = found.labeled(
                f"accuracy at {attack}, percent"
            )
        attack = f"{threat.name} {chance_radius:g}"
        result.measurements[f"surviving_{snake_case(attack)}_percent"] = surviving.labeled(
            f"surviving {attack}, percent"
        )
        values, errors = torch.tensor([(found.value, found.standard_error) for found in (clean, *attacked)]).T
        curve = {threat.name: (torch.tensor([0.0, *grid]), values, errors)}
        result.pictures[threat.name] = plots.plot_curves(curve, f"radius in {threat.name}", "accuracy, percent")

    def _chance_radius(self, threat: ThreatModel, data: DataModule) -> float:
        if threat.chance_radius is None and data.bounds is None:
            raise ValueError(
                f"{self.id} needs a radius at which the accuracy must be 0, and {type(data).__name__} has "
                f"no bounds to compute it from: give {threat.name} its `chance_radius`"
            )
        return threat.chance_radius or threat.diameter(data.bounds, data.shape)  # type: ignore[arg-type]

    def attack(
        self, module: EBM, state: State, threat: ThreatModel, radius: float, bounds: Bounds | None
    ) -> tuple[Tensor, Tensor]:
        """The worst points of a batch, in the shape of x, and whether they are classified wrongly (B,).

        A point that is classified wrongly is worse than one that is not; otherwise the larger loss is worse.
        """
        x, stride = state["x"], 2.5 * radius / self.steps
        worst, most, fooled = x, torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device), None
        for restart in range(self.restarts if radius > 0 else 1):
            z = x if restart == 0 else within(x, x + threat.random(x, radius), bounds)
            for step in range(self.steps + 1 if radius > 0 else 1):
                gradient, loss, wrong = self._slope(module, {**state, "x": z})
                fooled = torch.zeros_like(wrong) if fooled is None else fooled
                worse = (wrong & ~fooled) | ((wrong == fooled) & (loss > most))
                worst = torch.where(worse.view(-1, *[1] * (x.ndim - 1)), z, worst)
                most, fooled = torch.where(worse, loss, most), fooled | wrong
                if step < self.steps:
                    moved = z - x + stride * threat.ascent_direction(gradient)
                    z = within(x, x + threat.project(moved, radius), bounds)
        assert fooled is not None
        if self.refinement is not None:
            log_p = self.refinement.log_posterior(module, {**state, "x": worst}, self.block)
            fooled = log_p.argmax(1) != state[self.block]
        return worst, fooled

    def _slope(self, module: EBM, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of -log p(y | x) in x, its value (B,), and whether another label is more probable (B,).

        With a refinement, gradient and value are means over the chains, and the label is that of the averaged chains.
        """
        refinement, y = self.refinement or Refinement(0), state[self.block]
        found = [self._at(module.model, end, y) for end in refinement.ends(module, state, self.block)]
        slope, loss, log_p = (torch.stack(parts).mean(0) for parts in zip(*found, strict=True))
        return slope, loss, log_p.argmax(1) != y

    def _at(self, model: EnergyModel, rest: State, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient in x of -log p(y | x), that loss (B,), and log p of every class (B, classes)."""
        with torch.inference_mode(False), torch.enable_grad():
            x = rest["x"].detach().clone().requires_grad_()
            log_p = log_posterior(model, {**rest, "x": x}, self.block)
            check_labels(self.id, y, log_p.shape[1])
            loss = -log_p.gather(1, y.clone()[:, None]).flatten()
            slope = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0] if loss.requires_grad else None
        if slope is None:
            raise ValueError(
                f"{self.id} ascends along the gradient of p({self.block} | x) in x, but that of "
                f"{type(model).__name__} does not depend on x differentiably: attack another model"
            )
        return slope, loss.detach(), log_p.detach()


def within(x: Tensor, z: Tensor, bounds: Bounds | None) -> Tensor:
    """z clamped to the bounds; values of the image x beyond the bounds, due to noise, are allowed."""
    if bounds is None:
        return z
    low, high = bounds
    return torch.minimum(torch.maximum(z, x.clamp(max=low)), x.clamp(min=high))


def masking(threat: ThreatModel, chance_radius: float, share: float) -> str:
    """The warning for an attack that a share of the images survives at the chance radius; empty if it is small."""
    if share <= MAX_SURVIVING_SHARE:
        return ""
    return (
        f"{100 * share:.0f} percent of the images survive {threat.name} {chance_radius:g}, at which "
        "every image can be changed into every other one: the gradient is masked, so that every accuracy under attack "
        "is too high; attack in more steps or in another way"
    )
