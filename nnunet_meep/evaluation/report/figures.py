"""Figures with one panel for each class, and one legend below, where it hides nothing."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from nnunet_meep.evaluation.report.plots import (
    BLUE,
    GREY,
    plain,
    plot_histogram,
    plot_reliability,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In inches. Positions are computed here because layout engines take a minute for 100 classes.
_PANEL_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 4.1, 0.75, 0.2, 0.1, 0.55
_DIAGRAM, _HISTOGRAM, _GAP = 3.15, 1.1, 0.15
_TITLE, _TITLE_LINE, _LEGEND_LINE, _LETTER = 0.35, 0.2, 0.2, 0.085
_TITLE_LETTER = 0.1
_COLUMNS = 4


@dataclass(frozen=True)
class Layer:
    """One model in a reliability diagram: its pooled bins and those of each case."""

    label: str
    bins: dict[str, list[float]]
    per_case: Sequence[dict[str, list[float]]] = ()
    color: str = BLUE
    marker: str = "o"


def reliability_figure(
    panels: Mapping[str, Sequence[Layer]], title: str, *, top_label: str | None = None
) -> Figure:
    """Reliability diagrams, each with its histogram below.

    Args:
        panels: by panel title, the models in the panel, one or several.
        title: of the figure: the ROI and the number of cases.
        top_label: title of the panel for the predicted label, whose axes are named differently.
    """
    figure, axes = panels_of(list(panels), title, histograms=True)
    for (diagram, histogram), (name, layers) in zip(axes, panels.items(), strict=True):
        alone = len(layers) == 1
        for layer in layers:
            plot_reliability(
                diagram,
                layer.bins,
                per_case=layer.per_case,
                single_cases=alone,
                label=layer.label,
                color=layer.color,
                marker=layer.marker,
            )
            color = GREY if alone else layer.color
            plot_histogram(histogram, layer.bins, label=layer.label, color=color, fill=alone)
        if name == top_label:
            diagram.set_ylabel("share of right voxels")
            histogram.set_xlabel("largest probability")
        diagram.set_xlabel("")
        diagram.tick_params(labelbottom=False)
    scale_alike([histogram for _, histogram in axes])
    label_left_and_legend(figure, axes)
    return figure


def scale_alike(histograms: Sequence[Axes]) -> None:
    """The same scale for all, so that heights can be compared; many shared axes would be slow."""
    filled = [histogram for histogram in histograms if histogram.get_yscale() == "log"]
    for histogram in filled:
        histogram.set_ylim(min(h.get_ylim()[0] for h in filled), 1.5)


def save_figure(figure: Figure, target: Path | IO[bytes], kind: str) -> None:
    """Write a figure as ``"png"`` or ``"svg"``; the same figure gives the same bytes every time."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "nnunet-meep"}):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(target, dpi=150, format=kind, metadata=metadata)


def panels_of(
    titles: Sequence[str], title: str, *, histograms: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """A figure and, for each panel, its axes: a square one, and one below if ``histograms``.

    Titles may hold names from files: they are shown as they are, in as many lines as they need.
    """
    from matplotlib.figure import Figure

    # Centred above the diagram, to whose right is the least room.
    titles = [_in_lines(text, _DIAGRAM + 2 * _RIGHT) for text in titles]
    columns = min(_COLUMNS, len(titles))
    rows = math.ceil(len(titles) / columns)
    heights = [_DIAGRAM, *([_HISTOGRAM] if histograms else [])]
    top = _TOP + _TITLE_LINE * (1 + max(text.count("\n") for text in titles))
    panel_height = top + sum(heights) + _GAP * (len(heights) - 1) + _BOTTOM
    width = columns * _PANEL_WIDTH
    title = _in_lines(title, width)
    above = _TITLE + _TITLE_LINE * title.count("\n") if title else 0
    height = above + rows * panel_height
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, fontsize="medium", y=1 - 0.08 / height, va="top")
    axes: list[list[Axes]] = []
    for i, text in enumerate(titles):
        row, column = divmod(i, columns)
        y = height - above - row * panel_height - top
        panel: list[Axes] = []
        for inches in heights:
            y -= inches
            box = (
                (column * _PANEL_WIDTH + _LEFT) / width,
                y / height,
                (_PANEL_WIDTH - _LEFT - _RIGHT) / width,
                inches / height,
            )
            panel.append(figure.add_axes(box, sharex=panel[0] if panel else None))
            y -= _GAP
        panel[0].set_title(text, fontsize="medium")
        axes.append(panel)
    return figure, axes


def _in_lines(text: str, width: float) -> str:
    """A title in lines that fit into a width in inches, for each of its own at most four."""
    n_letters = int(width / _TITLE_LETTER)
    lines = (
        textwrap.wrap(line, n_letters, max_lines=4, placeholder="...") for line in text.split("\n")
    )
    return plain("\n".join(line for wrapped in lines for line in wrapped))


def label_left_and_legend(figure: Figure, axes: Sequence[Sequence[Axes]]) -> None:
    """Label a y axis only if its label differs from the one to its left; add a legend below."""
    names = [[ax.get_ylabel() for ax in panel] for panel in axes]
    for i, panel in enumerate(axes):
        for ax, name, left in zip(panel, names[i], names[i - 1], strict=True):
            ax.set_ylabel("" if i % _COLUMNS and name == left else name)
    handles, labels = axes[0][0].get_legend_handles_labels()
    width, height = figure.get_size_inches()
    entry = 0.6 + _LETTER * max(map(len, labels))
    columns = max(1, min(len(labels), int(width / entry)))
    strip = 0.15 + _LEGEND_LINE * math.ceil(len(labels) / columns)
    # Make the figure taller by the strip of the legend; the panels keep their places in inches.
    taller = height + strip
    for panel in axes:
        for ax in panel:
            box = ax.get_position()
            ax.set_position(
                (
                    box.x0,
                    (box.y0 * height + strip) / taller,
                    box.width,
                    box.height * height / taller,
                )
            )
    figure.set_size_inches(width, taller)
    figure.suptitle(figure.get_suptitle(), fontsize="medium", y=1 - 0.08 / taller, va="top")
    figure.legend(
        handles,
        labels,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.05 / taller),
        ncols=columns,
        frameon=False,
        fontsize="small",
        borderpad=0,
    )
