"""Pictures of evaluations.

The functions ``plot_*`` draw on axes that they are given, with labels and without a legend, so that
models can be laid over each other; the functions ``*_figure(s)`` compose them, a panel for each
class, with one legend below the panels, where it hides nothing.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nnunet_meep.evaluation.compare import Comparison, Model
from nnunet_meep.evaluation.metrics.calibration import reliability_band
from nnunet_meep.evaluation.results import TOP_LABEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, and three of Paul Tol's: told apart by colour-blind people as well.
_BLUE, _GREY = "#0072B2", "#7F7F7F"
COLORS = (
    *(_BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#999933", "#332288"),
)


def color_of(i: int) -> str:
    """The colour of the i-th model."""
    return COLORS[i % len(COLORS)]


def plain(text: str) -> str:
    """A name as matplotlib shows it as it is: no formula, and not hidden from legends."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def new_axes() -> Axes:
    """Axes of a figure of their own, which belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(4.5, 4.5), layout="constrained").add_subplot(aspect="equal")


def plot_reliability(
    ax: Axes,
    bins: dict[str, list[float]],
    *,
    per_case: Sequence[dict[str, list[float]]] = (),
    single_cases: bool = True,
    label: str = "all cases",
    color: str = _BLUE,
) -> None:
    """Observed frequency against mean predicted probability of each bin that holds voxels.

    Args:
        ax: where to draw; call it again with other colours to lay models over each other.
        bins: ``count``, ``mean_p``, ``mean_y`` as in ``calibration.json``.
        per_case: the same of the single cases, for a band: the 95 % BCa bootstrap interval over
            cases of each bin's observed frequency.
        single_cases: draw them, too, as thin lines behind.
        label: of the pooled line.
        color: of all but the diagonal.
    """
    _diagonal(ax, "perfectly calibrated")
    several = len(per_case) > 1
    for case in per_case if several and single_cases else ():
        p, y = _filled(case)
        name = _once(ax, "single cases")
        ax.plot(p, y, color=color, alpha=0.18, linewidth=0.6, label=name, zorder=1)
    p, y = _filled(bins)
    if several:
        low, high = reliability_band(per_case)
        filled = [n > 0 for n in bins["count"]]
        name = _once(ax, "95 % interval over cases")
        ax.fill_between(
            p, low[filled], high[filled], color=color, alpha=0.22, linewidth=0, label=name
        )
    ax.plot(p, y, "o-", color=color, markersize=4, linewidth=1.4, label=label, clip_on=False)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set(xlabel="predicted probability", ylabel="observed frequency")


def plot_histogram(
    ax: Axes,
    bins: dict[str, list[float]],
    *,
    label: str = "all cases",
    color: str = _GREY,
    fill: bool = True,
) -> None:
    """Share of the voxels in each bin, on a log scale because background swamps the rest.

    Args:
        ax: where to draw; call it again with ``fill=False`` to lay models over each other.
        bins: ``edges``, ``count`` as in ``calibration.json``.
        label, color: of the steps.
        fill: filled bars instead of their outline.
    """
    edges, count = bins["edges"], bins["count"]
    total = sum(count)
    ax.set(xlim=(0, 1), xlabel="predicted probability", ylabel="share of voxels")
    if not total:  # everything ignored: a log scale has nothing to show
        ax.text(0.5, 0.5, "no voxels", ha="center", va="center", transform=ax.transAxes)
        return
    lowest = min(n for n in count if n) / total / 3
    if ax.get_yscale() == "log":
        lowest = min(lowest, ax.get_ylim()[0])
    ax.set_yscale("log")
    style: dict[str, Any] = {"edgecolor": "w"} if fill else {"linewidth": 1.4}
    # Below every limit, so that bars stand on the axis whatever is drawn after them.
    share = np.maximum(np.array(count) / total, 1e-12)
    ax.stairs(share, edges, baseline=1e-12, fill=fill, color=color, label=label, **style)
    ax.set_ylim(lowest, 1.5)


def plot_risk_coverage(
    ax: Axes, curve: dict[str, list[float]], *, label: str = "all cases", color: str = _BLUE
) -> None:
    """The error rate of the voxels that are kept if the least sure ones are set aside.

    Args:
        ax: where to draw; call it again with other colours to lay models over each other.
        curve: ``coverage``, ``risk`` as in ``calibration.json``.
        label, color: of the line.
    """
    coverage, risk = np.array(curve["coverage"]), np.array(curve["risk"], np.float64)
    aside = 1 - coverage
    shown = aside > 0
    ax.plot(100 * aside[shown], 100 * risk[shown], color=color, linewidth=1.4, label=label)
    ax.set_xscale("log")
    ax.set_xlim(100 * aside[shown].min(), 100)
    highest = max(np.nanmax(line.get_ydata(), initial=0.0) for line in ax.get_lines())
    ax.set_ylim(0, 1.05 * highest or 1.0)
    ax.set_xlabel("least sure voxels set aside, % (100 - coverage)")
    ax.set_ylabel("risk: error rate of the others, %")


def plot_agreement(
    ax: Axes, actual: ArrayLike, expected: ArrayLike, *, label: str, color: str = _BLUE
) -> None:
    """What the probabilities expect of each case against what is true, with the diagonal.

    Args:
        ax: where to draw; call it again with other colours to lay models over each other.
        actual, expected: one value >= 0 for each case; NaN is left out.
        label, color: of the points.
    """
    if not ax.get_lines():
        ax.axline((0, 0), slope=1, ls="--", color=_GREY, linewidth=1, label="expected = true")
    ax.plot(actual, expected, "o", color=color, markersize=4, alpha=0.6, label=label)
    points = np.concatenate([line.get_xydata() for line in ax.get_lines()[1:]])
    if np.isfinite(points).any():
        low, high = np.nanmin(points), np.nanmax(points)
        margin = 0.05 * (high - low) or 0.05 * high or 1.0
        low = 0.0 if low < high / 3 else low - margin
        ax.set(xlim=(low, high + margin), ylim=(low, high + margin))
        ax.locator_params(nbins=6)


@dataclass(frozen=True)
class Layer:
    """One model in a reliability diagram: its pooled bins and those of its single cases."""

    label: str
    bins: dict[str, list[float]]
    per_case: Sequence[dict[str, list[float]]] = ()
    color: str = _BLUE


def reliability_figure(
    panels: Mapping[str, Sequence[Layer]], title: str, *, top_label: str | None = None
) -> Figure:
    """Reliability diagrams, each with its histogram below.

    Args:
        panels: for the title of each panel the models in it, one or several.
        title: which voxels these are.
        top_label: title of the panel that is about the largest probability and being right.
    """
    figure, axes = _panels(list(panels), title, histograms=True)
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
            )
            color = _GREY if alone else layer.color
            plot_histogram(histogram, layer.bins, label=layer.label, color=color, fill=alone)
        if name == top_label:
            diagram.set_ylabel("share of right voxels")
            histogram.set_xlabel("largest probability")
        diagram.set_xlabel("")
        diagram.tick_params(labelbottom=False)
    # One scale, so that heights can be compared; axes that share it would be slow if many.
    with_voxels = [histogram for _, histogram in axes if histogram.get_yscale() == "log"]
    for histogram in with_voxels:
        histogram.set_ylim(min(h.get_ylim()[0] for h in with_voxels), 1.5)
    _label_left_and_legend(figure, axes)
    return figure


@dataclass(frozen=True)
class ComparisonPicture:
    """Models laid over each other, to be drawn for all classes together or for each alone.

    Attributes:
        panels: class key: title of its panel.
        draw: takes some of these keys and a title of the whole, and gives a figure.
    """

    panels: dict[str, str]
    draw: Callable[[Sequence[str], str], Figure]


def comparison_pictures(
    models: Sequence[Model], comparison: Comparison
) -> dict[str, ComparisonPicture]:
    """The pictures of a comparison, by name.

    Returns:
        ``reliability``: pooled over the compared cases and the trainings of a model, with
        a BCa bootstrap band over cases; ``risk_coverage``: pooled over all cases of a model;
        ``volumes``: expected against true volume of each case; ``errors``: expected against
        actual error rate of each case. Those without numbers are left out: results of older
        versions do not have all of them.
    """
    titles = {
        key: "all classes (top label)" if key == TOP_LABEL else plain(f"{name} (label {key})")
        for key, name in comparison.classes.items()
    }
    foreground = {k: t for k, t in titles.items() if k != TOP_LABEL}
    of_errors = {TOP_LABEL: titles[TOP_LABEL]} if TOP_LABEL in titles else foreground

    def reliability(keys: Sequence[str], title: str) -> Figure:
        panels = {
            titles[key]: [_layer(m, key, comparison.cases, i) for i, m in enumerate(models)]
            for key in keys
        }
        return reliability_figure(panels, title, top_label=titles.get(TOP_LABEL))

    def risk_coverage(keys: Sequence[str], title: str) -> Figure:
        figure, axes = _panels([titles[key] for key in keys], title)
        for (ax,), key in zip(axes, keys, strict=True):
            for i, model in enumerate(models):
                curve = _mean_curve([_pooled(t, key)["risk_coverage"] for t in model.trainings])
                plot_risk_coverage(ax, curve, label=plain(model.name), color=color_of(i))
        _label_left_and_legend(figure, axes)
        return figure

    def agreement(actual: str, expected: str, words: str, scale: float) -> Callable[..., Figure]:
        def draw(keys: Sequence[str], title: str) -> Figure:
            figure, axes = _panels([titles[key] for key in keys], title)
            for (ax,), key in zip(axes, keys, strict=True):
                for i, model in enumerate(models):
                    x, y = (
                        scale * model.values(comparison.cases, key, metric)
                        for metric in (actual, expected)
                    )
                    plot_agreement(ax, x, y, label=plain(model.name), color=color_of(i))
                ax.set(xlabel=f"true {words}", ylabel=f"expected {words}")
            _label_left_and_legend(figure, axes)
            return figure

        return draw

    found = {"reliability": ComparisonPicture(titles, reliability)}
    if all(
        "risk_coverage" in _pooled(t, k) for m in models for t in m.trainings for k in of_errors
    ):
        found["risk_coverage"] = ComparisonPicture(of_errors, risk_coverage)
    summary = comparison.summary[models[0].name]
    for name, keys, metrics, words, scale in (
        ("volumes", foreground, ("volume_true_ml", "volume_expected_ml"), "volume, ml", 1),
        ("errors", of_errors, ("error_rate", "error_rate_expected"), "error rate, %", 100),
    ):
        # Results of an older version do not have all, and 2D images have no volume.
        if any(
            set(metrics) <= set(summary[key]) and summary[key][metrics[0]]["n"] for key in keys
        ) and all(set(metrics) <= set(summary[key]) for key in keys):
            found[name] = ComparisonPicture(keys, agreement(*metrics, words, scale))
    return found


def save_figure(figure: Figure, target: Path | IO[bytes], kind: str) -> None:
    """Write a figure as ``kind``, ``"png"`` or ``"svg"``; the same bytes every time."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "nnunet-meep"}):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(target, dpi=150, format=kind, metadata=metadata)


