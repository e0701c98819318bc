"""Calibration of a classifier: whether its confidence equals its accuracy."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics.functional.classification import multiclass_calibration_error

from ebm_lightning.core import State
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.components.class_posterior import check_labels, log_posteriors
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult, mean
from ebm_lightning.evaluation.protocols.classification import labeled, percent_wrong
from ebm_lightning.training.module import EBM
from ebm_lightning.utils import plots

_BELOW_ONE = 1 - 2**-24
"""The largest float32 below 1: torchmetrics would put a confidence of exactly 1 into a bin beyond the last one."""

_RESAMPLES = 100


@dataclass(eq=False)
class Calibration(Protocol):
    """Expected calibration error, negative log-likelihood and Brier score of p(y | x), before and after scaling.

    ECE = sum_b n_b / n |accuracy_b - confidence_b| over bins b of equal width of the confidence max_y p(y | x) (Naeini
    et al. 2015; Guo et al. 2017). Bins with few examples bias it upwards. The Brier score is the mean of sum_k (p_k -
    [y = k])^2. Temperature scaling divides log p(y | x) by the scalar T that minimizes the negative log-likelihood of
    the validation split; it changes no decision (Guo et al. 2017). The standard error of ECE is the standard deviation
    over 100 bootstrap samples; the others are those of means. The reliability diagram shows the accuracy of each bin.

    Args:
        bins: of the confidence; 20 are customary for JEM.
        scaling: whether to measure after temperature scaling as well, which takes validation data.
        block: the label.

    Raises:
        ValueError: if ``bins`` < 1; when measuring, if the labels of the data are missing or not those of the model,
            the model has no p(y | x), or there are no validation data for the temperature.
    """

    bins: int = 20
    scaling: bool = True
    block: str = "y"

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"{self.id}: expected bins >= 1")

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        state = labeled(self.id, data, "test", self.block)
        if self.scaling and not data.size("val"):
            raise ValueError(
                f"{self.id} fits a temperature to validation data, but {type(data).__name__} has none: set its "
                "`val_size`, or scaling: false"
            )
        log_p, y = self._classify(module, state)
        found = {"test_error_percent": percent_wrong(log_p.argmax(1), y).labeled("test error, percent")}
        found |= self._score("", log_p, y)
        curves = {"as trained": reliability(log_p.exp(), y, self.bins)}
        if self.scaling:
            temperature = fit_temperature(*self._classify(module, labeled(self.id, data, "val", self.block)))
            scaled = torch.log_softmax(log_p / temperature.value, 1)
            found["temperature"] = temperature
            found |= self._score(" after scaling", scaled, y, temperature.warning)
            curves["after scaling"] = reliability(scaled.exp(), y, self.bins)
        return ProtocolResult(found, {"reliability": plots.plot_reliability(curves)})

    def _classify(self, module: EBM, state: State) -> tuple[Tensor, Tensor]:
        """log p(y | x) (N, classes), and the labels (N,)."""
        log_p, y = log_posteriors(module, state, self.block), state[self.block].cpu()
        check_labels(self.id, y, log_p.shape[1])
        return log_p, y

    def _score(self, when: str, log_p: Tensor, y: Tensor, warning: str = "") -> dict[str, Measurement]:
        p = log_p.exp()
        nll = -log_p.gather(1, y[:, None]).flatten()
        brier = (p - one_hot(y, p.shape[1])).square().sum(1)
        draws = (torch.randint(len(y), (len(y),)) for _ in range(_RESAMPLES))
        spread = torch.tensor([ece(p[rows], y[rows], self.bins) for rows in draws]).std()
        error = Measurement(100 * ece(p, y, self.bins), 100 * float(spread))
        suffix = when.replace(" ", "_")
        return {
            f"ece{suffix}_percent": replace(error, warning=warning, label=f"ECE{when}, percent"),
            f"nll{suffix}_nats": replace(mean(nll), warning=warning, label=f"NLL{when}, nats"),
            f"brier_score{suffix}": replace(mean(brier), warning=warning, label=f"Brier score{when}"),
        }


def ece(p: Tensor, y: Tensor, bins: int) -> float:
    """The expected calibration error, in 0..1, of probabilities p (N, classes) for labels y (N,)."""
    return float(multiclass_calibration_error(p.clamp(max=_BELOW_ONE), y, p.shape[1], bins, validate_args=False))


def reliability(p: Tensor, y: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The accuracy in every bin of the confidence, NaN in an empty bin, and the share of examples; (bins,) each."""
    confidence, label = p.max(1)
    of_bin = (confidence.clamp(max=_BELOW_ONE) * bins).long()
    counts = torch.bincount(of_bin, minlength=bins).double()
    right = torch.bincount(of_bin, weights=(label == y).double(), minlength=bins)
    return right / counts, counts / len(y)


def fit_temperature(log_p: Tensor, y: Tensor) -> Measurement:
    """The T > 0 that minimizes the mean of -log softmax(log p / T)_y, by LBFGS on log T.

    It carries a warning if no T is optimal: if the most probable label is correct for every example, or for none, the
    likelihood increases towards T = 0 or infinity.
    """
    with torch.inference_mode(False), torch.enable_grad():
        log_t = torch.zeros((), dtype=log_p.dtype, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [log_t], max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-15, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            value = torch.nn.functional.cross_entropy(log_p.clone() / log_t.exp(), y.clone())
            (log_t.grad,) = torch.autograd.grad(value, log_t)
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]
    right = float((log_p.argmax(1) == y).double().mean())
    warning = (
        ""
        if 0 < right < 1
        else (
            f"{100 * right:.0f} percent of the {len(y)} validation examples are classified correctly, so that no "
            "temperature is optimal: hold out more of them"
        )
    )
    return Measurement(float(log_t.detach().exp()), warning=warning)
