"""Draw diagrams on given axes, with labels and without a legend.

Call a function again on the same axes, with another colour, to overlay models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nnunet_meep.errors import printable
from nnunet_meep.evaluation.metrics.calibration import reliability_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours by Okabe and Ito, and three by Paul Tol: colour-blind people can tell them apart.
BLUE, GREY = "#0072B2", "#7F7F7F"
COLORS = (
    *(BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#999933", "#332288"),
)

#: The same hues on a light and on a dark page, with a contrast of 3 or more to either.
PAGE_COLORS = (
    *(("#0072B2", "#4DA6DB"), ("#D55E00", "#F0803C"), ("#008A64", "#2DB58C")),
    *(("#BF6597", "#D98BB8"), ("#B07800", "#E69F00"), ("#2A89C0", "#7CC7F2")),
    *(("#222222", "#EEEEEE"), ("#882255", "#CF6496"), ("#85852B", "#B5B54A")),
    ("#332288", "#9A8EE8"),
)
#: The shapes of the models, for matplotlib and as an SVG path. Their number has no factor in common
#: with that of the colours, so that models which share one differ in the other.
MARKERS = (
    ("o", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z"),
    ("s", "M-3.6-3.6h7.2v7.2h-7.2Z"),
    ("D", "M0-5L5 0L0 5L-5 0Z"),
    ("^", "M0-5L4.6 3.4H-4.6Z"),
    ("v", "M0 5L4.6-3.4H-4.6Z"),
    ("P", "M-1.6-4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2Z"),
    ("X", "M0-2l3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3-3-3 2-2Z"),
)


_MOST_LETTERS = 100
#: Thin lines of more cases than these would hide everything else.
_MANY_CASES = 200
#: As shapes of an SVG, more points than these take long to show.
_MANY_POINTS = 1000


def color_of(i: int) -> str:
    """The colour of the i-th model."""
    return COLORS[i % len(COLORS)]


def line_of(i: int) -> str:
    """The line of the i-th model where points have no shape: models of one colour differ in it."""
    return ("-", "--", ":", "-.")[i // len(COLORS) % 4]


def marker_of(i: int) -> str:
    """The shape of the i-th model, as matplotlib names it."""
    return MARKERS[i % len(MARKERS)][0]


def plain(text: str) -> str:
    """Text with names in it that matplotlib shows literally, in lines of at most 100 letters.

    Not as a formula, not hidden in legends, and without signs that no font has.
    """
    lines = [shorten(printable(line)).replace("$", r"\$") for line in text.split("\n")]
    text = "\n".join(lines)
    return f" {text}" if text.startswith("_") else text


def shorten(name: str) -> str:
    """A name of at most 100 letters, for a place that has no room for more."""
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 3]}..."


def new_axes(*, square: bool = False) -> Axes:
    """Axes in a new figure that opens no window."""
    from matplotlib.figure import Figure

    aspect = "equal" if square else "auto"
    return Figure(figsize=(4.5, 4.5), layout="constrained").add_subplot(aspect=aspect)


def plot_reliability(
    ax: Axes,
    bins: dict[str, list[float]],
    *,
    per_case: Sequence[dict[str, list[float]]] = (),
    single_cases: bool = True,
    label: str = "all cases",
    color: str = BLUE,
    marker: str = "o",
) -> None:
    """Plot observed frequency against mean predicted probability for each bin that holds voxels.

    Args:
        ax: where to draw; call again with another colour to overlay models.
        bins: ``count``, ``mean_p``, ``mean_y`` as in ``calibration.json``.
        per_case: the same for each case; if there are several, a band shows the 95 % BCa bootstrap
            interval over cases of each bin's observed frequency.
        single_cases: also draw each case as a thin line behind, or with more than 200 cases every
            second one, third one and so on.
        label: legend entry of the pooled line.
        color: of everything but the diagonal.
        marker: shape of the points, as matplotlib names it.
    """
    _diagonal(ax, "perfectly calibrated")
    several = len(per_case) > 1
    if several and single_cases:
        _plot_single_cases(ax, per_case, color)
    p, y = _filled(bins)
    if several:
        low, high = reliability_band(per_case)
        filled = [n > 0 for n in bins["count"]]
        name = _once(ax, "95 % interval over cases")
        ax.fill_between(
            p, low[filled], high[filled], color=color, alpha=0.22, linewidth=0, label=name
        )
    style: dict[str, Any] = {"marker": marker, "markersize": 4, "linewidth": 1.4, "clip_on": False}
    ax.plot(p, y, color=color, label=label, **style)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set(xlabel="predicted probability", ylabel="observed frequency")


def _plot_single_cases(ax: Axes, per_case: Sequence[dict[str, list[float]]], color: str) -> None:
    """One artist for all of them, and not more of them than can be told apart."""
    from matplotlib.collections import LineCollection

    n_cases = len(per_case)
    chosen = range(n_cases)
    name = "single cases"
    if n_cases > _MANY_CASES:
        chosen = range(0, n_cases, math.ceil(n_cases / _MANY_CASES))
        name = f"{len(chosen)} of {n_cases} single cases"
    lines = LineCollection(
        [np.column_stack(_filled(per_case[i])) for i in chosen],
        colors=color,
        alpha=0.18,
        linewidths=0.6,
        label=_once(ax, name),
        zorder=1,
    )
    ax.add_collection(lines)


def plot_histogram(
    ax: Axes,
    bins: dict[str, list[float]],
    *,
    label: str = "all cases",
    color: str = GREY,
    fill: bool = True,
    of: str = "voxels",
) -> None:
    """Plot the fraction of voxels in each bin; on a log scale, as most voxels are background.

    Args:
        ax: where to draw; call again with ``fill=False`` to overlay models.
        bins: ``edges``, ``count`` as in ``calibration.json``.
        label, color: of the histogram.
        fill: draw filled bars instead of their outline.
        of: what is in the bins.
    """
    edges, count = bins["edges"], bins["count"]
    total = sum(count)
    ax.set(xlim=(0, 1), xlabel="predicted probability", ylabel=f"share of {of}")
    if not total:  # everything ignored: a log scale has nothing to show
        ax.text(0.5, 0.5, f"no {of}", ha="center", va="center", transform=ax.transAxes)
        return
    lowest = min(n for n in count if n) / total / 3
    if ax.get_yscale() == "log":
        lowest = min(lowest, ax.get_ylim()[0])
    ax.set_yscale("log")
    # Plain text, as in report.html: matplotlib's powers of ten take it 0.07 s to typeset.
    ax.yaxis.set_major_formatter(lambda y, _: decade(round(math.log10(y))))
    ax.yaxis.set_minor_formatter("")
    style: dict[str, Any] = {"edgecolor": "w"} if fill else {"linewidth": 1.4}
    # The baseline is below every axis limit, so that bars reach the axis whatever is drawn later.
    share = np.maximum(np.array(count) / total, 1e-12)
    ax.stairs(share, edges, baseline=1e-12, fill=fill, color=color, label=label, **style)
    ax.set_ylim(lowest, 1.5)


def decade(exponent: int) -> str:
    """A power of ten as a tick label: ``1``, ``1e-1``, ``1e-2``."""
    return f"1e{exponent}" if exponent else "1"


def plot_risk_coverage(
    ax: Axes,
    curve: dict[str, list[float]],
    *,
    label: str = "all cases",
    color: str = BLUE,
    linestyle: str = "-",
) -> None:
    """Plot the error rate of the remaining voxels if the least confident ones are left out.

    Args:
        ax: where to draw; call again with another colour to overlay models.
        curve: ``coverage``, ``risk`` as in ``calibration.json``.
        label, color, linestyle: of the line.
    """
    coverage, risk = np.array(curve["coverage"]), np.array(curve["risk"], np.float64)
    aside = 1 - coverage
    shown = aside > 0
    style: dict[str, Any] = {"color": color, "linestyle": linestyle, "linewidth": 1.4}
    ax.plot(100 * aside[shown], 100 * risk[shown], label=label, **style)
    ax.set_xscale("log")
    ax.set_xlim(100 * aside[shown].min(), 100)
    highest = max(np.nanmax(line.get_ydata(), initial=0.0) for line in ax.get_lines())
    ax.set_ylim(0, 1.05 * highest or 1.0)
    ax.set_xlabel("least sure voxels set aside, % (100 - coverage)")
    ax.set_ylabel("risk: error rate of the others, %")


def plot_case_risk(
    ax: Axes, risk: Sequence[float], *, label: str, color: str = BLUE, marker: str = "o"
) -> None:
    """Plot the mean risk of the cases that are kept if those of the lowest confidence are not.

    Args:
        ax: where to draw; call again with another colour to overlay models.
        risk: the mean 1 - Dice of the k most confident cases for each k, as in
            ``calibration.json``.
        label, color, marker: of the line; no markers of more than 200 cases.
    """
    kept = 100 * np.arange(1, len(risk) + 1) / max(len(risk), 1)
    style: dict[str, Any] = {"markersize": 3, "linewidth": 1.4}
    style["marker"] = marker if len(risk) <= _MANY_CASES else None
    ax.plot(kept, risk, color=color, label=label, **style)
    highest = max(np.nanmax(line.get_ydata(), initial=0.0) for line in ax.get_lines())
    ax.set(xlim=(0, 102), ylim=(0, 1.05 * highest or 1.0))
    ax.set_xlabel("cases kept, highest expected Dice first, %")
    ax.set_ylabel("risk: mean 1 - Dice of these")


def plot_froc(
    ax: Axes,
    curve: dict[str, list[float]],
    *,
    label: str = "all cases",
    color: str = BLUE,
    linestyle: str = "-",
) -> None:
    """Plot the share of the lesions that are found against false ones, as a threshold falls.

    The point at the end is the segmentation as it is, with all its lesions.

    Args:
        ax: where to draw; call again with another colour to overlay models.
        curve: ``false_positives``, ``sensitivity`` as in ``calibration.json``.
        label, color, linestyle: of the line.
    """
    x, y = [0.0, *curve["false_positives"]], [0.0, *curve["sensitivity"]]
    ax.plot(x, y, color=color, linestyle=linestyle, linewidth=1.4, label=label)
    ax.plot(x[-1:], y[-1:], "o", color=color, markersize=4, clip_on=False)
    highest = max(np.max(line.get_xdata()) for line in ax.get_lines())
    ax.set(xlim=(0, 1.05 * highest or 1.0), ylim=(0, 1))
    ax.set(xlabel="false lesions per scan", ylabel="share of the lesions found")


def plot_agreement(
    ax: Axes,
    actual: ArrayLike,
    expected: ArrayLike,
    *,
    label: str,
    color: str = BLUE,
    marker: str = "o",
) -> None:
    """Plot what the probabilities predict for each case against the true value, with the diagonal.

    Args:
        ax: where to draw; call again with another colour to overlay models.
        actual, expected: one value >= 0 for each case; NaN is left out. More than 1000 points are
            an image in an SVG.
        label, color, marker: of the points, which are open: those below others are seen.
    """
    if not ax.get_lines():
        ax.axline((0, 0), slope=1, ls="--", color=GREY, linewidth=1, label="expected = true")
    style: dict[str, Any] = {"markersize": 5, "markerfacecolor": "none", "markeredgewidth": 1.1}
    style["rasterized"] = np.size(actual) > _MANY_POINTS
    ax.plot(actual, expected, marker, color=color, label=label, **style)
    points = np.concatenate([line.get_xydata() for line in ax.get_lines()[1:]])
    if np.isfinite(points).any():
        low, high = np.nanmin(points), np.nanmax(points)
        margin = 0.05 * (high - low) or 0.05 * high or 1.0
        low = 0.0 if low < high / 3 else low - margin
        ax.set(xlim=(low, high + margin), ylim=(low, high + margin))
        ax.locator_params(nbins=6)


def _filled(bins: dict[str, list[float]]) -> tuple[list[float], list[float]]:
    """Mean p and mean y of the bins that hold voxels."""
    filled = [i for i, n in enumerate(bins["count"]) if n]
    return [bins["mean_p"][i] for i in filled], [bins["mean_y"][i] for i in filled]


def _diagonal(ax: Axes, label: str) -> None:
    if not ax.get_lines():
        ax.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label=label)


def _once(ax: Axes, label: str) -> str | None:
    """The label, or None if these axes have it already: the legend shows it once."""
    return None if label in ax.get_legend_handles_labels()[1] else label
