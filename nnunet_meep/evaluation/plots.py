"""Pictures of an evaluation."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind people as well.
_BLUE, _VERMILLION, _GREY = "#0072B2", "#D55E00", "#7F7F7F"


def reliability_figure(classes: dict[str, dict[str, Any]], title: str, columns: int = 4) -> Figure:
    """Reliability diagram and histogram of each class, over the voxels of all cases.

    Args:
        classes: ``classes`` of a ``calibration.json``.
        title: which voxels these are.
        columns: classes side by side at most.
    """
    from matplotlib.figure import Figure

    columns = min(columns, len(classes))
    rows = math.ceil(len(classes) / columns)
    # Inches, and no layout engine: those take a minute for a hundred classes.
    panel_width, panel_height, left, right, top, bottom = 4.1, 5.5, 0.75, 0.2, 0.85, 0.5
    width, height = columns * panel_width, rows * panel_height
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, fontsize="medium", y=1 - 0.08 / height, va="top")
    for i, (key, entry) in enumerate(classes.items()):
        row, column = divmod(i, columns)
        # The diagram, and its histogram below.
        cell = figure.add_gridspec(
            2,
            1,
            height_ratios=[3, 1.1],
            hspace=0.1,
            left=(column * panel_width + left) / width,
            right=((column + 1) * panel_width - right) / width,
            top=1 - (row * panel_height + top) / height,
            bottom=1 - ((row + 1) * panel_height - bottom) / height,
        )
        diagram = figure.add_subplot(cell[0])
        histogram = figure.add_subplot(cell[1], sharex=diagram)
        plot_reliability(diagram, entry["pooled"]["bins"])
        plot_histogram(histogram, entry["pooled"]["bins"])
        ece = entry["pooled"]["ece"]
        diagram.set_title(f"{entry['name']} (label {key})\npooled ECE {ece:.3g}")
        diagram.tick_params(labelbottom=False)
        histogram.set_xlabel(f"predicted probability of {entry['name']}")
        if column == 0:
            diagram.set_ylabel("observed frequency")
            histogram.set_ylabel("share of voxels")
    return figure


def plot_reliability(ax: Axes, bins: dict[str, list[float]]) -> None:
    """Observed frequency against mean predicted probability of each bin that holds voxels.

    Args:
        ax: where to draw.
        bins: ``edges``, ``count``, ``mean_p``, ``mean_y`` as in ``calibration.json``.
    """
    filled = [i for i, n in enumerate(bins["count"]) if n]
    edges = bins["edges"]
    left = [edges[i] for i in filled]
    width = [edges[i + 1] - edges[i] for i in filled]
    p = [bins["mean_p"][i] for i in filled]
    y = [bins["mean_y"][i] for i in filled]
    ax.bar(left, y, width, align="edge", color=_BLUE, alpha=0.25, edgecolor=_BLUE, linewidth=0.6)
    ax.plot([0, 1], [0, 1], "--", color=_GREY, linewidth=1, label="perfectly calibrated")
    ax.vlines(p, p, y, color=_VERMILLION, linewidth=1.5, label="gap")
    ax.plot(p, y, "o-", color=_BLUE, markersize=4, linewidth=1.2, label="this model", clip_on=False)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.legend(loc="upper left", frameon=False, fontsize="small")


def plot_histogram(ax: Axes, bins: dict[str, list[float]]) -> None:
    """Share of the voxels in each bin, on a log scale because background swamps the rest."""
    edges, count = bins["edges"], bins["count"]
    total = sum(count)
    ax.set(xlim=(0, 1))
    if not total:  # everything ignored: a log scale has nothing to show
        ax.text(0.5, 0.5, "no voxels", ha="center", va="center", transform=ax.transAxes)
        return
    width = [b - a for a, b in pairwise(edges)]
    ax.bar(edges[:-1], [n / total for n in count], width, align="edge", color=_GREY, edgecolor="w")
    ax.set_yscale("log")
    ax.set_ylim(min(n for n in count if n) / total / 3, 1.5)
