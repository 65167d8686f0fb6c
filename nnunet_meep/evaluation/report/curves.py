"""The curves of several trainings, laid over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.report.figures import label_left_and_legend, panels_of
from nnunet_meep.evaluation.report.plots import GREY, color_of, line_of, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Key of a curve: title of its panel.
TITLES = {
    "loss": "segmentation loss (training patches)",
    "dice": "pseudo Dice (validation patches)",
    "lambda": "lambda, the weight of the term",
    "unexpected_errors": "share of unexpected errors (average)",
}
#: Key of a curve: what it is.
MEANINGS = {
    "loss": "Mean over the training patches of an epoch, without the term.",
    "dice": "nnU-Net's own estimate of Dice during the training, over voxels of random validation "
    "patches: for a look at the training, not for comparisons.",
    "lambda": "How strongly the term counts beside the segmentation loss.",
    "unexpected_errors": "1 - expected / actual errors on validation patches, averaged over the "
    "latest epochs. Near 1 the network expects none of its errors (overconfident); at 0 as many "
    "as it makes; below 0 more than it makes (underconfident).",
}


def curves_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "") -> Figure:
    """One panel for each kind of curve that any training has; in it a line for each training.

    Trainings of one model have one colour. If the trainings have different numbers of epochs, they
    are drawn over the share of those that each has logged; one that has not ended is stretched.

    Args:
        curves: by model, its trainings: ``{"name": str, "values": {key of TITLES: one number for
            each epoch}}``. NaN leaves a gap; names and other keys are not drawn.
        title: of the figure.

    Raises:
        ValueError: no training has a value.
    """
    trainings = [
        ({"color": color_of(i), "linestyle": line_of(i)}, _to_draw(training["values"]))
        for i, model in enumerate(curves)
        for training in curves[model]
    ]
    keys = [key for key in TITLES if any(key in values for _, values in trainings)]
    if not keys:
        raise ValueError(f"curves: expected a training with values of {', '.join(TITLES)}")
    as_share = len({len(v) for _, values in trainings for v in values.values()}) > 1

    figure, axes = panels_of([TITLES[key] for key in keys], title)
    for (ax,), key in zip(axes, keys, strict=True):
        for style, values in trainings:
            if key in values:
                _plot(ax, values[key], style, as_share=as_share)
        ax.set_xlabel("share of the logged epochs, %" if as_share else "epoch")
        if key == "unexpected_errors":
            _mark_sides(ax, [values[key][-1] for _, values in trainings if key in values])
        elif key != "loss":
            ax.set_ylim(bottom=0)
    for i, model in enumerate(curves):
        axes[0][0].plot([], [], color=color_of(i), linestyle=line_of(i), label=plain(model))
    label_left_and_legend(figure, axes)
    return figure


def _to_draw(values: Mapping[str, Sequence[float]]) -> dict[str, NDArray[np.float64]]:
    arrays = {key: np.asarray(values[key], np.float64) for key in TITLES if key in values}
    return {key: array for key, array in arrays.items() if np.isfinite(array).any()}


def _plot(ax: Axes, values: NDArray[np.float64], style: dict[str, Any], *, as_share: bool) -> None:
    epochs = np.arange(len(values))
    x = 100 * (epochs + 1) / len(values) if as_share else epochs
    marker = "o" if len(values) == 1 else None  # a line needs two
    ax.plot(x, values, alpha=0.8, linewidth=1.2, marker=marker, markersize=4, **style)


def _mark_sides(ax: Axes, last: Sequence[float]) -> None:
    """Say which side of 0 is which, with the last shares in sight.

    Shares of early epochs may be far below 0; there the line leaves the panel.
    """
    ax.set_ylim(np.nanmin([-1.0, *last]) - 0.05, 1.05)
    ax.axhline(0, ls="--", color=GREY, linewidth=1)
    for text, y, beside in (("overconfident", 0.97, "top"), ("underconfident", 0.03, "bottom")):
        style: dict[str, Any] = {"color": GREY, "fontsize": "small", "ha": "right", "va": beside}
        ax.text(0.98, y, text, transform=ax.transAxes, **style)
