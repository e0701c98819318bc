"""What an experiment claims: the claims, measurements and curves of its ``expected.yaml``."""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

SCALES = ("laptop", "cluster")


@dataclasses.dataclass(frozen=True)
class Claim:
    """One line of ``claims:``: a number, where it comes from, and its target, within which ours reproduces it.

    Without a target, ``at_least`` or ``at_most``, it cannot fail: it is a measurement, and is reported.

    Args:
        id: a name, unique in the experiment.
        label: what the table calls it, in a few words with the unit.
        run: the configuration in the experiment's folder that is trained for it.
        protocol: the evaluation protocol that measures it.
        metric: the key of the measurement in the protocol's record.
        source: the table or figure of the paper, or "ours" if the paper has no such number.
        paper: the paper's value; None if it has none.
        at_least: the target's lower end; None if it has none.
        at_most: the target's upper end; None if it has none.
        no_target: why a published value has no target.
        seeds: seeds it is run with.
        scale: "laptop" or "cluster".
        what: the measurement in full, for the details; empty if the label says it.
        note: what a reader must know, such as why the target is what it is.
        minus: a second configuration: the value is the metric of ``run`` minus that of ``minus``, seed by seed.
        preprocessing: that of the data, such as "FixedBinarization(seed=0)"; None states none.
    """

    id: str
    label: str
    run: str
    protocol: str
    metric: str
    source: str
    paper: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    no_target: str = ""
    seeds: tuple[int, ...] = (0,)
    scale: str = "laptop"
    what: str = ""
    note: str = ""
    minus: str | None = None
    preprocessing: str | None = None

    @property
    def runs(self) -> tuple[str, ...]:
        """The configurations that are trained for it."""
        return (self.run,) if self.minus is None else (self.run, self.minus)

    def miss(self, value: float) -> float:
        """How far a value lies outside the target; 0 inside, NaN for NaN."""
        low = self.at_least - value if self.at_least is not None else 0.0
        high = value - self.at_most if self.at_most is not None else 0.0
        return value if math.isnan(value) else max(low, high, 0.0)

    @property
    def has_target(self) -> bool:
        """Whether it can fail: else it is a measurement."""
        return self.at_least is not None or self.at_most is not None

    @property
    def published(self) -> str:
        """The paper's value, as the table prints it; its note says if it was not read in the paper itself."""
        if self.paper is None:
            return ""
        return f"{self.paper:g}{' (unverified)' * ('unverified' in self.note)}"

    @property
    def target(self) -> str:
        """The target, as the table prints it; empty if there is none."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g}"
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of ``curves:``: a quantity against another during training, one line per run and seed.

    Args:
        id: a name, unique in the experiment; its picture is ``results/<id>.png``.
        what: description of the curve.
        runs: the configurations in the experiment's folder that are trained for it.
        metric: the name in ``metrics.csv`` on the y axis.
        against: the name in ``metrics.csv`` on the x axis, or "step".
        seeds: seeds it is run with.
        scale: "laptop" or "cluster".
    """

    id: str
    what: str
    runs: tuple[str, ...]
    metric: str
    against: str
    seeds: tuple[int, ...] = (0,)
    scale: str = "laptop"


@dataclasses.dataclass(frozen=True)
class Expected:
    """What ``expected.yaml`` holds."""

    claims: tuple[Claim, ...]
    curves: tuple[Curve, ...]

    @property
    def entries(self) -> tuple[Claim | Curve, ...]:
        """All of them."""
        return (*self.claims, *self.curves)

    def pairs(self) -> list[tuple[str, int]]:
        """What is trained for it: each run and seed once, in order of need."""
        return list(dict.fromkeys((run, seed) for one in self.entries for seed in one.seeds for run in one.runs))

    def of_runs(self, runs: Collection[str]) -> "Expected":
        """The claims that need no other run than these, and the curves that show one of them."""
        claims = tuple(claim for claim in self.claims if set(claim.runs) <= set(runs))
        return Expected(claims, tuple(curve for curve in self.curves if set(curve.runs) & set(runs)))


Entry = TypeVar("Entry", Claim, Curve)


def claims(folder: Path) -> list[Claim]:
    """The claims of an experiment. Raises ValueError as :func:`expected` does."""
    return list(expected(folder).claims)


