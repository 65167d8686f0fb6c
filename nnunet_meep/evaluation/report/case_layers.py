"""The slices of a case as layers for the page: images, and outlines that can be switched off.

Images are WebP, outlines are paths of an SVG in the same coordinates: voxels from the upper left
corner of what is shown.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image, ImageColor

from nnunet_meep.evaluation.report.slice_figures import ERROR_COLORS, shown_part
from nnunet_meep.evaluation.report.slices import CaseSlice, ModelSlice, error_kinds

#: Longer sides are shown with every second, third, ... voxel.
MOST_VOXELS = 256
#: Fewer shades than a byte has: half the bytes, and no visible difference.
_SHADES = 64
#: The kinds of :func:`.error_kinds` so that the largest is shown: missed, wrongly there, others,
#: none. Of these ranks, the kinds again.
_RANKS = np.array([0, 3, 2, 1])
PROBABILITY_MAP, ENTROPY_MAP = "viridis", "magma"


@dataclass(frozen=True)
class CasePictures:
    """The pictures of a case.

    Attributes:
        case: its name.
        class_name: the class that is shown.
        image_name: name of the image's channel.
        planes: the result of :func:`layers` for each plane, the main one first.
    """

    case: str
    class_name: str
    image_name: str
    planes: tuple[dict[str, Any], ...]

    @property
    def n_bytes(self) -> int:
        """About how many bytes they add to a page."""
        return len(repr(self.planes))


def case_pictures(planes: list[CaseSlice]) -> CasePictures:
    """The pictures of a case from its slices, the result of :func:`.cut`."""
    main = planes[0]
    return CasePictures(main.case, main.class_name, main.image_name, tuple(map(layers, planes)))


def layers(cut: CaseSlice) -> dict[str, Any]:
    """The layers of a slice, cropped to the class and a margin.

    Returns:
        ``title`` and ``direction`` of the plane; ``width`` and ``height`` in voxels; ``ratio`` of
        width and height in mm; ``image`` (a URI, None without an image) and ``reference`` (a URI);
        ``outline`` of the reference, the content of an SVG path; ``models``: ``name``, ``outline``,
        and the URIs of ``probability``, ``errors`` and ``entropy`` of each.
    """
    height_mm, width_mm = cut.voxel_mm
    left, right, bottom, top = shown_part(cut)
    rows = slice(math.floor(top / height_mm + 1e-6), math.ceil(bottom / height_mm - 1e-6))
    columns = slice(math.floor(left / width_mm + 1e-6), math.ceil(right / width_mm - 1e-6))
    reference = cut.reference[rows, columns]
    height, width = reference.shape
    step = math.ceil(max(height, width) / MOST_VOXELS)

    def part(array: NDArray[Any]) -> NDArray[Any]:
        return array[rows, columns][::step, ::step]

    def most(array: NDArray[Any]) -> NDArray[Any]:
        """The largest value of each block of voxels that is shown as one."""
        shown = array[rows, columns]
        for axis, n in enumerate((height, width)):
            shown = np.maximum.reduceat(shown, range(0, n, step), axis=axis)
        return shown

    def of_model(model: ModelSlice) -> dict[str, Any]:
        return {
            "name": model.model,
            "outline": outline(model.segmented[rows, columns]),
            "probability": _colored(part(model.probability), PROBABILITY_MAP),
            "errors": _errors(_RANKS[most(_RANKS[error_kinds(cut.reference, model)])]),
            "entropy": _colored(part(model.entropy), ENTROPY_MAP),
        }

    return {
        "title": cut.plane + f", every {step}. voxel, but all errors" * (step > 1),
        "direction": cut.direction,
        "width": width,
        "height": height,
        "ratio": round(width * width_mm / (height * height_mm), 4),
        "image": None if cut.image is None else _grey(part(cut.image), cut.image),
        "reference": _webp(Image.fromarray(np.uint8(255) * most(cut.reference)), lossless=True),
        "outline": outline(reference),
        "models": [of_model(model) for model in cut.models],
    }


def outline(mask: NDArray[np.bool_]) -> str:
    """The outline of a mask (H, W) as the content of an SVG path; empty if the mask is.

    It goes through the middle between a voxel of the mask and one outside.
    """
    # The padding lets outlines close at the border; voxel (0, 0) has its centre at (0.5, 0.5).
    lines = contour_generator(z=np.pad(mask, 1).astype(np.float64)).lines(0.5)
    paths = []
    for line in map(np.asarray, lines):
        steps = np.diff(line, axis=0)
        turns = np.flatnonzero((steps[1:] != steps[:-1]).any(axis=1)) + 1
        corners = line[[0, *turns]] - 0.5  # the last point is the first one: closed by Z
        paths.append("M" + "L".join(f"{x:g} {y:g}" for x, y in corners) + "Z")
    return "".join(paths)


def color_steps(name: str) -> str:
    """A colour map of matplotlib as the colours of a CSS gradient."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return ", ".join(to_hex(color) for color in colormaps[name](np.linspace(0, 1, 9)))


def _colored(values: NDArray[np.float32], name: str) -> str:
    from matplotlib import colormaps

    shades = np.rint(values * (_SHADES - 1)) / (_SHADES - 1)
    colors = colormaps[name](shades, bytes=True)[..., :3]
    return _webp(Image.fromarray(np.ascontiguousarray(colors)), lossless=True)


def _errors(kinds: NDArray[np.int64]) -> str:
    palette = np.array([ImageColor.getrgb(color) for color in ERROR_COLORS], np.uint8)
    return _webp(Image.fromarray(palette[kinds]), lossless=True)


def _grey(values: NDArray[Any], whole: NDArray[Any]) -> str:
    """Intensities in the window of the whole slice."""
    low, high = np.percentile(whole, [1, 99.5])
    scaled = np.clip((values - low) / (high - low or 1), 0, 1)
    return _webp(Image.fromarray(np.rint(255 * scaled).astype(np.uint8)), lossless=False)


def _webp(image: Image.Image, *, lossless: bool) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "webp", lossless=lossless, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
