"""Log-probabilities of held-out data in nats, with the uncertainty of log Z."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, State, bounds_log_prob, evaluating
from ebm_lightning.data.base import DataModule, Split
from ebm_lightning.evaluation.metrics.annealing import raise_log_prob
from ebm_lightning.evaluation.metrics.binary import has_binary_units, pseudo_log_likelihood, require_binary_data
from ebm_lightning.evaluation.metrics.partition import AIS, PartitionEstimator, free_energies
from ebm_lightning.evaluation.metrics.weights import LogPartition
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, mean, snake_case
from ebm_lightning.training.module import EBM


@dataclass(eq=False)
class Likelihood(Protocol):
    """Mean log-probability of an example in nats, -mean free energy - log Z, of test and training data.

    Its standard error is that of the mean over examples; its interval is that of log Z. For a model over data and
    labels it is the joint log-probability, unless ``of`` leaves the labels out. For a model with a lower bound only,
    such as a deep Boltzmann machine, it is called a "log-probability bound". Also measured: log Z and the diagnostics
    of its estimate; for binary units the pseudo-log-likelihood of the test data; and the free-energy gap, mean
    E(training data) - mean E(held-out data), which needs no log Z and decreases with overfitting (Hinton 2010, section
    16). The gap takes as many training examples as held-out ones: the validation split, or the test split if there is
    one. Training data are loaded as in evaluation, without augmentation and with fixed draws.

    Under several ranks, the chains of AIS are distributed over them; each rank measures the rest.

    Args:
        estimator: of log Z.
        compare: a second estimator, for ``log_z_difference``, the first minus the second.
        train: whether to measure the training data too.
        of: the variables of the data to be scored, such as ["x"] without the labels; None takes all.
        num_raise_examples: number of random test examples for RAISE, a conservative estimate of log p, while AIS is
            optimistic; it anneals one chain for each over the betas of the AIS above. 0 for none.

    Raises:
        ValueError: if ``num_raise_examples`` is negative or exceeds the test data, or if there is no AIS; when
            measuring, if RAISE has no path to the model's own variables, or data of binary units are not binary.
    """

    estimator: PartitionEstimator
    compare: PartitionEstimator | None = None
    train: bool = True
    of: list[str] | None = None
    num_raise_examples: int = 0

    on_every_rank = True

    def __post_init__(self) -> None:
        if self.num_raise_examples < 0 or (self.num_raise_examples and self._annealed is None):
            raise ValueError(
                f"Likelihood(num_raise_examples={self.num_raise_examples}): expected 0 or more, and an AIS as "
                "`estimator` or `compare`, whose betas RAISE takes"
            )

    @torch.no_grad()
    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        model = module.model
        with evaluating(model):
            test = {name: value.to(module.device) for name, value in model.positive_phase(data.tensors("test")).items()}
            require_binary_data(model, test, data.binary, data.preprocessing)
            model.check(test)
            if self.num_raise_examples and bounds_log_prob(model):
                raise ValueError(
                    f"RAISE has no path to the data of a {type(model).__name__}: set num_raise_examples to 0"
                )
            found, log_z = self._log_partitions(model, data.eval_loader("train", device=module.device))
            held_out = energies = free_energies(model, self._batches(module, data, "test"))
            key, name = "log_prob_nats", "log-probability"
            if bounds_log_prob(model):
                key, name = "log_prob_bound_nats", "log-probability bound"
            found[f"test_{key}"] = _log_probability(energies, log_z).labeled(f"{name} test")
            if data.size("val"):
                held_out = free_energies(model, self._batches(module, data, "val"))
            n = None if self.train else len(held_out)
            trained = free_energies(model, self._batches(module, data, "train"), n)
            if self.train:
                found[f"train_{key}"] = _log_probability(trained, log_z).labeled(f"{name} train")
            gap = _difference(mean(trained[: len(held_out)]), mean(held_out))
            found["free_energy_gap_nats"] = gap.labeled("free-energy gap")
            if binary := [name for name in model.variables if has_binary_units(model, test, name)]:
                log_p = torch.stack([pseudo_log_likelihood(model, name, test) for name in binary]).sum(0)
                found["test_pseudo_log_likelihood_nats"] = mean(log_p.cpu()).labeled("pseudo-log-likelihood test")
            if self.num_raise_examples:
                batches = data.eval_loader("train", device=module.device)
                found["raise_log_prob_nats"] = self._raise(model, batches, test).labeled("RAISE log-probability")
        return ProtocolResult(found)

    @property
    def _annealed(self) -> AIS | None:
        return next((one for one in (self.estimator, self.compare) if isinstance(one, AIS)), None)

    def _batches(self, module: EBM, data: DataModule, split: Split) -> Iterator[State]:
        """The batches of a split, with the scored variables only."""
        for batch in data.eval_loader(split, device=module.device):
            yield batch if self.of is None else {name: batch[name] for name in self.of}

    def _log_partitions(
        self, model: EnergyModel, batches: Iterable[State]
    ) -> tuple[dict[str, Measurement], LogPartition]:
        """The measurements of log Z, and the estimate of ``estimator``."""
        first = second = self.estimator(model, batches)
        found = {"log_z": _log_z(first).labeled("log Z")}
        if self.compare is not None:
            second = self.compare(model, batches)
            names = [self.estimator.kind, self.compare.kind]
            if names[0] == names[1]:
                names = [str(self.estimator), str(self.compare)]
            found = {
                f"log_z_{snake_case(name)}": _log_z(one).labeled(f"log Z {name}")
                for name, one in zip(names, (first, second), strict=True)
            }
            found["log_z_difference"] = _difference(*found.values()).labeled("log Z difference")
        annealed = first if first.chains else second
        if annealed.chains:
            spread = Measurement(annealed.log_weight_std, warning=annealed.warning)
            found["log_weight_std"] = spread.labeled("sd of log w")
            found["ess"] = Measurement(annealed.ess, warning=annealed.warning, label="ESS")
        return found, first

    def _raise(self, model: EnergyModel, batches: Iterable[State], test: State) -> Measurement:
        assert self._annealed is not None
        total = len(next(iter(test.values())))
        if self.num_raise_examples > total:
            raise ValueError(
                f"Likelihood(num_raise_examples={self.num_raise_examples}): there are {total} test examples: take fewer"
            )
        rows = torch.randperm(total)[: self.num_raise_examples]
        chosen = {name: value[rows.to(value.device)] for name, value in test.items()}
        path = self._annealed.path(model, batches)
        return mean(raise_log_prob(path, model, self._annealed.betas(), chosen).cpu())


def _difference(first: Measurement, second: Measurement) -> Measurement:
    """First minus second; without the warning if one of them is exact, since the difference is then the error."""
    errors = [one.standard_error for one in (first, second) if one.standard_error is not None]
    exact = 0.0 in errors
    warnings = dict.fromkeys(one.warning for one in (first, second) if one.warning and not exact)
    error = math.hypot(*errors) if len(errors) == 2 else None
    return Measurement(first.value - second.value, error, warning="; ".join(warnings))


def _log_z(estimate: LogPartition) -> Measurement:
    interval = (estimate.low, estimate.high) if estimate.chains else None
    return Measurement(estimate.log_z, estimate.standard_error, interval, estimate.warning)


def _log_probability(energies: Tensor, estimate: LogPartition) -> Measurement:
    """-mean E - log Z, with the interval of log Z."""
    score = mean(-energies)
    interval = (score.value - estimate.high, score.value - estimate.low) if estimate.chains else None
    return Measurement(score.value - estimate.log_z, score.standard_error, interval, estimate.warning)
