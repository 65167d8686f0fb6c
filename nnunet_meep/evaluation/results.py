"""What an evaluation gives: metrics of cases and of all voxels, and the content of its JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_meep.evaluation.counting.bins import (
    Grid,
    RoiSums,
)
from nnunet_meep.evaluation.counting.surface import METRICS as SURFACE_METRICS
from nnunet_meep.evaluation.metrics.calibration import binned_metrics, reliability_bins
from nnunet_meep.evaluation.metrics.catalogue import (
    Of,
    metrics_of,
)
from nnunet_meep.evaluation.metrics.risk_coverage import risk_coverage
from nnunet_meep.evaluation.metrics.scores import (
    class_metrics,
    error_metrics,
    top_label_metrics,
)
from nnunet_meep.evaluation.metrics.statistics import (
    over_cases,
)
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.networks import Network

if TYPE_CHECKING:
    import pandas

#: The format of ``calibration.json``; to be raised whenever something in it changes its meaning.
SCHEMA = 3
#: The key that stands for the predicted label where others are of classes.
TOP_LABEL = "top_label"


@dataclass(frozen=True)
class RoiResult:
    """The metrics over the voxels of an ROI.

    Attributes:
        classes: for each class (keys as in ``Labels.keys``) its metrics.
        top_label: metrics of the top label and ``classwise_ece``; None for regions of labels.
        bins: of each class, and of ``top_label``: ``edges``, ``count``, ``mean_p``, ``mean_y``.
        risk_coverage: of ``top_label``, or of each class where there is none: ``coverage``,
            ``risk``.
    """

    classes: dict[str, dict[str, float]]
    top_label: dict[str, float] | None
    bins: dict[str, dict[str, list[float]]]
    risk_coverage: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class CaseResult:
    """One case.

    Attributes:
        case: its name.
        n_clipped: probabilities that left [0, 1] by rounding and were clipped.
        n_not_argmax: voxels in which the segmentation file is not what the probabilities make by
            nnU-Net's rule; None without a file.
        rois: its metrics in each ROI, by the ROI's name.
    """

    case: str
    n_clipped: int
    n_not_argmax: int | None
    rois: dict[str, RoiResult]

    @property
    def has_class(self) -> bool:
        """Does its reference hold any class?"""
        of_classes = (c for r in self.rois.values() for c in r.classes.values())
        return any(not math.isnan(metrics["brier_plus"]) for metrics in of_classes)


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        labels: the classes.
        cases: results in the order of the case names.
        pooled: over the voxels of all cases, without distances; by the name of the ROI, in the
            order asked for.
        settings: what the numbers depend on.
        not_predicted: references without a prediction.
        skipped: (case, reason) of what ``chill`` or ``partial`` left out.
        incomplete_folds: see :meth:`.Predictions.incomplete_folds`.
        sources: the folders and files that were given.
        files: what the files of each case hold, see :func:`.cache.case_identity`.
        dataset_identity: what ``dataset.json`` holds (:mod:`.identity`).
        network: what made the predictions.
        calibrators: with which they were calibrated, and which cases they were fitted to.
    """

    labels: Labels
    cases: list[CaseResult]
    pooled: dict[str, RoiResult]
    settings: dict[str, Any]
    not_predicted: list[str]
    skipped: list[tuple[str, str]]
    incomplete_folds: list[dict[str, Any]]
    sources: Sources
    files: dict[str, dict[str, str]]
    dataset_identity: str
    network: Network
    calibrators: list[dict[str, Any]]

    @property
    def class_metrics(self) -> tuple[str, ...]:
        """The metrics of a class that were computed, in the order of tables."""
        metrics = metrics_of(Of.CLASS)
        if not self.settings["surface"]:
            metrics = tuple(m for m in metrics if m not in SURFACE_METRICS)
        return metrics + (metrics_of(Of.REGION) if self.labels.is_region_based else ())

    @property
    def columns(self) -> list[str]:
        """Names of what :meth:`rows` gives."""
        metrics = [*self.class_metrics]
        if not self.labels.is_region_based:
            metrics += [m for m in metrics_of(Of.TOP_LABEL) if m not in metrics]
        return ["case", "roi", "class", "name", *metrics]

    def rows(self) -> Iterator[list[Any]]:
        """One row for each case, ROI and class, and for the top label where there is one.

        What a class or the top label does not have, and what is undefined, is NaN.
        """
        names = dict(zip(self.labels.keys, self.labels.names, strict=True))
        metrics = self.columns[4:]
        for case in self.cases:
            for roi, result in case.rois.items():
                rows = [(key, names[key], values) for key, values in result.classes.items()]
                if result.top_label is not None:
                    rows.append(("top_label", "", result.top_label))
                for key, name, values in rows:
                    numbers = [values.get(m, math.nan) for m in metrics]
                    yield [case.case, roi, key, name, *numbers]

    def to_dataframe(self) -> pandas.DataFrame:
        """:meth:`rows` with their names, as in ``calibration.csv``."""
        import pandas

        return pandas.DataFrame(list(self.rows()), columns=self.columns)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``calibration.json``, with NaN where a number does not exist."""
        first, *others = self.pooled
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "network": self.network.to_dict(),
            "calibrators": self.calibrators,
            **self.roi_to_dict(first),
            "by_roi": {name: self.roi_to_dict(name) for name in others},
            "not_predicted": self.not_predicted,
            "skipped": [{"case": case, "reason": reason} for case, reason in self.skipped],
            "incomplete_folds": self.incomplete_folds,
            "files": {"dataset.json": self.dataset_identity, "cases": self.files},
        }

    def roi_to_dict(self, roi: str) -> dict[str, Any]:
        """``classes``, ``top_label`` and ``cases`` of one roi."""
        pooled = self.pooled[roi]
        cases = [(case, case.rois[roi]) for case in self.cases]
        classes = {
            key: {
                "name": name,
                "per_case": {
                    metric: over_cases([r.classes[key][metric] for _, r in cases])
                    for metric in self.class_metrics
                },
                "pooled": {**pooled.classes[key], **_curves(pooled, key)},
            }
            for key, name in zip(self.labels.keys, self.labels.names, strict=True)
        }
        top_label = None
        if pooled.top_label is not None:
            per_case = {
                metric: over_cases([r.top_label[metric] for _, r in cases if r.top_label])
                for metric in metrics_of(Of.TOP_LABEL)
            }
            all_voxels = dict(pooled.top_label)
            top_label = {
                "classwise_ece": {
                    "per_case": per_case.pop("classwise_ece"),
                    "pooled": all_voxels.pop("classwise_ece"),
                },
                "per_case": per_case,
                "pooled": {**all_voxels, **_curves(pooled, "top_label")},
            }
        return {
            "classes": classes,
            "top_label": top_label,
            "cases": [
                {
                    "case": case.case,
                    "classes": r.classes,
                    "top_label": r.top_label,
                    "n_clipped": case.n_clipped,
                    "n_not_argmax": case.n_not_argmax,
                    "bins": {key: _without_edges(bins) for key, bins in r.bins.items()},
                }
                for case, r in cases
            ],
        }


@dataclass(frozen=True)
class Sources:
    """The folders and files that an evaluation was given; see :func:`evaluate`.

    Attributes:
        masks: folders of masks by the name of the roi.
    """

    gt_folder: Path | None
    pred_folders: tuple[Path, ...]
    dataset_json: Path | None
    plans_json: Path | None
    masks: Mapping[str, Path] = field(default_factory=dict)


def _without_edges(bins: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: values for name, values in bins.items() if name != "edges"}


def _curves(result: RoiResult, key: str) -> dict[str, Any]:
    """What is more than one number."""
    curves = {"bins": result.bins[key]}
    if key in result.risk_coverage:
        curves["risk_coverage"] = result.risk_coverage[key]
    return curves


def roi_result(
    labels: Labels,
    grid: Grid,
    sums: RoiSums,
    distances_mm: tuple[dict[str, float], ...] | None,
) -> RoiResult:
    classes, bins, risk = {}, {}, {}
    for i, key in enumerate(labels.keys):
        of_class = sums.channels[labels.channel(i)]
        metrics = class_metrics(of_class, grid)
        distances = {} if distances_mm is None else distances_mm[i]
        classes[key] = {"dice": metrics["dice"], **distances, **metrics}
        bins[key] = reliability_bins(of_class.cells, grid)
        if sums.top_label is None:
            classes[key] |= error_metrics(of_class.cells, grid)
            risk[key] = risk_coverage(of_class.cells, grid, top_label=False)
    top_label = None
    if sums.top_label is not None:
        eces = [binned_metrics(channel.cells, grid)["ece"] for channel in sums.channels]
        top_label = {
            **top_label_metrics(sums.top_label, grid),
            "classwise_ece": math.fsum(eces) / len(eces),
        }
        bins["top_label"] = reliability_bins(sums.top_label, grid)
        risk["top_label"] = risk_coverage(sums.top_label, grid, top_label=True)
    return RoiResult(classes, top_label, bins, risk)
