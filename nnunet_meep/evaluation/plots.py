"""Pictures of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nnunet_meep.evaluation.compare import TOP_LABEL, Comparison, Model
from nnunet_meep.evaluation.metrics import reliability_band
from nnunet_meep.evaluation.regions import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind people as well.
_BLUE, _GREY = "#0072B2", "#7F7F7F"
COLORS = (_BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def reliability_figure(
    classes: dict[str, dict[str, Any]],
    title: str,
    per_case: dict[str, list[dict[str, list[float]]]],
    columns: int = 4,
) -> Figure:
    """Reliability diagram and histogram of each class, over the voxels of all cases.

    Args:
        classes: ``classes`` of a ``calibration.json``.
        title: which voxels these are.
        per_case: for each class the bins of the single cases.
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
        plot_reliability(diagram, entry["pooled"]["bins"], per_case=per_case[key])
        plot_histogram(histogram, entry["pooled"]["bins"])
        ece = entry["pooled"]["ece"]
        diagram.set_title(f"{entry['name']} (label {key})\npooled ECE {ece:.3g}")
        diagram.set(xlabel="", ylabel="")
        diagram.tick_params(labelbottom=False)
        histogram.set_xlabel(f"predicted probability of {entry['name']}")
        if column == 0:
            diagram.set_ylabel("observed frequency")
            histogram.set_ylabel("share of voxels")
    return figure


