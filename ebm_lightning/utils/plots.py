"""Plots of samples, energies and metrics, as PIL images."""

import io
import math

import torch
from PIL import Image
from torch import Tensor

from ebm_lightning.core import Bounds


def can_plot(x: Tensor) -> bool:
    """Whether :func:`plot_samples` takes a batch: floating-point values in the shape of images or of points."""
    vector = x.ndim == 2 and (x.shape[1] == 2 or math.isqrt(x.shape[1]) ** 2 == x.shape[1])
    return x.is_floating_point() and (vector or x.ndim == 3 or (x.ndim == 4 and x.shape[1] in (1, 3)))


def plot_samples(x: Tensor, bounds: Bounds | None = None, columns: int | None = None) -> Image.Image:
    """A plot of a batch: a grid for images, a scatter plot for points of the plane.

    Args:
        x: (B, C, H, W) with 1 or 3 channels, (B, H, W), (B, H*H) for a square image, or (B, 2).
        bounds: the values of black and white; None takes the extremes of ``x``.
        columns: images in a row; None makes the grid square.

    Raises:
        ValueError: if ``x`` has none of these shapes.
    """
    x = x.detach().float().cpu()
    if x.ndim == 2 and x.shape[1] == 2:
        return _scatter(x)
    if x.ndim == 2 and math.isqrt(x.shape[1]) ** 2 == x.shape[1]:
        x = x.view(len(x), 1, math.isqrt(x.shape[1]), -1)
    if x.ndim == 3:
        x = x.unsqueeze(1)
    if not can_plot(x):
        raise ValueError(
            f"plot_samples takes images (B, 1 or 3, H, W), square vectors or points (B, 2); got {tuple(x.shape)}"
        )
    return _grid(x, bounds or (float(x.min()), float(x.max())), columns or math.ceil(math.sqrt(len(x))))


def plot_filters(groups: list[Tensor]) -> Image.Image:
    """A grid of filters (n, C, H, W), or of another shape of images, each on its own symmetric scale.

    Zero is mid-gray; the largest absolute value of a filter is black or white. Several groups of equal size are one row
    each, a single one is a square.
    """
    x = torch.cat(groups).detach().float().cpu()
    largest = x.abs().flatten(1).amax(1).clamp_min(1e-12).view(-1, *[1] * (x.ndim - 1))
    return plot_samples(x / largest, (-1.0, 1.0), len(groups[0]) if len(groups) > 1 else None)


def plot_histogram(values: dict[str, Tensor], label: str, bins: int = 50) -> Image.Image:
    """Histograms over one common axis: for each named set of numbers, the share of it in each bin.

    If the sets are so far apart that the narrowest would vanish, the axis is linear near zero and logarithmic far from
    it (asinh). Integers get bins of integers; values that are not finite are left out.

    Args:
        values: the sets, of any shape.
        label: of the axis.
        bins: number of bins over the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    flat = {name: v.detach().double().cpu().flatten() for name, v in values.items()}
    finite = {name: v[v.abs() < 1e30] for name, v in flat.items()}
    everything = torch.cat(list(finite.values()))
    low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    widths = [float(v.std()) for v in finite.values() if len(v) > 1 and float(v.std()) > 0]
    if widths and high - low > 100 * min(widths):
        width = min(widths)
        axes.set_xscale("asinh", linear_width=width)
        edges = width * torch.linspace(math.asinh(low / width), math.asinh(high / width), bins + 1).double().sinh()
    elif len(everything) and bool((everything == everything.round()).all()) and high > low:
        edges = torch.arange(low - 0.5, high + 1.5, max(1, math.ceil((high - low) / bins)), dtype=torch.float64)
    else:
        edges = torch.linspace(low, high if high > low else low + 1, bins + 1, dtype=torch.float64)
    edges[0], edges[-1] = min(float(edges[0]), low), max(float(edges[-1]), high)
    for name, v in finite.items():
        shares = [1 / len(v) for _ in v]
        axes.hist(v.tolist(), edges.tolist(), weights=shares, histtype="stepfilled", alpha=0.55, label=name)
    axes.set_xlabel(label)
    axes.set_ylabel("share")
    axes.legend(frameon=False)
    return _render(figure)


def plot_reliability(bins: dict[str, tuple[Tensor, Tensor]]) -> Image.Image:
    """Reliability diagrams side by side: accuracy and share of examples for each bin of the confidence.

    Args:
        bins: by name, for bins of equal width over [0, 1], the accuracy, NaN in an empty bin, and the share.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(bins), 3.6), layout="constrained")
    for axes, (name, (accuracy, share)) in zip(
        figure.subplots(1, len(bins), squeeze=False)[0], bins.items(), strict=True
    ):
        width = 1 / len(accuracy)
        left = [i * width for i in range(len(accuracy))]
        axes.bar(left, accuracy.nan_to_num().tolist(), width, align="edge", edgecolor="white", label="accuracy")
        axes.bar(left, share.tolist(), width * 0.4, align="edge", color="black", alpha=0.6, label="share")
        axes.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1)
        axes.set(title=name, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
        axes.legend(frameon=False, loc="upper left")
    return _render(figure)


def plot_curves(
    lines: dict[str, tuple[Tensor, Tensor, Tensor | None]], x_label: str, y_label: str, logarithmic: bool = False
) -> Image.Image:
    """Lines over one axis, each with a band around it if it has one.

    Args:
        lines: by name the positions (n,), the values (n,) and half the width of the band (n,), or None.
        x_label: of the positions.
        y_label: of the values.
        logarithmic: whether both axes are.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    if logarithmic:
        axes.set(xscale="log", yscale="log")
    for name, (x, y, width) in lines.items():
        (line,) = axes.plot(x.tolist(), y.tolist(), marker="o" if len(x) < 30 else None, markersize=3, label=name)
        if width is not None:
            low, high = (y - width).tolist(), (y + width).tolist()
            axes.fill_between(x.tolist(), low, high, color=line.get_color(), alpha=0.25, linewidth=0)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.legend(frameon=False)
    return _render(figure)


def _grid(x: Tensor, bounds: Bounds, columns: int) -> Image.Image:
    low, high = bounds
    levels = ((x - low) / max(high - low, 1e-12) * 255).round().clamp(0, 255).to(torch.uint8)
    scale = max(1, 56 // x.shape[-1])
    tiles = levels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    n, channels, height, width = tiles.shape
    rows, gap = math.ceil(n / columns), 2
    canvas = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 128, dtype=torch.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = tile
    pixels = canvas.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def _scatter(x: Tensor) -> Image.Image:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x[:, 0].tolist(), x[:, 1].tolist(), s=10, linewidths=0)
    axes.set_aspect("equal")
    return _render(figure)


def _render(figure: object) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)  # type: ignore[attr-defined]
    return Image.open(stream)