def expected(folder: Path) -> Expected:
    """The claims and curves of an experiment.

    Raises ValueError if its expected.yaml is absent, holds a key that no claim or curve has, names a run that is not
    there, gives two of them one id, or has a published value with neither a target nor the reason why it has none.
    """
    file = folder / "expected.yaml"
    if not file.is_file():
        raise ValueError(f"{folder} is no experiment: it has no expected.yaml")
    try:
        loaded = yaml.safe_load(file.read_text())
    except yaml.YAMLError as fault:
        raise ValueError(f"{file} is no YAML: {fault}") from fault
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"{file} is not a list of claims: expected `claims:`, `curves:` or both")
    if unknown := sorted(map(str, loaded.keys() - {"claims", "curves"})):
        raise ValueError(f"{file} has the unknown key {unknown[0]}: the keys are claims and curves")
    found = Expected(_lines(Claim, loaded.get("claims"), file), _lines(Curve, loaded.get("curves"), file))
    _check_names(found, file)
    _check_targets(found.claims, file)
    return found


def _lines(kind: type[Entry], lines: Any, file: Path) -> tuple[Entry, ...]:
    if not isinstance(lines, list | None):
        raise ValueError(f"{file}: {kind.__name__.lower()}s must be a list, not {lines!r}")
    return tuple(_line(kind, line, file) for line in lines or [])


def _line(kind: type[Entry], line: Any, file: Path) -> Entry:
    name = kind.__name__.lower()
    if not isinstance(line, dict):
        raise ValueError(f"{file}: a {name} must be keys with values, not {line!r}")
    place = f"{file}: the {name} {line.get('id', line)!r}"
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(map(str, line.keys() - fields.keys())):
        raise ValueError(f"{place} has the unknown key {unknown[0]}: the keys are {', '.join(fields)}")
    if absent := [key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in line]:
        raise ValueError(f"{place} lacks the key {absent[0]}")
    for key, value in line.items():
        form, is_of_form = FIELD_PARSERS[fields[key].type]
        if not is_of_form(value):
            raise ValueError(f"{place}: {key} must be {form}, not {value!r}")
    if line.get("scale", "laptop") not in SCALES:
        raise ValueError(f"{place}: scale must be {' or '.join(SCALES)}, not {line['scale']!r}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in line.items()}
    return kind(**values)


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and value != [] and all(type(item) is kind for item in value)


FIELD_PARSERS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("text", lambda value: isinstance(value, str)),
    str | None: ("text", lambda value: isinstance(value, str | None)),
    float | None: ("a number (in YAML 1.0e-3, not 1e-3)", lambda value: isinstance(value, int | float | None)),
    tuple[int, ...]: ("a list of integers", _is_list_of(int)),
    tuple[str, ...]: ("a list of texts", _is_list_of(str)),
}
"""How the value of a field is written in YAML, by the field's annotation: as a message says it, and as a test."""


def _check_names(found: Expected, file: Path) -> None:
    ids = [one.id for one in found.entries]
    for one in found.entries:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", one.id):
            raise ValueError(f"{file}: the id {one.id!r} names files: use letters, digits, dots, dashes, underscores")
        if ids.count(one.id) > 1:
            raise ValueError(f"{file} has the id {one.id} {ids.count(one.id)} times: every id must be another one")
        for run in one.runs:
            if not (file.parent / run).is_file():
                raise ValueError(f"{file}: {one.id} names the run {run}, but there is no file {file.parent / run}")
    runs = {Path(run).stem for run, _ in found.pairs()}
    for curve in found.curves:
        if curve.id in runs:
            raise ValueError(f"{file}: a curve and a run would write the same results/{curve.id}.png: rename one")


def _check_targets(claims: Sequence[Claim], file: Path) -> None:
    for claim in claims:
        if claim.has_target and claim.no_target:
            raise ValueError(f"{file}: {claim.id} has a target and says why it has none: remove one")
        if claim.paper is not None and not claim.has_target and not claim.no_target:
            raise ValueError(
                f"{file}: {claim.id} has the paper's value {claim.paper:g} and no target: give at_least or at_most, "
                "decided from the paper, or no_target with the reason why none can be set"
            )
