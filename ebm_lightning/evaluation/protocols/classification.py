"""Test errors of classification, by p(y | x) or by the energies of all labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule, Split
from ebm_lightning.evaluation.components.class_posterior import log_posteriors
from ebm_lightning.evaluation.components.refinement import Refinement
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, percent_true, random_subset
from ebm_lightning.generation.samples import energies
from ebm_lightning.training.module import EBM


@dataclass(eq=False)
class ClassificationError(Protocol):
    """Share of test labels, in percent, that are not the most probable one under the model's own p(y | x).

    As in Larochelle & Bengio (2008). The training error is measured too, and with a refinement the test error after it:
    JEM-k of Grathwohl et al. (2020). If evaluation adds noise to the data, the refined error is measured once with and
    once without that noise. Standard errors are binomial.

    Args:
        block: the label.
        refinement: of an image before a second classification; None measures no refined error.

    Raises:
        ValueError: when measuring, if the data have no labels, the model has no p(y | x), or the run has no sampler for
            the refinement.
    """

    block: str = "y"
    refinement: Refinement | None = None

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        found = {
            "test_error_percent": self._error(module, data, "test").labeled("test error, percent"),
            "training_error_percent": self._error(module, data, "train").labeled("training error, percent"),
        }
        if self.refinement is not None:
            steps, quiet = self.refinement.steps, data.without_test_noise()
            after, key = f"test error after {steps} steps", f"test_error_after_{steps}_steps"
            refined = self._error(module, data, "test", self.refinement)
            found[f"{key}_percent"] = refined.labeled(f"{after}, percent")
            if quiet is not data:
                refined = self._error(module, quiet, "test", self.refinement)
                found[f"{key}_without_test_noise_percent"] = refined.labeled(f"{after} without test noise, percent")
        return ProtocolResult(found)

    def _error(self, module: EBM, data: DataModule, split: Split, refinement: Refinement | None = None) -> Measurement:
        state = labeled(self.id, data, split, self.block)
        rest = {name: state[name] for name in module.model.variables if name != self.block and name in state}
        return percent_wrong(predicted(module, rest, self.block, refinement), state[self.block])


@dataclass(eq=False)
class ScoreClassifier(Protocol):
    """Test error of a multinomial logistic regression on the scores -E(x, y = c) of every class c, in percent.

    With one model for each class, the log Z of every class is unknown; the biases of the regression absorb it. The
    regression is fitted to standardized scores, with scikit-learn's default penalty. Its error on its training data and
    the test error of the largest score, "without log Z", are measured too. Standard errors are binomial. Scores of
    memorized training examples are better than those of new ones, which biases the regression: Mayraz & Hinton (2000)
    fit it to separate data, such as the validation split. Hinton (2002), section 10; Mayraz & Hinton (2000).

    Args:
        block: the label.
        num_examples: examples for the regression, drawn at random; None takes all.
        split: of these examples.

    Raises:
        ValueError: if ``num_examples`` < 1; when measuring, if the data have no labels.
    """

    block: str = "y"
    num_examples: int | None = None
    split: Split = "train"

    def __post_init__(self) -> None:
        if self.num_examples is not None and self.num_examples < 1:
            raise ValueError(f"{self.id}: expected num_examples >= 1, or null for all")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        train, test = (labeled(self.id, data, split, self.block) for split in (self.split, "test"))
        train = random_subset(train, self.num_examples)
        assert data.classes is not None
        train_scores, test_scores = (scores(module, state, self.block, data.classes) for state in (train, test))
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000, random_state=0))
        classifier.fit(train_scores.numpy(), train[self.block].cpu().numpy())
        labels = [torch.from_numpy(classifier.predict(s.numpy())) for s in (test_scores, train_scores)]
        errors = {
            "test_error_percent": percent_wrong(labels[0], test[self.block]).labeled("test error, percent"),
            "fitted_error_percent": percent_wrong(labels[1], train[self.block]).labeled("fitted error, percent"),
        }
        largest = percent_wrong(test_scores.argmax(1), test[self.block])
        errors["test_error_without_log_z_percent"] = largest.labeled("test error without log Z, percent")
        return ProtocolResult(errors)


def labeled(protocol: str, data: DataModule, split: Split, block: str) -> State:
    """The labeled examples of a split.

    Raises:
        ValueError: if the split has no labels ``block``.
    """
    state = data.tensors(split)
    if block not in state or not data.classes:
        raise ValueError(f"{protocol} needs labels {block!r}, but {type(data).__name__} has only {sorted(state)}")
    known = state[block] >= 0
    return {name: value[known] for name, value in state.items()}


def predicted(
    module: EBM, rest: State, block: str, refinement: Refinement | None = None, batch_size: int = 500
) -> Tensor:
    """The most probable label under p(block | rest) of every example, (N,), on the CPU; the model in eval mode."""
    by = None if refinement is None else refinement.log_posterior
    return log_posteriors(module, rest, block, batch_size, by).argmax(1)


def scores(module: EBM, state: State, block: str, classes: int) -> Tensor:
    """-E of every example under every label, (N, classes), on the CPU, of any energy over x and a label."""
    of_label = (torch.full_like(state[block], label) for label in range(classes))
    return torch.stack([-energies(module, {**state, block: y}) for y in of_label], 1)


def percent_wrong(labels: Tensor, truth: Tensor) -> Measurement:
    """100 times the share of labels that differ from the truth, with its binomial standard error."""
    return percent_true(labels != truth.cpu())
