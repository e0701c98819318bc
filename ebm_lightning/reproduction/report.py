"""Runs of an experiment over their seeds: a table of what they measured and a picture of what they logged."""

import itertools
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebm_lightning.reproduction.curves import lines, points
from ebm_lightning.runs.folder import RunFolder
from ebm_lightning.runs.identity import identity
from ebm_lightning.runs.records import ProtocolRecord

COLUMNS = ("run", "value", "step", "seeds", "mean", "deviation", "each")


def groups(folder: Path) -> dict[str, list[RunFolder]]:
    """The runs below a folder that differ in their seed alone, by a name for what they have in common.

    The name is that of the configuration, with the values in which its runs differ, by which the groups of one
    configuration are ordered. Those on which they build are not compared: they differ with the seed. Raises ValueError
    if the folder holds no run.
    """
    runs = [RunFolder(file.parent) for file in sorted(folder.glob("*/config.yaml"))]
    if not runs:
        raise ValueError(f"{folder} holds no run: give the folder of an experiment's runs, such as runs/quickstart")
    named: dict[str, list[tuple[dict[str, Any], RunFolder]]] = {}
    for run in runs:
        stem = re.sub(r"(-seed\d+)?(-[0-9a-f]{8})?$", "", run.path.name)
        named.setdefault(stem, []).append((_common(run), run))
    found: dict[str, list[RunFolder]] = {}
    for stem, members in named.items():
        keys = sorted({key for common, _ in members for key in common})
        differ = [key for key in keys if len({str(common.get(key)) for common, _ in members}) > 1]
        for common, run in sorted(members, key=lambda member: [_place(member[0].get(key)) for key in differ]):
            values = ", ".join(f"{key.rpartition('.')[2]}={common.get(key)}" for key in differ)
            found.setdefault(f"{stem} ({values})" if values else stem, []).append(run)
    return {name: sorted(members, key=lambda run: run.seed) for name, members in found.items()}


def _place(value: Any) -> tuple[float, str]:
    """Where a value stands among others: numbers in front, by their size."""
    return (value, "") if isinstance(value, int | float) else (math.inf, str(value))


def _common(run: RunFolder) -> dict[str, Any]:
    """What makes a run this run, but for its seed and the runs it builds on."""
    return {
        key: value
        for key, value in identity(run.config()).items()
        if key != "seed_everything" and not key.endswith("init_args.run")
    }


def values(run: RunFolder) -> dict[str, tuple[int, float]]:
    """What a run's protocols measured, by protocol and label, and the last of what it logged, each with its step."""
    found = {}
    for file in sorted((run.path / "evaluation").glob("*.json")):
        record = ProtocolRecord.load(file)
        for key, measured in record.measurements.items():
            found[f"{file.stem} {measured.label or key}"] = record.step, measured.value
    if (run.path / "metrics.csv").is_file():
        found |= {name: max(column.items()) for name, column in run.metrics().items()}
    return found


def table(found: dict[str, list[RunFolder]], names: Sequence[str] | None = None) -> list[str]:
    """The lines of the table.

    Args:
        found: runs by group.
        names: parts of the names of the values to show; None shows measurements, losses and what was validated.

    Raises:
        ValueError: if no run has such a value.
    """
    shown = names or ("train/loss", "val/", " ")
    rows = []
    for group, runs in found.items():
        columns = [(run.seed, values(run)) for run in runs]
        for name in dict.fromkeys(name for _, column in columns for name in column):
            if any(part in name for part in shown):
                rows.append(_row(group, name, {seed: column[name] for seed, column in columns if name in column}))
    if not rows:
        known = sorted({name for runs in found.values() for run in runs for name in values(run)})
        raise ValueError(f"no run has a value of {', '.join(shown)}: expected part of one of {', '.join(known)}")
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (COLUMNS, *rows)]


def _row(group: str, name: str, seeds: dict[Any, tuple[int, float]]) -> tuple[str, ...]:
    steps, each = zip(*seeds.values(), strict=True)
    step = str(min(steps)) if len(set(steps)) == 1 else f"{min(steps)} to {max(steps)}"
    spread = statistics.stdev(each) if len(each) > 1 and all(map(math.isfinite, each)) else math.nan
    deviation = "-" if len(each) == 1 else f"{spread:.4g}"
    listed = ", ".join(f"{value:.4g}" for value in each)
    return group, name, step, ", ".join(map(str, seeds)), f"{statistics.fmean(each):.4g}", deviation, listed


def default_curve(found: dict[str, list[RunFolder]]) -> str | None:
    """What is drawn unless another name is given: the first validated value that was logged, or the loss."""
    logged = [run.metrics() for run in itertools.chain(*found.values()) if (run.path / "metrics.csv").is_file()]
    names = sorted({name for columns in logged for name, column in columns.items() if len(column) > 1})
    return next((name for name in [*(n for n in names if n.startswith("val/")), "train/loss"] if name in names), None)


def draw(found: dict[str, list[RunFolder]], name: str, target: Path) -> Path:
    """Draws a logged value over steps: a color for each group, a thin line for each seed, a bold mean.

    Raises ValueError if no run has logged it.
    """
    from matplotlib.figure import Figure  # takes a second: only if a picture is drawn

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel=name.replace("_", " "))
    for number, (group, runs) in enumerate(found.items()):
        logged = [run for run in runs if (run.path / "metrics.csv").is_file()]
        lines(axes, number, group, [points(run, "step", name) for run in logged])
    axes.legend(fontsize="small")
    figure.savefig(target, dpi=120)
    return target
