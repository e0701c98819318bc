"""Typed results that one process of `ebm` writes for another: the end of a fit, and the numbers of a protocol."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ebm_lightning.runs.files import write_atomically


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The end of a run, as written by `ebm fit --result FILE`.

    Args:
        run: the run folder.
        step: the training step that was reached.
    """

    run: Path
    step: int

    def save(self, file: Path) -> None:
        """Write it as JSON, atomically."""
        write_atomically(file, json.dumps({"run": str(self.run), "step": self.step}))

    @classmethod
    def load(cls, file: Path) -> "FitResult":
        """Read what :meth:`save` wrote."""
        found = json.loads(file.read_text())
        return cls(Path(found["run"]), int(found["step"]))


@dataclasses.dataclass(frozen=True)
class MeasurementRecord:
    """A number measured by a protocol, as stored in JSON.

    Args:
        value: the number.
        standard_error: None if none is known.
        interval: bounds of the number that the standard error does not cover; None for an infinite end.
        warning: the reason why the number is unreliable, in one sentence; empty if it is reliable.
        label: its name in tables.
    """

    value: float
    standard_error: float | None = None
    interval: tuple[float | None, float | None] | None = None
    warning: str = ""
    label: str = ""


@dataclasses.dataclass(frozen=True)
class ProtocolRecord:
    """The numbers of one protocol for one run: ``evaluation/<protocol>.json``.

    Args:
        protocol: its name and settings, as printed with its numbers.
        settings: its settings by name.
        split: the split of the data.
        preprocessing: that of the pixels; None if no log-probability depends on it.
        measurements: by key, in snake_case.
        step: the training step of the checkpoint.
        seed: that of the run.
        training_minutes: wall time of training.
        environment: versions, hardware and source of the measuring process.
    """

    protocol: str
    settings: dict[str, Any]
    split: str
    preprocessing: str | None
    measurements: dict[str, MeasurementRecord]
    step: int
    seed: int
    training_minutes: float
    environment: dict[str, Any]

    def save(self, file: Path) -> None:
        """Write it as JSON, atomically."""
        write_atomically(file, json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def load(cls, file: Path) -> "ProtocolRecord":
        """Read what :meth:`save` wrote. Raises ValueError if the file is not a record."""
        try:
            found = json.loads(file.read_text())
            measured = {key: MeasurementRecord(**one) for key, one in found.pop("measurements").items()}
            return cls(measurements=measured, **found)
        except (json.JSONDecodeError, KeyError, TypeError) as fault:
            raise ValueError(f"{file} is not a record of a protocol ({fault}): run `ebm test` again") from fault
