"""Wake-sleep: each of two networks learns from what the other one draws."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, HasRecognition, Objective, State, Terms, require


@dataclass(frozen=True)
class WakeSleep(Objective):
    """mean E(data, recognized causes) + mean of -log q(dreamt causes | dreamt data).

    Wake: the generative weights learn to produce the data from the causes that the recognition network drew for them.
    Sleep: the recognition weights learn to find the causes of what the model dreamt. For binary units its gradient is
    minus the two delta rules, (state) x (target - prediction). The wake phase descends a bound on -log p(data), the
    sleep phase KL(p || q), the other way round: so the whole descends no one function, and is biased where q cannot be
    exact.
    Terms: ``loss``; ``wake`` and ``sleep``; ``description_length``, the mean of E - R over the data in nats, with R =
    -log q of the causes that were drawn: an estimate of the bound.
    Hinton, Dayan, Frey & Neal (1995).

    Raises:
        ValueError: at a call, where there are no dreams, or the model has no recognition network.
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
    """Wake-sleep in which ``samples`` draws of the causes share each example by their importance.

    For h_1..h_K ~ q(h | x), w_k = p(x, h_k) / q(h_k | x) and w~_k = w_k / sum w, a constant, the loss is the mean of
    sum_k w~_k E(x, h_k) + wake sum_k w~_k (-log q(h_k | x)) + sleep (-log q(dreamt causes | dreamt data)).
    The first gradient is that of -log p(x) up to a bias that falls as 1/K; both sums are over the same draws. The draws
    are the model's own: ``model.complete`` on K copies of every example of the positive phase, side by side, whose one
    draw per example is not used. With K = 1 and ``wake`` 0 it is wake-sleep.
    Terms: ``loss``; ``wake``, ``wake_recognition`` and ``sleep``, unweighted; ``log_prob``, the mean of log mean_k w_k,
    an estimate of log p(x) in nats that errs on the low side; ``ess``, the mean effective number of draws 1 / sum w~^2.
    Bornschein & Bengio (2015), whose script has one learning rate for all three.

    Args:
        samples: K, at least 1.
        wake: weight of the wake phase of the recognition network, >= 0.
        sleep: weight of its sleep phase, >= 0; at 0 no sampler is needed.

    Raises:
        ValueError: where a number is out of range; at a call, where dreams or a recognition network are missing.
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
    """The mean of -log q(dreamt causes | dreamt data)."""
    if neg is None:
        raise ValueError(f"{objective} learns from dreams, but there are none: give EBM the sampler Ancestral")
    detached = {name: value.detach() for name, value in neg.items()}
    return require(model, HasRecognition).recognition_energy(detached).mean()
