"""Reliability diagrams for the page: one inline SVG for each class, drawn from the bins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.metrics.calibration import reliability_band
from nnunet_meep.evaluation.report.comparison_pictures import layer
from nnunet_meep.evaluation.report.plots import decade
from nnunet_meep.evaluation.report.svg_axes import Scale, path
from nnunet_meep.evaluation.result_format import TOP_LABEL

#: The square of the diagram and the histogram below it, in the picture's own units.
_LEFT, _SIZE, _TOP, _GAP, _HISTOGRAM = 56, 340, 8, 14, 84
_X = Scale(0, 1, _LEFT, _LEFT + _SIZE)
_Y = Scale(0, 1, _TOP + _SIZE, _TOP)
_HISTOGRAM_TOP = _TOP + _SIZE + _GAP
_BOTTOM = _HISTOGRAM_TOP + _HISTOGRAM
#: What the template needs beside the panels.
GEOMETRY = {
    **{"width": _LEFT + _SIZE + 14, "height": _BOTTOM + 44, "left": _LEFT, "size": _SIZE},
    **{"top": _TOP, "histogram_top": _HISTOGRAM_TOP, "bottom": _BOTTOM},
    "x_ticks": _X.ticks(5),
    "y_ticks": _Y.ticks(5),
}


def reliability_bins_of(
    comparison: Comparison, progress: bool = False
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The bins of each class and model, over the compared cases and all trainings of a model.

    Returns:
        By class key and model ``edges``, ``count`` (voxels, summed over trainings), ``mean_p``,
        ``mean_y``, and ``low`` and ``high``, the 95 % interval of ``mean_y`` over cases (BCa
        bootstrap), NaN with a single case.
    """
    found: dict[str, dict[str, dict[str, list[float]]]] = {key: {} for key in comparison.classes}
    pairs = [(key, model) for key in comparison.classes for model in comparison.models]
    for key, model in tqdm(pairs, desc="reliability", disable=not progress):
        of_model = layer(comparison, model, key)
        low = high = np.full(len(of_model.bins["count"]), np.nan)
        if len(of_model.per_case) > 1:
            low, high = reliability_band(of_model.per_case)
        found[key][model] = {**of_model.bins, "low": low.tolist(), "high": high.tolist()}
    return found


def reliability_panels(
    comparison: Comparison, bins: dict[str, dict[str, dict[str, list[float]]]]
) -> list[dict[str, Any]]:
    """What the template draws for each class, from the result of :func:`reliability_bins_of`.

    Returns:
        ``key``; ``across`` and ``up``, the names of the axes; ``shares``, the ticks of the
        histogram; and for each model ``line``, ``band`` and ``steps`` (contents of SVG paths) and
        ``points``.
    """
    shares = [
        n / sum(b["count"]) for ms in bins.values() for b in ms.values() for n in b["count"] if n
    ]
    # The same for all classes, so that heights can be compared.
    decades = math.floor(math.log10(min(shares, default=0.1) / 1.5))
    up = Scale(decades, 0, _BOTTOM, _HISTOGRAM_TOP)
    every = math.ceil(-decades / 3)
    ticks = [(up(d), decade(d)) for d in range(0, decades - 1, -every)]
    panels = []
    for key, of_models in bins.items():
        top = key == TOP_LABEL
        panels.append(
            {
                "key": key,
                "across": "largest probability" if top else "predicted probability",
                "up": "share of right voxels" if top else "observed frequency",
                "shares": ticks,
                "models": [_drawn(of_models[model], up) for model in comparison.models],
            }
        )
    return panels


def _drawn(bins: dict[str, list[float]], up: Scale) -> dict[str, Any]:
    filled = [i for i, n in enumerate(bins["count"]) if n]
    x = [_X(bins["mean_p"][i]) for i in filled]
    y, low, high = ([_Y(bins[name][i]) for i in filled] for name in ("mean_y", "low", "high"))
    with_band = not any(map(math.isnan, low))
    around = [*zip(x, high, strict=True), *reversed(list(zip(x, low, strict=True)))]
    total = sum(bins["count"])
    steps: list[tuple[float, float]] = []
    for i, n in enumerate(bins["count"]):
        height = up(max(math.log10(n / total), up.low)) if n else _BOTTOM
        steps += [(_X(bins["edges"][i]), height), (_X(bins["edges"][i + 1]), height)]
    return {
        "points": list(zip(x, y, strict=True)),
        "line": path(list(zip(x, y, strict=True))),
        "band": f"{path(around)}Z" if with_band and len(x) > 1 else "",
        "steps": path([(_LEFT, _BOTTOM), *steps, (_LEFT + _SIZE, _BOTTOM)]) if total else "",
    }