def new_axes() -> Axes:
    """Axes of a figure of their own, which belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(4.5, 4.5), layout="constrained").add_subplot(aspect="equal")


def plot_reliability(
    ax: Axes,
    bins: dict[str, list[float]],
    *,
    per_case: Sequence[dict[str, list[float]]] = (),
    label: str = "all cases",
    color: str = _BLUE,
) -> None:
    """Observed frequency against mean predicted probability of each bin that holds voxels.

    Args:
        ax: where to draw; call it again with other colours to lay models over each other.
        bins: ``edges``, ``count``, ``mean_p``, ``mean_y`` as in ``calibration.json``.
        per_case: the same of the single cases; drawn as thin lines behind, with a band that holds
            95 % of the pooled lines of bootstrapped cases.
        label: of the pooled line.
        color: of all but the diagonal.
    """
    if not ax.get_legend():
        ax.plot([0, 1], [0, 1], "--", color=_GREY, linewidth=1, label="perfectly calibrated")
    for i, case in enumerate(per_case if len(per_case) > 1 else ()):
        p, y = _filled(case)
        # One of them in the legend is enough.
        name = "single cases" if i == 0 else None
        ax.plot(p, y, color=color, alpha=0.18, linewidth=0.6, label=name, zorder=1)
    p, y = _filled(bins)
    if len(per_case) > 1:
        low, high = reliability_band(per_case)
        filled = [n > 0 for n in bins["count"]]
        ax.fill_between(
            p,
            low[filled],
            high[filled],
            color=color,
            alpha=0.25,
            linewidth=0,
            label="95 % interval over cases",
        )
    ax.plot(p, y, "o-", color=color, markersize=4, linewidth=1.4, label=label, clip_on=False)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set(xlabel="predicted probability", ylabel="observed frequency")
    ax.legend(loc="best", frameon=False, fontsize="small")


def _filled(bins: dict[str, list[float]]) -> tuple[list[float], list[float]]:
    """Mean p and mean y of the bins that hold voxels."""
    filled = [i for i, n in enumerate(bins["count"]) if n]
    return [bins["mean_p"][i] for i in filled], [bins["mean_y"][i] for i in filled]


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


def plot_agreement(
    ax: Axes,
    actual: ArrayLike,
    expected: ArrayLike,
    *,
    label: str,
    color: str = _BLUE,
) -> None:
    """What the probabilities expect of each case against what is true, with the diagonal.

    Args:
        ax: where to draw; call it again with other colours to lay models over each other.
        actual, expected: one value for each case; NaN is left out.
        label: of the points.
        color: of the points.
    """
    if not ax.get_legend():
        ax.axline((0, 0), slope=1, ls="--", color=_GREY, linewidth=1, label="as expected")
    ax.plot(actual, expected, "o", color=color, markersize=4, alpha=0.6, label=label)
    points = np.concatenate([line.get_xydata() for line in ax.get_lines()[1:]])
    if np.isfinite(points).any():
        limit = 1.05 * np.nanmax(points)
        ax.set(xlim=(0, limit), ylim=(0, limit))
    ax.legend(loc="best", frameon=False, fontsize="small")


def comparison_figures(models: Sequence[Model], comparison: Comparison) -> dict[str, Figure]:
    """Models laid over each other, a panel for each class.

    Args:
        models: what was compared.
        comparison: over which cases.

    Returns:
        ``reliability``: pooled over all cases of a model and over its trainings; ``volumes``:
        expected against true volume of each case; ``errors``: expected against actual error rate
        of each case. Those without numbers are left out.
    """
    figures: dict[str, Any] = {}
    panels = _panels(comparison, comparison.classes)
    for i, model in enumerate(models):
        for key, ax in panels.items():
            pooled = [_entry(t, key)["pooled"]["bins"] for t in model.trainings]
            plot_reliability(
                ax, merged_bins(pooled), label=model.name, color=COLORS[i % len(COLORS)]
            )
    if TOP_LABEL in panels:
        panels[TOP_LABEL].set(xlabel="largest probability", ylabel="share of right voxels")
    figures["reliability"] = next(iter(panels.values())).figure

    foreground = {k: n for k, n in comparison.classes.items() if k != TOP_LABEL}
    with_errors = {TOP_LABEL: "all classes"} if TOP_LABEL in comparison.classes else foreground
    for name, keys, words, unit, actual, expected in (
        ("volumes", foreground, "volume", "ml", "volume_true_ml", "volume_expected_ml"),
        (
            "errors",
            with_errors,
            "error rate",
            "share of voxels",
            "error_rate",
            "error_rate_expected",
        ),
    ):
        there = comparison.summary[models[0].name]
        if not all({actual, expected} <= set(there[key]) for key in keys):
            continue  # evaluated by a version that did not have them
        panels = _panels(comparison, keys)
        for i, model in enumerate(models):
            for key, ax in panels.items():
                x, y = (model.values(comparison.cases, key, m) for m in (actual, expected))
                plot_agreement(ax, x, y, label=model.name, color=COLORS[i % len(COLORS)])
                ax.set(xlabel=f"true {words}, {unit}", ylabel=f"expected {words}, {unit}")
        figures[name] = next(iter(panels.values())).figure
    return figures


def merged_bins(parts: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Bins of the voxels of several results with the same edges."""
    count = np.array([part["count"] for part in parts], np.float64)
    total = count.sum(axis=0)
    merged: dict[str, list[float]] = {"edges": parts[0]["edges"], "count": total.tolist()}
    for name in ("mean_p", "mean_y"):
        mean = np.array([part[name] for part in parts], np.float64)  # None becomes NaN
        sums = np.where(count > 0, mean * count, 0).sum(axis=0)
        out = np.full(len(total), np.nan)
        merged[name] = np.divide(sums, total, out=out, where=total > 0).tolist()
    return merged


def _panels(comparison: Comparison, keys: dict[str, str], columns: int = 4) -> dict[str, Axes]:
    """Axes for each class in one figure; keys: names."""
    from matplotlib.figure import Figure

    columns = min(columns, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(4.2 * columns, 4.3 * rows + 0.3), layout="constrained")
    n = len(comparison.cases)
    title = f"{describe(comparison.region)}, {n} case{'s' * (n != 1)}"
    figure.suptitle(title, fontsize="medium")
    panels = {}
    for i, (key, name) in enumerate(keys.items()):
        panels[key] = figure.add_subplot(rows, columns, i + 1)
        panels[key].set_title("all classes" if key == TOP_LABEL else f"{name} (label {key})")
    return panels


def _entry(training: dict[str, Any], key: str) -> dict[str, Any]:
    return training[TOP_LABEL] if key == TOP_LABEL else training["classes"][key]
