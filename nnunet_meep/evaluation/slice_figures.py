"""Slices of a case as pictures: image, probability, errors and entropy of each model (the MEEP
paper's Fig. 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.slices import CaseSlice, ModelSlice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

#: Colours of Okabe and Ito.
_REFERENCE, _SEGMENTED = "#E69F00", "#56B4E9"
_MISSED, _ADDED, _OTHER = "#0072B2", "#D55E00", "#999999"
#: Around what is shown, in mm.
_MARGIN_MM = 15.0
_CELL_INCHES = 2.6


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
    """Voxels that miss the class, that wrongly have it, and that mistake other classes."""
    from matplotlib.colors import ListedColormap

    missed = of_model.wrong & cut.reference & ~of_model.segmented
    added = of_model.wrong & of_model.segmented & ~cut.reference
    kind = np.where(missed, 1, np.where(added, 2, np.where(of_model.wrong, 3, 0)))
    colors = ListedColormap(["white", _MISSED, _ADDED, _OTHER])
    ax.imshow(kind, cmap=colors, vmin=0, vmax=3, **_placed(cut))
    _outline(ax, cut, cut.reference, color=_REFERENCE)


def plot_entropy(ax: Axes, cut: CaseSlice, of_model: ModelSlice) -> AxesImage:
    """The entropy in shares of the most there can be, with the outline of the reference."""
    shown = ax.imshow(of_model.entropy, cmap="magma", vmin=0, vmax=1, **_placed(cut))
    _outline(ax, cut, cut.reference, color=_REFERENCE)
    return shown


def slices_figure(cut: CaseSlice, dice: dict[str, float]) -> Figure:
    """A row for each model: image (if there is one), probability, errors, entropy.

    Args:
        cut: the slice.
        dice: of the shown class in the whole case, by model; NaN is not shown.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = [f"probability of {cut.class_name}", "errors", "entropy, share of the maximum"]
    if cut.image is not None:
        names.insert(0, cut.image_name)
    rows, columns = len(cut.models), len(names)
    box = _shown(cut)
    height_mm, width_mm = abs(box[2] - box[3]), box[1] - box[0]
    cell_height = _CELL_INCHES * min(height_mm / width_mm, 1.6)
    figure = Figure(
        figsize=(columns * _CELL_INCHES, rows * cell_height + 1.6), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    maps: dict[int, AxesImage] = {}
    for row, of_model in zip(axes, cut.models, strict=True):
        if cut.image is not None:
            plot_image(row[0], cut, of_model)
        maps[columns - 3] = plot_probability(row[-3], cut, of_model)
        plot_errors(row[-2], cut, of_model)
        maps[columns - 1] = plot_entropy(row[-1], cut, of_model)
        for ax in row:
            ax.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[])
        value = dice.get(of_model.model, np.nan)
        row[0].set_ylabel(of_model.model + ("" if np.isnan(value) else f"\nDice {value:.3f}"))
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name, fontsize="medium")
    for column, shown in maps.items():
        figure.colorbar(shown, ax=axes[:, column], location="bottom", shrink=0.8, aspect=30)
    figure.suptitle(f"{cut.case}, {cut.class_name}, {cut.plane}", fontsize="medium")
    entries: list[Any] = [Line2D([], [], color=_REFERENCE, label="reference")]
    if cut.image is not None:
        entries.append(Line2D([], [], color=_SEGMENTED, ls="--", label="segmentation"))
    entries += [Patch(color=_MISSED, label="missed"), Patch(color=_ADDED, label="wrongly there")]
    others = [m.wrong & (m.segmented == cut.reference) for m in cut.models]
    if np.any(others):
        entries.append(Patch(color=_OTHER, label="other classes mistaken"))
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=len(entries) if columns > 3 else 3,
        frameon=False,
        fontsize="small",
    )
    return figure


def _placed(cut: CaseSlice) -> dict[str, Any]:
    """Axes in mm from the upper left corner."""
    height, width = cut.reference.shape
    extent = (0, width * cut.voxel_mm[1], height * cut.voxel_mm[0], 0)
    return {"extent": extent, "interpolation": "nearest"}


def _outline(ax: Axes, cut: CaseSlice, mask: NDArray[np.bool_], **style: Any) -> None:
    if not mask.any() or mask.all():
        return  # has none, and matplotlib would warn
    # Through the middles of the voxels, with a border so that outlines close at the image's end.
    padded = np.pad(mask, 1).astype(np.float32)
    height_mm, width_mm = cut.voxel_mm
    y = (np.arange(padded.shape[0]) - 0.5) * height_mm
    x = (np.arange(padded.shape[1]) - 0.5) * width_mm
    ax.contour(x, y, padded, levels=[0.5], colors=[style.pop("color")], linewidths=1.2, **style)


def _shown(cut: CaseSlice) -> tuple[float, float, float, float]:
    """The part with the class: left, right, bottom, top in mm from the upper left corner."""
    anywhere = cut.reference | np.any([m.segmented for m in cut.models], axis=0)
    ends = []
    for axis, mm in enumerate(cut.voxel_mm):
        n = anywhere.shape[axis]
        filled = np.flatnonzero(anywhere.any(axis=1 - axis))
        first, last = (filled[0], filled[-1]) if len(filled) else (0, n)
        ends.append((max(first * mm - _MARGIN_MM, 0), min((last + 1) * mm + _MARGIN_MM, n * mm)))
    (top, bottom), (left, right) = ends
    return left, right, bottom, top
