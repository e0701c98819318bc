"""Directed models: log p of held-out data by importance sampling, and description lengths."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, State, evaluating
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.metrics.importance import log_weights
from ebm_lightning.evaluation.protocol import Protocol, ProtocolResult, mean, random_subset
from ebm_lightning.evaluation.protocols.classification import labeled, percent_wrong
from ebm_lightning.training.module import EBM


@dataclass(eq=False)
class ImportanceSampledLikelihood(Protocol):
    """Mean log p(x) of a test example in nats, by importance sampling with the draws of the recognition network.

    log p(x) is estimated by log mean_s w_s from S = ``samples`` weights w_s = p(x, h_s) / q(h_s | x). The estimate is a
    lower bound in expectation, tighter for larger S, so always state S. The remaining bias shows in
    ``tenfold_gain_nats``, the increase over the mean of ten estimates from a tenth of the same weights each, and in
    ``effective_samples``, the mean of (sum w)^2 / sum w^2. The mean of log w is the variational bound; its negative is
    the description length of an example by bits back, the machine's free energy, in nats and in bits. Standard errors
    are over examples. Hinton, Dayan, Frey & Neal (1995) for the description length; Bornschein & Bengio (2015) for the
    estimate.

    Args:
        samples: S, a multiple of 10.
        num_examples: test examples, drawn at random, the same for every model; None takes all.

    Raises:
        ValueError: if ``samples`` is no multiple of 10 or ``num_examples`` < 2; when measuring, if there are fewer
            examples, or the model has no recognition network.
    """

    samples: int = 500
    num_examples: int | None = None

    def __post_init__(self) -> None:
        if self.samples < 10 or self.samples % 10 or (self.num_examples is not None and self.num_examples < 2):
            raise ValueError(
                f"{self.id}: expected samples to be a multiple of 10, and num_examples >= 2 or null for all"
            )

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        state = chosen(self.id, data.tensors("test"), self.num_examples)
        log_w = weights(module, state, self.samples)
        log_p = torch.logsumexp(log_w, 1) - math.log(self.samples)
        tenths = torch.logsumexp(log_w.view(len(log_w), 10, -1), 2) - math.log(self.samples // 10)
        share = torch.softmax(log_w, 1)
        bound = log_w.mean(1)
        gain = mean(log_p - tenths.mean(1))
        return ProtocolResult(
            {
                "test_log_prob_nats": mean(log_p).labeled("log-probability test"),
                "tenfold_gain_nats": gain.labeled("gain from S/10 to S samples"),
                "effective_samples": mean(1 / share.square().sum(1)).labeled("effective samples"),
                "log_weight_std": mean(log_w.std(1)).labeled("sd of log w"),
                "test_variational_bound_nats": mean(bound).labeled("variational bound, log-probability test"),
                "description_length_nats": mean(-bound).labeled("description length, nats"),
                "description_length_bits": mean(-bound / math.log(2)).labeled("description length, bits"),
            }
        )


@dataclass(eq=False)
class DescriptionLengthClassifier(Protocol):
    """Share of test examples, in percent, whose description length is smallest under the model of a wrong class.

    The description length of an example under a class is its variational free energy there, the mean of -log w over
    ``samples`` draws of the latents. Classes have equal prior probability. The error by importance sampling of log p(x
    | class) from the same draws, the training error by description length, and the mean description length under the
    true class in bits are measured too. Standard errors are binomial, or over examples. Hinton, Dayan, Frey & Neal
    (1995).

    Args:
        samples: draws of the latents for every example and class.
        block: the label.

    Raises:
        ValueError: if ``samples`` < 1; when measuring, if the data have no labels.
    """

    samples: int = 100
    block: str = "y"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"{self.id}: expected samples >= 1")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        test, train = (labeled(self.id, data, split, self.block) for split in ("test", "train"))
        assert data.classes is not None
        lengths, log_p = self._lengths(module, test, data.classes)
        own = lengths.gather(1, test[self.block].cpu()[:, None])[:, 0]
        trained, _ = self._lengths(module, train, data.classes)
        sampled = percent_wrong(log_p.argmax(1), test[self.block])
        learned = percent_wrong(trained.argmin(1), train[self.block])
        return ProtocolResult(
            {
                "test_error_percent": percent_wrong(lengths.argmin(1), test[self.block]).labeled("test error, percent"),
                "test_error_by_importance_sampling_percent": sampled.labeled(
                    "test error by importance sampling, percent"
                ),
                "training_error_percent": learned.labeled("training error, percent"),
                "own_class_description_length_bits": mean(own / math.log(2)).labeled(
                    "description length of own class, bits"
                ),
            }
        )

    def _lengths(self, module: EBM, state: State, classes: int) -> tuple[Tensor, Tensor]:
        """Description lengths and estimates of log p(x | class) in nats, each (N, classes)."""
        lengths, log_p = [], []
        for label in range(classes):
            of_class = {**state, self.block: torch.full_like(state[self.block], label)}
            log_w = weights(module, of_class, self.samples)
            lengths.append(-log_w.mean(1))
            log_p.append(torch.logsumexp(log_w, 1) - math.log(self.samples))
        return torch.stack(lengths, 1), torch.stack(log_p, 1)


def weights(module: EBM, state: State, samples: int) -> Tensor:
    """The log weights (N, samples), on the CPU; the model is in eval mode, and its data are checked."""
    model: EnergyModel = module.model
    state = {name: value.to(module.device) for name, value in state.items()}
    with evaluating(model):
        model.check(state)
        return log_weights(model, state, samples).cpu()


def chosen(protocol: str, state: State, n: int | None) -> State:
    """All examples, or n of them at random: the first ones of a file that is sorted by class have one class."""
    total = len(next(iter(state.values())))
    if n is None:
        return state
    if n > total:
        raise ValueError(f"{protocol}: there are {total} test examples: take no more, or null for all")
    return random_subset(state, n)
