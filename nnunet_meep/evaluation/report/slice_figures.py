"""Draw a slice of a case: image, probability, errors and entropy of each model.

As in Fig. 1 and 2 of the MEEP paper.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.report.plots import plain, shorten
from nnunet_meep.evaluation.report.slices import CaseSlice, ModelSlice, error_kinds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

#: Colours by Okabe and Ito.
_REFERENCE, _SEGMENTED = "#E69F00", "#56B4E9"
#: By the kinds of :func:`.error_kinds`; none is the colour of one of the first models.
ERROR_COLORS = ("#FFFFFF", "#6A3D9A", "#D4B000", "#999999")
#: Margin around the class.
_MARGIN_MM = 15.0
#: In inches. A layout engine would shift the columns with a colour bar against the others.
_CELL, _GAP, _LEFT, _RIGHT, _TOP, _BAR, _LEGEND = 2.6, 0.1, 0.75, 0.15, 0.6, 0.5, 0.35
_LETTER = 0.085


def plot_image(ax: Axes, cut: CaseSlice, of_model: ModelSlice) -> None:
    """The image with the outlines of the reference (solid) and the segmentation (dashed)."""
    assert cut.image is not None
    window = np.percentile(cut.image, [1, 99.5])
    ax.imshow(cut.image, cmap="gray", vmin=window[0], vmax=window[1], **_placed(cut))
    _outline(ax, cut, of_model.segmented, color=_SEGMENTED, linestyles="dashed")
    _outline(ax, cut, cut.reference, color=_REFERENCE)


def plot_probability(ax: Axes, cut: CaseSlice, of_model: ModelSlice) -> AxesImage:
    """The probability of the shown class, with the outline of the reference."""
    shown = ax.imshow(of_model.probability, cmap="viridis", vmin=0, vmax=1, **_placed(cut))
    _outline(ax, cut, cut.reference, color=_REFERENCE)
    return shown


def plot_errors(ax: Axes, cut: CaseSlice, of_model: ModelSlice) -> None:
    """Voxels where the class was missed, wrongly predicted, or other classes were confused."""
    from matplotlib.colors import ListedColormap

    kind = error_kinds(cut.reference, of_model)
    ax.imshow(kind, cmap=ListedColormap(ERROR_COLORS), vmin=0, vmax=3, **_placed(cut))
    _outline(ax, cut, cut.reference, color=_REFERENCE)


def plot_entropy(ax: Axes, cut: CaseSlice, of_model: ModelSlice) -> AxesImage:
    """The entropy divided by its maximum, with the outline of the reference."""
    shown = ax.imshow(of_model.entropy, cmap="magma", vmin=0, vmax=1, **_placed(cut))
    _outline(ax, cut, cut.reference, color=_REFERENCE)
    return shown


def slices_figure(cut: CaseSlice, dice: dict[str, float]) -> Figure:
    """A row for each model: image (if there is one), probability, errors, entropy.

    Args:
        cut: the slice.
        dice: by model, Dice of the shown class in the whole case; NaN is not shown.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = [plain(f"probability of {cut.class_name}"), "errors", "entropy, share of the maximum"]
    if cut.image is not None:
        names.insert(0, plain(cut.image_name))
    rows, columns = len(cut.models), len(names)
    box = shown_part(cut)
    cell_height = _CELL * min((box[2] - box[3]) / (box[1] - box[0]), 1.6)
    width = _LEFT + columns * (_CELL + _GAP) - _GAP + _RIGHT
    height = _TOP + rows * (cell_height + _GAP) + _BAR + _LEGEND
    figure = Figure(figsize=(width, height))

    def add_axes(column: int, y: float, inches: float) -> Axes:
        x = _LEFT + column * (_CELL + _GAP)
        return figure.add_axes((x / width, y / height, _CELL / width, inches / height))

    maps: dict[int, AxesImage] = {}
    for row, of_model in enumerate(cut.models):
        y = height - _TOP - (row + 1) * (cell_height + _GAP) + _GAP
        axes = [add_axes(column, y, cell_height) for column in range(columns)]
        if cut.image is not None:
            plot_image(axes[0], cut, of_model)
        maps[columns - 3] = plot_probability(axes[-3], cut, of_model)
        plot_errors(axes[-2], cut, of_model)
        maps[columns - 1] = plot_entropy(axes[-1], cut, of_model)
        for ax, name in zip(axes, names, strict=True):
            ax.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[])
            if row == 0:
                ax.set_title(name, fontsize="medium")
        value = dice.get(of_model.model, np.nan)
        label = plain(textwrap.fill(shorten(of_model.model), max(int(cell_height / _LETTER), 8)))
        label += "" if np.isnan(value) else f"\nDice of the case {value:.3f}"
        axes[0].set_ylabel(label, fontsize="small")
    for column, shown in maps.items():
        bar = add_axes(column, _LEGEND + 0.3, 0.1)
        figure.colorbar(shown, cax=bar, orientation="horizontal")
        bar.tick_params(labelsize="small")
    title = plain(f"{cut.case}, {cut.class_name}, {cut.plane}")
    figure.suptitle(title, fontsize="medium", y=1 - 0.08 / height, va="top")
    entries: list[Any] = [Line2D([], [], color=_REFERENCE, label="reference")]
    if cut.image is not None:
        entries.append(Line2D([], [], color=_SEGMENTED, ls="--", label="segmentation"))
    _, missed, added, other = ERROR_COLORS
    entries += [Patch(color=missed, label="missed"), Patch(color=added, label="wrongly there")]
    others = [m.wrong & (m.segmented == cut.reference) for m in cut.models]
    if np.any(others):
        entries.append(Patch(color=other, label="other classes mistaken"))
    figure.legend(
        handles=entries,
        loc="lower center",
        ncols=len(entries),
        frameon=False,
        fontsize="small",
    )
    return figure


def _placed(cut: CaseSlice) -> dict[str, Any]:
    """Image options that put the axes in mm from the upper left corner."""
    height, width = cut.reference.shape
    extent = (0, width * cut.voxel_mm[1], height * cut.voxel_mm[0], 0)
    return {"extent": extent, "interpolation": "nearest"}


def _outline(ax: Axes, cut: CaseSlice, mask: NDArray[np.bool_], **style: Any) -> None:
    if not mask.any():
        return  # matplotlib would warn that there is no outline
    # Voxel centres are the grid; the padding lets outlines close at the image border.
    padded = np.pad(mask, 1).astype(np.float32)
    height_mm, width_mm = cut.voxel_mm
    y = (np.arange(padded.shape[0]) - 0.5) * height_mm
    x = (np.arange(padded.shape[1]) - 0.5) * width_mm
    ax.contour(x, y, padded, levels=[0.5], colors=[style.pop("color")], linewidths=1.2, **style)


def shown_part(cut: CaseSlice) -> tuple[float, float, float, float]:
    """The part to show, around the class: left, right, bottom, top in mm from the upper left."""
    anywhere = cut.reference | np.any([m.segmented for m in cut.models], axis=0)
    ends = []
    for axis, mm in enumerate(cut.voxel_mm):
        n = anywhere.shape[axis]
        filled = np.flatnonzero(anywhere.any(axis=1 - axis))
        first, last = (filled[0], filled[-1]) if len(filled) else (0, n)
        ends.append((max(first * mm - _MARGIN_MM, 0), min((last + 1) * mm + _MARGIN_MM, n * mm)))
    (top, bottom), (left, right) = ends
    return left, right, bottom, top
