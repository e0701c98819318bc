"""A protocol: one named measurement of a trained run, taken by `ebm test` and stored with its settings."""

import abc
import copy
import dataclasses
import math
import re
from typing import Any

import lightning.pytorch as L
import torch
from PIL import Image
from torch import Tensor

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.data.base import DataModule
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.provenance import environment
from ebm_lightning.runs.records import MeasurementRecord, ProtocolRecord
from ebm_lightning.training.module import EBM
from ebm_lightning.utils.random import isolated


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A number and its uncertainty.

    Args:
        value: the number.
        standard_error: None if none is known.
        interval: an interval of the number for a reason that the standard error leaves out, such as the uncertainty
            of log Z; None if there is none. An end may be infinite.
        warning: why the number is unreliable, in one sentence; empty if it is reliable.
        label: its name in a table; empty takes its key.
    """

    value: float
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    warning: str = ""
    label: str = ""

    def labeled(self, label: str) -> "Measurement":
        """The same number under a label."""
        return dataclasses.replace(self, label=label)

    def record(self) -> MeasurementRecord:
        """For JSON, which has no infinity: an infinite end of the interval is None."""
        low, high = self.interval or (math.inf, math.inf)
        interval = (_finite(low), _finite(high)) if self.interval is not None else None
        return MeasurementRecord(self.value, self.standard_error, interval, self.warning, self.label)


def mean(values: Tensor) -> Measurement:
    """The mean over examples with its standard error, which one value does not have."""
    n = len(values)
    return Measurement(float(values.mean()), float(values.std()) / math.sqrt(n) if n > 1 else None)


def percent(share: float, n: int, warning: str = "") -> Measurement:
    """100 times a share of n examples, with its binomial standard error."""
    return Measurement(100 * share, 100 * math.sqrt(share * (1 - share) / n), warning=warning)


def percent_true(which: Tensor) -> Measurement:
    """How many of (N,) are true, in percent; N is at least 1."""
    return percent(float(which.double().mean()), len(which))


def snake_case(text: str) -> str:
    """A text as part of a key: ``PermutedPixels(seed=0)`` is ``permuted_pixels_0``; names of arguments are left out."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", re.sub(r"\b\w+=", "", text))
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def random_subset(state: State, n: int | None) -> State:
    """A random choice of at most n examples; all of them, in random order, if it is None."""
    rows = torch.randperm(len(next(iter(state.values()))))[:n]
    return {name: value[rows.to(value.device)] for name, value in state.items()}


@dataclasses.dataclass
class ProtocolResult:
    """What a protocol measured: measurements by key, in snake_case with the unit, and pictures by name."""

    measurements: dict[str, Measurement]
    pictures: dict[str, Image.Image] = dataclasses.field(default_factory=dict)


class Protocol(L.Callback, abc.ABC):
    """One measurement of a trained run. Final subclasses are dataclasses: their fields are the protocol's settings.

    The result goes to ``evaluation/<protocol>.json`` and ``.png`` of the run folder, with the settings and where they
    come from, and to the terminal. Published numbers differ by protocol more than by method. Rank 0 measures; if a
    subclass sets ``on_every_rank`` all do, each with a random stream of its own, and rank 0's result counts.
    """

    on_every_rank = False
    untrained: EnergyModel
    _step = 0

    @abc.abstractmethod
    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        """Measures on the test split; random numbers come from a stream seeded by the rank, so by 0 in one process."""

    @property
    def id(self) -> str:
        """Name and settings of the protocol, as they are printed beside its numbers."""
        settings = ", ".join(f"{name}={value}" for name, value in self._settings().items())
        return f"{type(self).__name__}({settings})"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keeps the model as it was before training, for comparison: the weights are loaded after this hook."""
        assert isinstance(pl_module, EBM)
        self.untrained = copy.deepcopy(pl_module.model)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._step = checkpoint["global_step"]

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (trainer.is_global_zero or self.on_every_rank):
            return
        assert isinstance(pl_module, EBM)
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        with isolated(trainer.global_rank):
            result = self.measure(pl_module, data)
        if trainer.is_global_zero:
            self._keep(result, data.preprocessing, RunFolder(trainer.default_root_dir))
            self._print(result, data.preprocessing)

    def _keep(self, result: ProtocolResult, preprocessing: str | None, run: RunFolder) -> None:
        folder = run.path / "evaluation"
        folder.mkdir(exist_ok=True)
        name = type(self).__name__
        for suffix, image in result.pictures.items():
            image.save(folder / f"{name}-{suffix}.png")
        ProtocolRecord(
            protocol=self.id,
            settings=self._settings(),
            split="test",
            preprocessing=preprocessing,
            measurements={key: found.record() for key, found in result.measurements.items()},
            step=self._step,
            seed=run.config()["seed_everything"],
            training_minutes=round(run.minutes(), 1),
            environment=environment(),
        ).save(folder / f"{name}.json")

    def _print(self, result: ProtocolResult, preprocessing: str | None) -> None:
        """Print one line each, by label; log-probabilities name the preprocessing, without which they mean nothing."""
        print(f"\n{self.id}")
        for key, found in result.measurements.items():
            spread = f" +- {found.standard_error:.2g}" if found.standard_error is not None else ""
            between = " [{:.4f}, {:.4f}]".format(*found.interval) if found.interval is not None else ""
            label = found.label or key
            under = f"  under {preprocessing}" if preprocessing and ("log-" in label or "log_prob" in key) else ""
            print(f"  {label:40} {found.value:10.4f}{spread}{between}{under}")
        for warning in dict.fromkeys(found.warning for found in result.measurements.values() if found.warning):
            print(f"  warning: {warning}")

    def _settings(self) -> dict[str, Any]:
        own = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: _plain(getattr(self, field.name)) for field in own}


def select_protocols(protocols: list[Protocol], names: str | None) -> list[Protocol]:
    """The protocols whose class or file is among names separated by commas; None selects all.

    Raises ValueError if a name is that of no protocol in the list.
    """
    if names is None:
        return protocols
    requested = {name.strip().lower() for name in names.split(",")}
    known = {protocol: {type(protocol).__name__, type(protocol).__module__.split(".")[-1]} for protocol in protocols}
    unknown = requested - {name.lower() for both in known.values() for name in both}
    if unknown:
        raise ValueError(
            f"the run has no protocol {', '.join(sorted(unknown))}: expected some of "
            f"{', '.join(type(protocol).__name__ for protocol in protocols) or 'none, since it names none'}"
        )
    return [protocol for protocol, both in known.items() if requested & {name.lower() for name in both}]


def _finite(end: float) -> float | None:
    return end if math.isfinite(end) else None


def _plain(value: Any) -> Any:
    """A setting as it is written to JSON and to the terminal."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)
