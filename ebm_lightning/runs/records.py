"""What one process of `ebm` leaves for another as typed values: the end of a fit, and what a protocol measured."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ebm_lightning.runs.files import write_atomically


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How `ebm fit --result FILE` ended.

    Args:
        run: the run folder.
        step: the training step that was reached.
    """

    run: Path
    step: int

    def save(self, file: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_atomically(file, json.dumps({"run": str(self.run), "step": self.step}))

    @classmethod
    def load(cls, file: Path) -> "FitResult":
        """Read what :meth:`save` wrote."""
        found = json.loads(file.read_text())
        return cls(Path(found["run"]), int(found["step"]))


@dataclasses.dataclass(frozen=True)
class MeasurementRecord:
    """A number that a protocol measured, as JSON holds it.

    Args:
        value: the number.
        standard_error: None if none is known.
        interval: where the number lies for a reason that the standard error leaves out; an infinite end is None.
        warning: why the number is unreliable, in one sentence; empty if it is reliable.
        label: what a table calls it.
    """

    value: float
    standard_error: float | None = None
    interval: tuple[float | None, float | None] | None = None
    warning: str = ""
    label: str = ""


@dataclasses.dataclass(frozen=True)
class ProtocolRecord:
    """What one protocol measured of one run: ``evaluation/<protocol>.json``.

    Args:
        protocol: its name and settings, as they are printed beside its numbers.
        settings: its settings by name.
        split: the split that was measured.
        preprocessing: how the pixels were made from the files; None if no log-probability depends on it.
        measurements: by key, in snake_case.
        step: the training step of the checkpoint.
        seed: the run's.
        training_minutes: wall time of training.
        environment: versions, hardware and source of the process that measured.
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
        """Write it as JSON, whole or not at all."""
        write_atomically(file, json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def load(cls, file: Path) -> "ProtocolRecord":
        """Read what :meth:`save` wrote. Raises ValueError, naming the file, if it is none."""
        try:
            found = json.loads(file.read_text())
            measured = {key: MeasurementRecord(**one) for key, one in found.pop("measurements").items()}
            return cls(measurements=measured, **found)
        except (json.JSONDecodeError, KeyError, TypeError) as fault:
            raise ValueError(f"{file} is no record of a protocol ({fault}): run `ebm test` again") from fault
