"""What an evaluation gives: metrics of cases and of all voxels, and the content of its JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.metrics.statistics import over_cases
from nnunet_meep.evaluation.result_format import SCHEMA, TOP_LABEL, damage
from nnunet_meep.nnunet_files.networks import Network

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class RoiResult:
    """The metrics over the voxels of an ROI.

    Attributes:
        classes: for each class (keys as in ``Labels.keys``) its metrics.
        top_label: metrics of the top label and ``classwise_ece``; None for regions of labels.
        bins: of each class, and of ``top_label``: ``edges``, ``count``, ``mean_p``, ``mean_y``.
        risk_coverage: of all voxels, not of single cases, and of ``top_label``, or of each class
            where there is none: ``coverage``, ``risk``.
    """

    classes: dict[str, dict[str, float]]
    top_label: dict[str, float] | None
    bins: dict[str, dict[str, list[float]]]
    risk_coverage: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def metrics(self, key: str) -> dict[str, float]:
        """Of a class, or of ``top_label``; a ``KeyError`` where there is none."""
        if key != TOP_LABEL:
            return self.classes[key]
        if self.top_label is None:
            raise KeyError(key)
        return self.top_label


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
    """What :func:`.evaluate` found.

    Attributes:
        classes: the names of the classes, or of nnU-Net's regions, by their keys: the label as
            text, for a region its labels as ``dataset.json`` has them.
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
        written: when it was written into its file (ISO 8601); "" if it was not read from one.
    """

    classes: dict[str, str]
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
    written: str = ""

    @property
    def roi(self) -> str:
        """Name of the first ROI."""
        return next(iter(self.pooled))

    @property
    def is_region_based(self) -> bool:
        """Are the classes nnU-Net's regions, which overlap? Then there is no top label."""
        return self.pooled[self.roi].top_label is None

    def over(self, roi: str | None) -> Evaluation:
        """The same over one of its ROIs alone; None: the first one.

        Raises:
            InputError: there is no such ROI.
        """
        roi = self.roi if roi is None else roi
        if roi not in self.pooled:
            raise InputError(
                f"expected a result over {roi}, got one over {', '.join(self.pooled)}; "
                f"evaluate it again with --roi {roi}"
            )
        cases = [replace(case, rois={roi: case.rois[roi]}) for case in self.cases]
        settings = {**self.settings, "rois": [roi]}
        return replace(self, cases=cases, pooled={roi: self.pooled[roi]}, settings=settings)

    @property
    def class_metrics(self) -> tuple[str, ...]:
        """The metrics of a class that there are, in the order of tables."""
        there = next(iter(self.cases[0].rois[self.roi].classes.values()))
        return tuple(metric for metric in CATALOGUE if metric in there)

    @property
    def top_label_metrics(self) -> tuple[str, ...]:
        """Those of the top label; none for regions."""
        there = self.cases[0].rois[self.roi].top_label or {}
        return tuple(metric for metric in CATALOGUE if metric in there)

    @property
    def columns(self) -> list[str]:
        """Names of what :meth:`rows` gives."""
        more = [m for m in self.top_label_metrics if m not in self.class_metrics]
        return ["case", "roi", "class", "name", *self.class_metrics, *more]

    def rows(self) -> Iterator[list[Any]]:
        """One row for each case, ROI and class, and for the top label where there is one.

        What a class or the top label does not have, and what is undefined, is NaN.
        """
        metrics = self.columns[4:]
        for case in self.cases:
            for roi, result in case.rois.items():
                rows = [(key, self.classes[key], m) for key, m in result.classes.items()]
                if result.top_label is not None:
                    rows.append((TOP_LABEL, "", result.top_label))
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

    @classmethod
    def from_dict(cls, content: Any, sources: Sources | None = None) -> Evaluation:
        """What :meth:`to_dict` gave, also as JSON has it, with None where a number does not exist.

        Args:
            content: to be read.
            sources: where its files are; None: where its settings name them.

        Raises:
            InputError: it is something else.
        """
        if problem := damage(content):
            raise InputError(
                f"expected a result of meep-calib-eval, got one that is damaged: {problem}"
            )
        settings = content["settings"]
        by_roi = {settings["rois"][0]: content, **content["by_roi"]}
        cases = [
            CaseResult(
                entry["case"],
                entry["n_clipped"],
                entry["n_not_argmax"],
                {roi: _case_from_dict(part, part["cases"][i]) for roi, part in by_roi.items()},
            )
            for i, entry in enumerate(content["cases"])
        ]
        return cls(
            classes={key: entry["name"] for key, entry in content["classes"].items()},
            cases=cases,
            pooled={roi: _pooled_from_dict(part) for roi, part in by_roi.items()},
            settings=settings,
            not_predicted=content["not_predicted"],
            skipped=[(entry["case"], entry["reason"]) for entry in content["skipped"]],
            incomplete_folds=content["incomplete_folds"],
            sources=Sources.named_in(settings) if sources is None else sources,
            files=content["files"]["cases"],
            dataset_identity=content["files"]["dataset.json"],
            network=Network.from_dict(content["network"]),
            calibrators=content["calibrators"],
            written=content.get("origin", {}).get("written", ""),
        )

    def roi_to_dict(self, roi: str) -> dict[str, Any]:
        """``classes``, ``top_label`` and ``cases`` of one ROI."""
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
            for key, name in self.classes.items()
        }
        top_label = None
        if pooled.top_label is not None:
            per_case = {
                metric: over_cases([r.top_label[metric] for _, r in cases if r.top_label])
                for metric in self.top_label_metrics
            }
            all_voxels = dict(pooled.top_label)
            top_label = {
                "classwise_ece": {
                    "per_case": per_case.pop("classwise_ece"),
                    "pooled": all_voxels.pop("classwise_ece"),
                },
                "per_case": per_case,
                "pooled": {**all_voxels, **_curves(pooled, TOP_LABEL)},
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
    """The folders and files that an evaluation was given; see :func:`.evaluate`.

    Attributes:
        masks: folders of masks by the name of the ROI.
    """

    gt_folder: Path | None
    pred_folders: tuple[Path, ...]
    dataset_json: Path | None
    plans_json: Path | None
    masks: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def named_in(cls, settings: Mapping[str, Any]) -> Sources:
        """As the settings of an evaluation name them."""

        def path(name: str) -> Path | None:
            return None if settings.get(name) is None else Path(settings[name])

        folders = settings["pred_folder"]
        folders = [folders] if isinstance(folders, str) else folders
        return cls(
            path("gt_folder"), tuple(map(Path, folders)), path("dataset_json"), path("plans_json")
        )


def _without_edges(bins: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: values for name, values in bins.items() if name != "edges"}


def _curves(result: RoiResult, key: str) -> dict[str, Any]:
    """What is more than one number."""
    curves = {"bins": result.bins[key]}
    if key in result.risk_coverage:
        curves["risk_coverage"] = result.risk_coverage[key]
    return curves


def _pooled_from_dict(part: dict[str, Any]) -> RoiResult:
    """The content of :meth:`Evaluation.roi_to_dict` for all voxels."""
    pooled = {key: entry["pooled"] for key, entry in part["classes"].items()}
    top_label = None
    if part["top_label"] is not None:
        pooled[TOP_LABEL] = part["top_label"]["pooled"]
        classwise_ece = part["top_label"]["classwise_ece"]["pooled"]
        top_label = _numbers({**pooled[TOP_LABEL], "classwise_ece": classwise_ece})
    return RoiResult(
        {key: _numbers(pooled[key]) for key in part["classes"]},
        top_label,
        {key: _lists(entry["bins"]) for key, entry in pooled.items()},
        {k: _lists(e["risk_coverage"]) for k, e in pooled.items() if "risk_coverage" in e},
    )


def _case_from_dict(part: dict[str, Any], case: dict[str, Any]) -> RoiResult:
    pooled = {**part["classes"], TOP_LABEL: part["top_label"]}
    top_label = case["top_label"]
    return RoiResult(
        {key: _numbers(metrics) for key, metrics in case["classes"].items()},
        None if top_label is None else _numbers(top_label),
        {
            key: {"edges": pooled[key]["pooled"]["bins"]["edges"], **_lists(bins)}
            for key, bins in case["bins"].items()
        },
    )


def _numbers(entry: dict[str, Any]) -> dict[str, float]:
    """The metrics among what an entry holds; None becomes NaN."""
    return {
        name: math.nan if value is None else value
        for name, value in entry.items()
        if not isinstance(value, dict)
    }


def _lists(curves: dict[str, list[Any]]) -> dict[str, list[float]]:
    return {
        name: [math.nan if value is None else value for value in values]
        for name, values in curves.items()
    }
