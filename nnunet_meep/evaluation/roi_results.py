"""Compute the metrics of an ROI from the sums of one case or several."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_meep.evaluation.case_results import RoiResult
from nnunet_meep.evaluation.counting.bins import CaseSums, Grid, RoiSums
from nnunet_meep.evaluation.metrics.calibration import binned_metrics, reliability_bins
from nnunet_meep.evaluation.metrics.lesions import lesion_metrics
from nnunet_meep.evaluation.metrics.risk_coverage import risk_coverage
from nnunet_meep.evaluation.metrics.scores import class_metrics, error_metrics, top_label_metrics
from nnunet_meep.evaluation.result_format import TOP_LABEL
from nnunet_meep.nnunet_files.labels import Labels


def roi_result(
    labels: Labels,
    grid: Grid,
    sums: RoiSums,
    of_image: Sequence[dict[str, float]] | None,
) -> RoiResult:
    """Compute metrics from sums.

    Args:
        labels: the classes.
        grid: the grid of the sums' cells.
        sums: of one case or several.
        of_image: the result of :func:`whole_image`; None: leave these metrics out.
    """
    classes, bins = {}, {}
    for i, key in enumerate(labels.keys):
        of_class = sums.channels[labels.channel(i)]
        metrics = class_metrics(of_class, grid)
        more = {} if of_image is None else of_image[i]
        classes[key] = {"dice": metrics["dice"], **more, **metrics}
        bins[key] = reliability_bins(of_class.cells, grid)
        if sums.top_label is None:
            classes[key] |= error_metrics(of_class.cells, grid)
    top_label = None
    if sums.top_label is not None:
        eces = [binned_metrics(channel.cells, grid)["ece"] for channel in sums.channels]
        top_label = {
            **top_label_metrics(sums.top_label, grid),
            "classwise_ece": math.fsum(eces) / len(eces),
        }
        bins[TOP_LABEL] = reliability_bins(sums.top_label, grid)
    return RoiResult(classes, top_label, bins)


def whole_image(labels: Labels, sums: CaseSums) -> list[dict[str, float]]:
    """The metrics of a case, for each class, that are of whole images whatever the ROI."""
    found: list[dict[str, float]] = [{} for _ in labels.keys]
    for i, of_class in enumerate(found):
        if sums.surfaces is not None:
            of_class |= sums.surfaces[i]
        if sums.lesions is not None:
            of_class |= lesion_metrics(sums.lesions[i])
        of_class |= sums.wmh or {}
    return found


def risk_coverages(labels: Labels, grid: Grid, sums: RoiSums) -> dict[str, dict[str, list[float]]]:
    """Compute ``RoiResult.risk_coverage`` from sums."""
    if sums.top_label is not None:
        return {TOP_LABEL: risk_coverage(sums.top_label, grid, top_label=True)}
    return {
        key: risk_coverage(sums.channels[labels.channel(i)].cells, grid, top_label=False)
        for i, key in enumerate(labels.keys)
    }
