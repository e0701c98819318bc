"""Wake-sleep: the generative and the recognition model are each trained on samples from the other."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, HasRecognition, Objective, State, Terms, require


@dataclass(frozen=True)
class WakeSleep(Objective):
    """mean E(data, latents from q) + mean of -log q(latents | data) over samples from the generative model.

    Wake phase: the generative weights are trained on the data, with latents from the recognition model. Sleep phase:
    the recognition weights are trained on samples of data and latents from the generative model. For binary units the
    gradient is minus the two delta rules, (state) x (target - prediction). The wake phase minimizes an upper bound of
    -log p(data), the sleep phase KL(p || q), in the opposite direction: the sum is not the gradient of one function,
    and it is biased if q cannot be exact.
    Terms: ``loss``; ``wake`` and ``sleep``; ``description_length``, the mean of E - R over the data in nats, with R =
    -log q of the sampled latents: an estimate of the bound.
    Hinton, Dayan, Frey & Neal (1995).

    Raises:
        ValueError: at a call, if there are no samples, or the model has no recognition network.

    >>> import torch
    >>> from ebm_lightning.energies import HelmholtzMachine
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> model = HelmholtzMachine({"x": Bernoulli([3])}, hidden=[2], weight_std=0.0)  # all units fair coins
    >>> pos = model.positive_phase({"x": torch.ones(1, 3)})
    >>> terms = WakeSleep()(model, pos, model.ancestral_sample(pos, ("x", "h1")))
    >>> [round(terms[name].item(), 4) for name in ("wake", "sleep", "description_length")]  # log 2 times 5, 2, 3
    [3.4657, 1.3863, 2.0794]
    """

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        wake, sleep = model.energy(pos), _sleep(type(self).__name__, model, neg)
        with torch.no_grad():
            bound = (wake - require(model, HasRecognition).recognition_energy(pos)).mean()
        return {
            "loss": wake.mean() + sleep,
            "wake": wake.detach().mean(),
            "sleep": sleep.detach(),
            "description_length": bound,
        }


@dataclass(frozen=True)
class ReweightedWakeSleep(Objective):
    """Reweighted wake-sleep: ``samples`` draws of the latents of each example, weighted by their importance.

    For h_1..h_K ~ q(h | x), w_k = p(x, h_k) / q(h_k | x) and w~_k = w_k / sum w, a constant, the loss is the mean of
    sum_k w~_k E(x, h_k) + wake sum_k w~_k (-log q(h_k | x)), plus sleep times the mean of -log q(h | x) over samples
    from the generative model. The gradient of the first sum is that of -log p(x) up to a bias of order 1/K; both sums
    are over the same draws, made by ``model.positive_phase`` on K copies of every example; the one draw per example of
    the positive phase is not used. With K = 1 and ``wake`` 0 it is wake-sleep.
    Terms: ``loss``; ``wake``, ``wake_recognition`` and ``sleep``, unweighted; ``log_prob``, the mean of log mean_k w_k,
    in expectation a lower bound of log p(x) in nats; ``ess``, the mean effective sample size 1 / sum w~^2.
    Bornschein & Bengio (2015), whose script has one learning rate for all three.

    Args:
        samples: K, at least 1.
        wake: weight of the wake phase of the recognition network, >= 0.
        sleep: weight of its sleep phase, >= 0; no sampler is needed if it is 0.

    Raises:
        ValueError: if a number is out of range; at a call, if samples or a recognition network are missing.

    >>> import torch
    >>> from ebm_lightning.energies import HelmholtzMachine
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> model = HelmholtzMachine({"x": Bernoulli([3])}, hidden=[2], weight_std=0.0)  # all units fair coins
    >>> terms = ReweightedWakeSleep(samples=4, sleep=0.0)(model, {"x": torch.ones(1, 3)}, None)
    >>> round(terms["log_prob"].item(), 4), round(terms["ess"].item(), 4)  # -3 log 2, all weights equal
    (-2.0794, 4.0)
    """

    samples: int = 5
    wake: float = 1.0
    sleep: float = 1.0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.wake < 0 or self.sleep < 0:
            raise ValueError(
                f"ReweightedWakeSleep(samples={self.samples}, wake={self.wake}, sleep={self.sleep}): expected "
                "samples >= 1 and weights >= 0"
            )

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        copies = model.positive_phase({name: value.repeat_interleave(self.samples, 0) for name, value in pos.items()})
        energy = model.energy(copies).view(-1, self.samples)
        recognition = require(model, HasRecognition).recognition_energy(copies).view(-1, self.samples)
        log_w = (recognition - energy).detach()
        share = torch.softmax(log_w, 1)
        wake, wake_recognition = (share * energy).sum(1).mean(), (share * recognition).sum(1).mean()
        loss, terms = wake + self.wake * wake_recognition, {}
        if self.sleep > 0:
            sleep = _sleep(type(self).__name__, model, neg)
            loss, terms = loss + self.sleep * sleep, {"sleep": sleep.detach()}
        return {
            "loss": loss,
            "wake": wake.detach(),
            "wake_recognition": wake_recognition.detach(),
            **terms,
            "log_prob": (torch.logsumexp(log_w, 1) - math.log(self.samples)).mean(),
            "ess": (1 / share.square().sum(1)).mean(),
        }


def _sleep(objective: str, model: EnergyModel, neg: State | None) -> Tensor:
    """The mean of -log q(latents | data) over samples from the generative model."""
    if neg is None:
        raise ValueError(f"{objective} needs samples from the generative model: give EBM the sampler Ancestral")
    detached = {name: value.detach() for name, value in neg.items()}
    return require(model, HasRecognition).recognition_energy(detached).mean()
