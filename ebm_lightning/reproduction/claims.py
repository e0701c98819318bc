"""What an experiment promises: the claims and curves of its ``expected.yaml``."""

import dataclasses
import math
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import yaml

SCALES = ("laptop", "cluster")


@dataclasses.dataclass(frozen=True)
class Claim:
    """One line of ``claims:``: a number, where it comes from, and when ours counts as reproducing it.

    Args:
        id: a name, unique in the experiment; the results' files begin with it.
        what: the measurement in words.
        run: the configuration in the experiment's folder that is trained for it.
        protocol: the evaluation protocol that measures it.
        metric: the name of the measurement in the protocol's findings.
        source: the table or figure of the paper, or "ours" where the paper has no such number.
        paper: the paper's value; None where it has none.
        at_least: ours must not be smaller; None for no such bound.
        at_most: ours must not be larger; None for no such bound.
        seeds: seeds it is run with.
        scale: "laptop" or "cluster".
        note: what a reader must know, such as that the paper's value is unverified.
        minus: a second configuration: the value is the metric of ``run`` minus that of ``minus``, seed by seed.
        convention: the pixel convention of the number, such as "FixedBinarization(seed=0)"; None states none.
    """

    id: str
    what: str
    run: str
    protocol: str
    metric: str
    source: str
    paper: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    seeds: tuple[int, ...] = (0,)
    scale: str = "laptop"
    note: str = ""
    minus: str | None = None
    convention: str | None = None

    @property
    def runs(self) -> tuple[str, ...]:
        """The configurations that are trained for it."""
        return (self.run,) if self.minus is None else (self.run, self.minus)

    def holds(self, value: float) -> bool:
        """Whether a value of ours reproduces this claim."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def shortfall(self, value: float) -> float:
        """How far a value lies outside the bounds; 0 inside, NaN for NaN."""
        low = self.at_least - value if self.at_least is not None else 0.0
        high = value - self.at_most if self.at_most is not None else 0.0
        return value if math.isnan(value) else max(low, high, 0.0)

    @property
    def bounded(self) -> bool:
        """Whether it can fail."""
        return self.at_least is not None or self.at_most is not None

    @property
    def bound(self) -> str:
        """The bounds, as the table prints them."""
        low = f">= {self.at_least:g}" if self.at_least is not None else ""
        high = f"<= {self.at_most:g}" if self.at_most is not None else ""
        return " and ".join(filter(None, (low, high))) or "none"


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of ``curves:``: a quantity against another during training, one line per run and seed.

    Args:
        id: a name, unique in the experiment; its picture is ``results/<id>.png``.
        what: the curve in words.
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

    def file(self, run: str, seed: int) -> str:
        """The name of the file in results/ for one run and seed."""
        return f"{self.id}-{Path(run).stem}-seed{seed}.json"


@dataclasses.dataclass(frozen=True)
class Expected:
    """What ``expected.yaml`` holds."""

    claims: tuple[Claim, ...]
    curves: tuple[Curve, ...]

    @property
    def promises(self) -> tuple[Claim | Curve, ...]:
        """All of them."""
        return (*self.claims, *self.curves)

    def pairs(self) -> list[tuple[str, int]]:
        """What is trained for it: each run and seed once, in order of need."""
        return list(dict.fromkeys((run, seed) for one in self.promises for seed in one.seeds for run in one.runs))

    def of_runs(self, runs: Collection[str]) -> "Expected":
        """The claims that need no other run than these, and the curves that show one of them."""
        claims = tuple(claim for claim in self.claims if set(claim.runs) <= set(runs))
        return Expected(claims, tuple(curve for curve in self.curves if set(curve.runs) & set(runs)))


Promise = TypeVar("Promise", Claim, Curve)


def claims(folder: Path) -> list[Claim]:
    """The claims of an experiment. Raises ValueError as :func:`expected` does."""
    return list(expected(folder).claims)


def expected(folder: Path) -> Expected:
    """The claims and curves of an experiment.

    Raises ValueError where its expected.yaml is absent, holds a key that no claim or curve has, names a run that is not
    there, or gives two of them one id.
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
    return found


def _lines(kind: type[Promise], lines: Any, file: Path) -> tuple[Promise, ...]:
    if not isinstance(lines, list | None):
        raise ValueError(f"{file}: {kind.__name__.lower()}s must be a list, not {lines!r}")
    return tuple(_line(kind, line, file) for line in lines or [])


def _line(kind: type[Promise], line: Any, file: Path) -> Promise:
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
        form, is_of_form = FORMS[fields[key].type]
        if not is_of_form(value):
            raise ValueError(f"{place}: {key} must be {form}, not {value!r}")
    if line.get("scale", "laptop") not in SCALES:
        raise ValueError(f"{place}: scale must be {' or '.join(SCALES)}, not {line['scale']!r}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in line.items()}
    return kind(**values)


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and value != [] and all(type(item) is kind for item in value)


FORMS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("text", lambda value: isinstance(value, str)),
    str | None: ("text", lambda value: isinstance(value, str | None)),
    float | None: ("a number (in YAML 1.0e-3, not 1e-3)", lambda value: isinstance(value, int | float | None)),
    tuple[int, ...]: ("a list of whole numbers", _is_list_of(int)),
    tuple[str, ...]: ("a list of texts", _is_list_of(str)),
}
"""How the value of a field is written in YAML, by the field's annotation: in words, and as a test."""


def _check_names(found: Expected, file: Path) -> None:
    ids = [one.id for one in found.promises]
    for one in found.promises:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", one.id):
            raise ValueError(f"{file}: the id {one.id!r} names files: use letters, digits, dots, dashes, underscores")
        if ids.count(one.id) > 1:
            raise ValueError(f"{file} has the id {one.id} {ids.count(one.id)} times: every id must be another one")
        for run in one.runs:
            if not (file.parent / run).is_file():
                raise ValueError(f"{file}: {one.id} names the run {run}, but there is no file {file.parent / run}")
    files = [f"{claim.id}-seed0.json" for claim in found.claims]
    files += [curve.file(run, 0) for curve in found.curves for run in curve.runs]
    pictures = [f"{stem}.png" for stem in {Path(run).stem for run, _ in found.pairs()}]
    pictures += [f"{curve.id}.png" for curve in found.curves]
    for name in [*files, *pictures]:
        if (files + pictures).count(name) > 1:
            raise ValueError(f"{file}: two of its ids and runs would write the same results/{name}: rename one")