def merged_bins(parts: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Bins of the voxels of several results with the same edges."""
    count = np.array([part["count"] for part in parts], np.float64)
    total = count.sum(axis=0)
    merged: dict[str, list[float]] = {**parts[0], "count": total.tolist()}
    for name in ("mean_p", "mean_y"):
        mean = np.array([part[name] for part in parts], np.float64)  # None becomes NaN
        sums = np.where(count > 0, mean * count, 0).sum(axis=0)
        out = np.full(len(total), np.nan)
        merged[name] = np.divide(sums, total, out=out, where=total > 0).tolist()
    return merged


def _layer(model: Model, key: str, cases: Sequence[str], i: int) -> Layer:
    by_case = [{c["case"]: c for c in t["cases"]} for t in model.trainings]
    if not all("bins" in entries[case] for entries in by_case for case in cases):
        # Of an older version, which did not keep the bins of single cases.
        pooled = merged_bins([_pooled(t, key)["bins"] for t in model.trainings])
        return Layer(plain(model.name), pooled, color=color_of(i))
    edges = {"edges": _pooled(model.trainings[0], key)["bins"]["edges"]}
    per_case = [
        {**edges, **merged_bins([entries[case]["bins"][key] for entries in by_case])}
        for case in cases
    ]
    return Layer(plain(model.name), merged_bins(per_case), per_case, color_of(i))


def _mean_curve(curves: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    risk = np.array([curve["risk"] for curve in curves], np.float64)
    return {"coverage": curves[0]["coverage"], "risk": risk.mean(axis=0).tolist()}


def _pooled(training: dict[str, Any], key: str) -> dict[str, Any]:
    of_class = training[TOP_LABEL] if key == TOP_LABEL else training["classes"][key]
    return of_class["pooled"]


def _filled(bins: dict[str, list[float]]) -> tuple[list[float], list[float]]:
    """Mean p and mean y of the bins that hold voxels."""
    filled = [i for i, n in enumerate(bins["count"]) if n]
    return [bins["mean_p"][i] for i in filled], [bins["mean_y"][i] for i in filled]


def _diagonal(ax: Axes, label: str) -> None:
    if not ax.get_lines():
        ax.plot([0, 1], [0, 1], "--", color=_GREY, linewidth=1, label=label)


def _once(ax: Axes, label: str) -> str | None:
    """The label, unless something on these axes has it already."""
    return None if label in ax.get_legend_handles_labels()[1] else label


# Inches, and no layout engine: those take a minute for a hundred classes.
_PANEL_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 4.1, 0.75, 0.2, 0.1, 0.55
_DIAGRAM, _HISTOGRAM, _GAP = 3.15, 1.1, 0.15
_TITLE, _TITLE_LINE, _LEGEND_LINE, _LETTER = 0.35, 0.2, 0.2, 0.085
_TITLE_LETTER = 0.1
_COLUMNS = 4


def _panels(
    titles: Sequence[str], title: str, *, histograms: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """A figure and, for each panel, its square axes, and those of a histogram below if asked for.

    Below the panels there is room for the legend of :func:`_label_left_and_legend`.
    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(titles))
    rows = math.ceil(len(titles) / columns)
    heights = [_DIAGRAM, *([_HISTOGRAM] if histograms else [])]
    top = _TOP + _TITLE_LINE * (1 + max(text.count("\n") for text in titles))
    panel_height = top + sum(heights) + _GAP * (len(heights) - 1) + _BOTTOM
    width = columns * _PANEL_WIDTH
    title = "\n".join(textwrap.wrap(title, int(width / _TITLE_LETTER)))
    above = _TITLE + _TITLE_LINE * title.count("\n") if title else 0
    height = above + rows * panel_height
    figure = Figure(figsize=(width, height))
    figure.suptitle(plain(title), fontsize="medium", y=1 - 0.08 / height, va="top")
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


def _label_left_and_legend(figure: Figure, axes: Sequence[Sequence[Axes]]) -> None:
    """Name y axes where they differ from those to their left; one legend below the panels."""
    names = [[ax.get_ylabel() for ax in panel] for panel in axes]
    for i, panel in enumerate(axes):
        for ax, name, left in zip(panel, names[i], names[i - 1], strict=True):
            ax.set_ylabel("" if i % _COLUMNS and name == left else name)
    handles, labels = axes[0][0].get_legend_handles_labels()
    width, height = figure.get_size_inches()
    entry = 0.6 + _LETTER * max(map(len, labels))
    columns = max(1, min(len(labels), int(width / entry)))
    strip = 0.15 + _LEGEND_LINE * math.ceil(len(labels) / columns)
    # Make the figure taller by the strip and leave what is there where it is, in inches.
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
