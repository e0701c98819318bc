"""How far must an image be moved until it is classified wrongly? Projected gradient ascent."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ebm_lightning.core import Bounds, EnergyModel, State, evaluating
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.class_posterior import check_labels, log_posterior
from ebm_lightning.evaluation.components.refinement import Refinement
from ebm_lightning.evaluation.components.threat_models import Ball
from ebm_lightning.evaluation.protocol import Protocol, ProtocolResult, percent, random_subset, snake_case
from ebm_lightning.evaluation.protocols.classification import labeled
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots

MASKED = 0.05
"""A share of images that survive where every image can become every other: an attack that leaves more has failed."""


@dataclass(eq=False)
class Robustness(Protocol):
    """Accuracy of p(y | x) under projected gradient ascent on -log p(y | x), over a grid of radii of each norm.

    Madry et al. (2018): x <- the nearest point of the ball and the bounds to x + s u, with u the steepest direction and
    s = 2.5 radius / ``steps``. It begins at the image itself, and then at ``restarts`` - 1 random points of the ball.
    An image counts as wrong as soon as any point of any walk is classified wrongly, in this or a smaller ball; of these
    points the one with the largest loss is kept and drawn. The images are a random subset of the test split, the same
    in every run. Standard errors are binomial.

    An attack can fail because the gradient says nothing (Athalye, Carlini & Wagner 2018). So the accuracy is measured
    at one more radius of each norm, ``certain``, where it must be about 0; if more than 5 percent survive, every
    accuracy in this norm carries a warning.

    A classifier that refines its images first (JEM-k) is attacked through its randomness and its sampler: u comes from
    the mean over the chains of the gradient of -log p(y | x_c) at their ends x_c (EOT), passed back through the sampler
    as if that were the identity (BPDA; Athalye, Carlini & Wagner 2018). During the walks an image is wrong if these
    chains say so; on the one point that is kept fresh chains decide, so that no image counts as wrong because one of
    many draws was unlucky.

    Args:
        balls: the norms, each with its radii.
        steps: of a walk.
        restarts: walks for each image and radius.
        number: images, at most; published numbers take 1000 or more.
        block: the label.
        refinement: what moves an image before it is classified; None attacks p(y | x) as it is.

    Raises:
        ValueError: if there is no norm or two of one kind, or ``steps``, ``restarts`` or ``number`` < 1; when
            measuring, if the data have no labels or others than the model's, the model has no p(y | x) or one
            without a gradient in x, the data have no bounds and a norm has no ``certain``, or the run has no sampler to
            refine by.
    """

    balls: list[Ball]
    steps: int = 40
    restarts: int = 5
    number: int = 1000
    block: str = "y"
    refinement: Refinement | None = None

    def __post_init__(self) -> None:
        if not self.balls or len({ball.name for ball in self.balls}) < len(self.balls):
            raise ValueError(f"{self.id}: expected one or more balls, each of another norm")
        if min(self.steps, self.restarts, self.number) < 1:
            raise ValueError(f"{self.id}: expected steps >= 1, restarts >= 1 and number >= 1")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        state = labeled(self.id, data, "test", self.block)
        state = random_subset(state, self.number)
        result = ProtocolResult({})
        with evaluating(module):
            for ball in self.balls:
                self._measure(ball, module, state, data, result)
        return result

    def _measure(self, ball: Ball, module: EBM, state: State, data: DataModule, result: ProtocolResult) -> None:
        """One norm, from radius 0 to the certain one; only the images that survive a radius are attacked at the next.

        The clean accuracy carries no warning, since it rests on no attack.
        """
        grid, certain = sorted(ball.radii), self._certain(ball, data)
        worst, n = state["x"].clone(), len(state["x"])
        alive = torch.ones(n, dtype=torch.bool, device=worst.device)
        accuracies: list[float] = []
        for radius in tqdm([0.0, *grid, certain], desc=ball.name, unit="radius", leave=False):
            if len(accuracies) > len(grid) and plots.drawable(worst):
                result.pictures[f"{ball.name}-adversarial"] = plots.picture(worst[:64], data.bounds)
            survivors = alive.nonzero().flatten()
            for rows in torch.split(survivors, 500) if len(survivors) else ():
                batch = {name: value[rows] for name, value in state.items()}
                worst[rows], wrong = self.attack(module, batch, ball, radius, data.bounds)
                alive[rows] = ~wrong
            accuracies.append(float(alive.double().mean()))
        warning = masking(ball, certain, accuracies[-1])
        clean, *attacked, surviving = [percent(share, n, warning) for share in accuracies]
        result.measurements["accuracy_percent"] = replace(clean, warning="", label="accuracy, percent")
        for radius, found in zip(grid, attacked, strict=True):
            key, label = snake_case(f"{ball.name} {radius:g}"), f"accuracy at {ball.name} {radius:g}, percent"
            result.measurements[f"accuracy_{key}_percent"] = found.labeled(label)
        key, label = snake_case(f"{ball.name} {certain:g}"), f"surviving {ball.name} {certain:g}, percent"
        result.measurements[f"surviving_{key}_percent"] = surviving.labeled(label)
        values, errors = torch.tensor([(found.value, found.standard_error) for found in (clean, *attacked)]).T
        curve = {ball.name: (torch.tensor([0.0, *grid]), values, errors)}
        result.pictures[ball.name] = plots.curves(curve, f"radius in {ball.name}", "accuracy, percent")

    def _certain(self, ball: Ball, data: DataModule) -> float:
        if ball.certain is None and data.bounds is None:
            raise ValueError(
                f"{self.id} needs a radius at which the accuracy must be 0, and {type(data).__name__} has no bounds "
                f"from which to take it: give {ball.name} its `certain`"
            )
        return ball.certain or ball.across(data.bounds, data.shape)  # type: ignore[arg-type]

    def attack(
        self, module: EBM, state: State, ball: Ball, radius: float, bounds: Bounds | None
    ) -> tuple[Tensor, Tensor]:
        """For a batch the worst points found, in the shape of x, and whether they are classified wrongly (B,).

        A point that is classified wrongly is worse than one that is not; among equals the larger loss is worse.
        """
        x, stride = state["x"], 2.5 * radius / self.steps
        worst, most, fooled = x, torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device), None
        for restart in range(self.restarts if radius > 0 else 1):
            z = x if restart == 0 else within(x, x + ball.random(x, radius), bounds)
            for step in range(self.steps + 1 if radius > 0 else 1):
                gradient, loss, wrong = self._slope(module, {**state, "x": z})
                fooled = torch.zeros_like(wrong) if fooled is None else fooled
                worse = (wrong & ~fooled) | ((wrong == fooled) & (loss > most))
                worst = torch.where(worse.view(-1, *[1] * (x.ndim - 1)), z, worst)
                most, fooled = torch.where(worse, loss, most), fooled | wrong
                if step < self.steps:
                    moved = z - x + stride * ball.steepest(gradient)
                    z = within(x, x + ball.project(moved, radius), bounds)
        assert fooled is not None
        if self.refinement is not None:
            log_p = self.refinement.log_posterior(module, {**state, "x": worst}, self.block)
            fooled = log_p.argmax(1) != state[self.block]
        return worst, fooled

    def _slope(self, module: EBM, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Of -log p(y | x): the gradient in x, the value (B,); and whether another label is more probable (B,).

        With a refinement gradient and value are means over the chains, and the label is that of these chains.
        """
        refinement, y = self.refinement or Refinement(0), state[self.block]
        found = [self._at(module.model, end, y) for end in refinement.ends(module, state, self.block)]
        slope, loss, log_p = (torch.stack(parts).mean(0) for parts in zip(*found, strict=True))
        return slope, loss, log_p.argmax(1) != y

    def _at(self, model: EnergyModel, rest: State, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where x stands: the gradient in x of -log p(y | x), that loss (B,), and log p of every class (B, classes)."""
        with torch.inference_mode(False), torch.enable_grad():
            x = rest["x"].detach().clone().requires_grad_()
            log_p = log_posterior(model, {**rest, "x": x}, self.block)
            check_labels(self.id, y, log_p.shape[1])
            loss = -log_p.gather(1, y.clone()[:, None]).flatten()
            slope = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0] if loss.requires_grad else None
        if slope is None:
            raise ValueError(
                f"{self.id} climbs along the gradient of p({self.block} | x) in x, but that of "
                f"{type(model).__name__} does not depend on x differentiably: attack another model"
            )
        return slope, loss.detach(), log_p.detach()


def within(x: Tensor, z: Tensor, bounds: Bounds | None) -> Tensor:
    """z clamped to the bounds, from which an image x that lies beyond them, as noise makes it, may stay away."""
    if bounds is None:
        return z
    low, high = bounds
    return torch.minimum(torch.maximum(z, x.clamp(max=low)), x.clamp(min=high))


def masking(ball: Ball, certain: float, share: float) -> str:
    """What it says about an attack that a share of the images survives a radius at which none can; empty if nothing."""
    if share <= MASKED:
        return ""
    return (
        f"{100 * share:.0f} percent of the images survive {ball.name} {certain:g}, where none can: the gradient hides "
        "what fools this model, so that every accuracy under attack is too high; attack it in more steps or another way"
    )
