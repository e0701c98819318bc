"""Curves of training: read from the metrics of runs, kept in results/, drawn from results/ alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebm_lightning.reproduction.claims import Curve
from ebm_lightning.reproduction.results import Record, load, locked, of_curve, provenance
from ebm_lightning.runs.folder import RunFolder

Points = tuple[Sequence[float], Sequence[float]]
"""The x and the y of a curve."""


def curve_record(curve: Curve, run: RunFolder, name: str, seed: int) -> Record:
    """The points of a curve in one run, by step, and where they come from."""
    x, y = points(run, curve.against, curve.metric)
    return {
        "curve": curve.id,
        "run": name,
        "seed": seed,
        "metric": curve.metric,
        "against": curve.against,
        "x": x,
        "y": y,
        **provenance(run),
        "minutes": round(run.minutes(), 1),
    }


def points(run: RunFolder, against: str, metric: str) -> tuple[list[float], list[float]]:
    """The values of two names at the steps that have both, in order of step; "step" is the step itself.

    Raises ValueError if no step has both.
    """
    columns = run.metrics()
    columns["step"] = {step: float(step) for column in columns.values() for step in column}
    x, y = columns.get(against, {}), columns.get(metric, {})
    steps = sorted(x.keys() & y.keys())
    if not steps:
        raise ValueError(
            f"{run.path} has logged no step with both {against!r} and {metric!r}: name two that are logged together, "
            f"of {', '.join(sorted(columns))}"
        )
    return [x[step] for step in steps], [y[step] for step in steps]


def draw(folder: Path, curve: Curve) -> None:
    """Draws ``results/<id>.png`` from results/: a color for each run, a thin line for each seed, a bold mean."""
    from matplotlib.figure import Figure  # takes a second: only if a picture is drawn

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel=curve.against.replace("_", " "), ylabel=curve.metric.replace("_", " "))
    axes.set_title(curve.what, fontsize="medium", wrap=True)
    target = folder / "results" / f"{curve.id}.png"
    with locked(folder / "expected.yaml"):
        records = load(folder)
        for number, run in enumerate(curve.runs):
            seeds = [(record["x"], record["y"]) for record in of_curve(records, curve, run)]
            lines(axes, number, Path(run).stem, seeds)
        axes.legend()
        partial = target.with_name(target.name + ".partial")
        figure.savefig(partial, format="png", dpi=120)
        partial.replace(target)


def lines(axes: Any, number: int, label: str, seeds: Sequence[Points]) -> None:
    """A thin line for each seed and a bold one for their mean, in the color of this number; nothing for no seed."""
    for x, y in seeds:
        axes.plot(x, y, color=f"C{number}", linewidth=0.6, alpha=0.6)
    if seeds:
        axes.plot(*mean(seeds), color=f"C{number}", linewidth=2, label=label)


def mean(seeds: Sequence[Points]) -> tuple[list[float], list[float]]:
    """The mean of several curves at all their points on their common range, linear in between; empty if none is."""
    import numpy as np

    curves = [np.array([x, y])[:, np.argsort(x, kind="stable")] for x, y in seeds]
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= low) & (grid <= high)]
    return grid.tolist(), np.mean([np.interp(grid, x, y) for x, y in curves], axis=0).tolist()
