"""The output of fitting thresholds or volume intervals: files, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_meep.evaluation.notes import counted, fold_notes
from nnunet_meep.evaluation.report.figures import label_left_and_legend, panels_of
from nnunet_meep.evaluation.report.plots import BLUE, COLORS, GREY, plot_agreement
from nnunet_meep.evaluation.report.tables import text_table
from nnunet_meep.nnunet_files.derived import THRESHOLD, VOLUME
from nnunet_meep.posthoc.calibrator import Calibrator
from nnunet_meep.posthoc.conformal import rank_of_bound
from nnunet_meep.posthoc.fit_derived import DerivedFit
from nnunet_meep.posthoc.report import cross_fitted, unknown_network, write_with_picture
from nnunet_meep.posthoc.thresholds import HALF, THRESHOLDS, ThresholdFit
from nnunet_meep.posthoc.volumes import VolumeFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What both kinds of bounds promise, and what they do not.
_MARGINAL = """\
That holds on average over validation sets and further cases of the same kind (exchangeable
ones: the same scanners and patients, predicted by the same network), not for each case."""
#: The largest errors, of few cases: a width that is one of them is said to be uncertain.
_LARGEST = {1: "largest", 2: "second largest", 3: "third largest"}


def write(fit: DerivedFit, path: Path) -> list[Path]:
    """Write ``calibrator.json`` and a PNG of what it was fitted to.

    For thresholds, Dice and false-negative rate against the threshold; for intervals, expected
    against true volumes.

    Returns:
        The paths of both files.

    Raises:
        OSError: a file cannot be written.
    """
    titles = [f"{c.name} (label {key})" for key, c in fit.classes.items()]
    figure, axes = panels_of(titles, _title(fit))
    for (ax,), of_class in zip(axes, fit.classes.values(), strict=True):
        if isinstance(of_class, ThresholdFit):
            _plot_thresholds(ax, of_class)
        else:
            _plot_volumes(ax, of_class)
    label_left_and_legend(figure, axes)
    return write_with_picture(fit.calibrator, figure, path)


def table(fit: DerivedFit) -> str:
    """A table for the terminal, with what it means below."""
    is_threshold = fit.calibrator.method == THRESHOLD
    body = _of_thresholds(fit) if is_threshold else _of_volumes(fit)
    lines = [_title(fit), "", *body]
    for key, reason in fit.calibrator.reasons.items():
        of_class = fit.classes[key]
        instead = "no interval"
        if isinstance(of_class, ThresholdFit):
            alone = of_class.chosen == HALF
            instead = "its threshold stays at 1/2" if alone else "the threshold of the others"
        lines.append(f"{of_class.name}: {instead}: {reason}")
    if fit.n_twice:
        has_bound = fit.calibrator.method == VOLUME or _rate(fit) is not None
        lines.append(
            f"Note: the calibrator before was fitted to {fit.n_twice} of these cases, too, and is "
            f"a little worse on others"
            + ";\nfor a strict bound fit the two to different cases"
            * has_bound
        )
    lines += [f"Note: {line}" for line in fold_notes(fit.incomplete_folds)]
    lines += [*_several_networks(fit.calibrator), *cross_fitted(fit.calibrator)]
    return "\n".join([*lines, *unknown_network(fit.calibrator)])


def _several_networks(calibrator: Calibrator) -> list[str]:
    """A line if a bound for one network was fitted to the predictions of several."""
    network, thresholds = calibrator.network, calibrator.thresholds
    has_bound = calibrator.method == VOLUME or (thresholds is not None and thresholds.fnr)
    if not has_bound or network.averaged or len(network.folds) < 2:
        return []
    return [
        f"Note: these cases were predicted by the networks of {len(network.folds)} folds; for "
        f"cases that one of them predicts,\nthe bound is only an approximation"
    ]


def _title(fit: DerivedFit) -> str:
    methods = " after ".join(step.method for step in reversed(fit.calibrator.steps))
    return f"{methods}, fitted on {counted(_n_cases(fit), 'case')}, {_goal(fit)}"


def _goal(fit: DerivedFit) -> str:
    if (intervals := fit.calibrator.intervals) is not None and fit.calibrator.method != THRESHOLD:
        return f"intervals of {100 * intervals.coverage:g} %"
    rate = _rate(fit)
    if rate is None:
        return "best mean Dice"
    return f"false-negative rate at most {100 * rate:g} %"


def _rate(fit: DerivedFit) -> float | None:
    """The false-negative rate that thresholds keep; None: those of the best mean Dice, or none."""
    thresholds = fit.calibrator.thresholds
    return None if thresholds is None else thresholds.fnr


def _n_cases(fit: DerivedFit) -> int:
    return int(fit.calibrator.fitted_on["n_cases"])


def _of_volumes(fit: DerivedFit) -> list[str]:
    intervals = fit.calibrator.intervals
    assert intervals is not None
    rows = [["class", "cases", "mean error %", "largest %", "interval"]]
    for key, c in fit.classes.items():
        if isinstance(c, VolumeFit) and c.half_width is not None:
            errors = [f"{100 * e:.1f}" for e in (c.scores.mean(), c.scores.max())]
            wide = f"expected volume +- {100 * c.half_width:.1f} %"
            rows.append([f"{key} {c.name}", str(len(c.scores)), *errors, wide])
    lines = [
        text_table(rows, n_left=1),
        f"{100 * intervals.coverage:g} % of the intervals are to contain the true volume.",
        _MARGINAL,
    ]
    n = min(int(row[1]) for row in rows[1:])
    if which := _LARGEST.get(n + 1 - rank_of_bound(n, intervals.coverage)):
        lines.append(
            f"Note: {counted(n, 'case')} {'is' if n == 1 else 'are'} few: half the width is the "
            f"{which} error among them; with more cases it is\nmore certain, and often smaller"
        )
    return lines


def _of_thresholds(fit: DerivedFit) -> list[str]:
    rows = [
        ["class", "threshold", "cases with it", "Dice, nnU-Net", "Dice", "FNR %, nnU-Net", "FNR %"],
    ]
    for key, c in fit.classes.items():
        if isinstance(c, ThresholdFit):
            numbers = [f"{dice:.3f}" for dice in (c.nnunet_dice, c.dice[c.chosen])]
            numbers += [f"{100 * fnr:.1f}" for fnr in (c.nnunet_fnr, c.fnr[c.chosen])]
            numbers = numbers if c.n_with else ["-"] * len(numbers)
            rows.append([f"{key} {c.name}", f"{c.threshold:.4g}", str(c.n_with), *numbers])
    lines = [text_table(rows, n_left=1), "nnU-Net: of its own segmentation, without thresholds."]
    n = _n_cases(fit)
    without = [c for c in fit.classes.values() if isinstance(c, ThresholdFit) and 0 < c.n_with < n]
    for c in without:
        lines.append(
            f"{c.name}: {counted(n - c.n_with, 'reference')} without it, not counted for Dice and "
            f"false-negative rate"
        )
    labels = fit.calibrator.labels
    exclude_each_other = not labels.is_region_based and len(labels.classes) > 1
    rate = _rate(fit)
    inside_each_other = labels.is_region_based and len(labels.classes) > 1
    if rate is None or inside_each_other:
        lines.append(
            "Dice and FNR are those of each class on its own: where its probability is above the "
            "threshold."
        )
    if exclude_each_other and rate is None:
        lines.append(
            "Where several are above theirs, one wins: meep-calib-eval computes Dice and FNR of "
            "that segmentation."
        )
    elif inside_each_other:
        lines.append(
            "A region also gets what is written as one inside it: meep-calib-eval computes Dice "
            "and FNR of that\nsegmentation."
        )
    if rate is None:
        return lines
    if exclude_each_other:
        lines.append(
            "The classes exclude each other: all have the same threshold, the lowest that one "
            "of them needs."
        )
    elif exclusive := _not_nested(fit):
        lines.append(
            f"Note: {exclusive[1]} is not inside {exclusive[0]}: where both are above their "
            f"thresholds,\nthe later one is written, and the rate of the other may be larger"
        )
    lines.append(
        f"{100 * rate:g} % of the voxels of a class at most are to be missed, on average "
        f"over cases that have it."
    )
    return [*lines, _MARGINAL]


def _not_nested(fit: DerivedFit) -> tuple[str, ...]:
    """The names of two regions of which the later one is not inside the earlier one, if any are."""
    labels = fit.calibrator.labels
    members = [set(labels.members(i)) for i in range(len(labels.classes))]
    pairs: Iterable[tuple[int, int]] = (
        (i, j) for j in range(len(members)) for i in range(j) if not members[j] <= members[i]
    )
    return next(((labels.names[i], labels.names[j]) for i, j in pairs), ())


def _plot_thresholds(ax: Axes, fit: ThresholdFit) -> None:
    low, high = min(0.01, fit.threshold / 3), max(0.99, 1 - (1 - fit.threshold) / 3)
    shown = slice(*np.searchsorted(THRESHOLDS, [low, high]))
    for curve, label, color in (
        (fit.dice, "mean Dice", BLUE),
        (fit.fnr, "mean false-negative rate", COLORS[1]),
    ):
        ax.plot(THRESHOLDS[shown], curve[shown], color=color, linewidth=1.4, label=label)
    ax.axvline(0.5, ls="--", color=GREY, linewidth=1, label="1/2")
    ax.axvline(fit.threshold, color=COLORS[2], linewidth=1.4, label="threshold")
    ax.set_xscale("logit")
    decades = 10.0 ** np.arange(-10, 0)
    ticks = [t for t in (*decades, 0.5, *(1 - decades[::-1])) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set(xlim=(low, high), ylim=(0, 1), xlabel="threshold", ylabel="mean over cases")


def _plot_volumes(ax: Axes, fit: VolumeFit) -> None:
    plot_agreement(ax, fit.true, fit.expected, label="validation cases")
    if fit.half_width is not None:
        expected = np.linspace(0, 2 * max(fit.expected.max(), fit.true.max(), 1), 200)
        low, high = (np.maximum(expected * (1 + s * fit.half_width), 0) for s in (-1, 1))
        limits = ax.get_xlim()
        ax.fill_betweenx(expected, low, high, color=BLUE, alpha=0.15, linewidth=0, label="interval")
        ax.set(xlim=limits, ylim=limits)
    ax.set(xlabel="true volume, voxels", ylabel="expected volume, voxels")
