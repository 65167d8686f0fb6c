"""The result of an evaluation: metrics per case and over all voxels, and its JSON content."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.case_results import CaseResult, RoiResult
from nnunet_meep.evaluation.counting.components import Lesions
from nnunet_meep.evaluation.lesion_results import lesions_from_dict, lesions_to_dict
from nnunet_meep.evaluation.metrics.case_ranking import case_ranking
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.metrics.statistics import over_cases
from nnunet_meep.evaluation.result_format import SCHEMA, TOP_LABEL, damage
from nnunet_meep.nnunet_files.networks import Network

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`.evaluate`.

    Attributes:
        classes: names of the classes or of nnU-Net's regions, by key: ``str(label)``, or for a
            region its labels, as in nnU-Net's ``summary.json``.
        cases: results in the order of the case names.
        pooled: metrics over the voxels of all cases, without surface distances, by ROI name, in the
            order of ``rois``.
        settings: what the numbers depend on.
        not_predicted: names of the references without a prediction.
        skipped: (case, reason) for each case that ``chill`` or ``partial`` left out.
        incomplete_folds: see :meth:`.Predictions.incomplete_folds`.
        sources: the folders and files that were given.
        files: by case, hashes of the contents of its files, see :func:`.cache.case_identity`.
        dataset_identity: hash of the content of ``dataset.json``, see :mod:`.identity`.
        network: the network that made the predictions.
        calibrators: those applied to the predictions, and which of the cases they were fitted to.
        written: when its file was written (ISO 8601); "" if it was not read from a file.
        n_kept: number of cases whose sums an earlier run had kept; not in the file.

    Example:
        >>> import nnunet_meep as nm
        >>> evaluation = nm.evaluate("labelsTs", "predictions")
        >>> of_one_case = evaluation.cases[0].rois["image"].classes["1"]["dice"]
        >>> list(evaluation.to_dataframe()["class"].unique())
        ['1', '2', 'top_label']
    """

    classes: dict[str, str]
    cases: Sequence[CaseResult]
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
    n_kept: int = field(default=0, compare=False)

    @property
    def roi(self) -> str:
        """Name of the first ROI."""
        return next(iter(self.pooled))

    @property
    def lesions(self) -> dict[str, dict[str, Lesions]] | None:
        """By case and class key, the components over whole images; None if not requested."""
        found = {case.case: case.lesions for case in self.cases if case.lesions is not None}
        return found or None

    @property
    def is_region_based(self) -> bool:
        """Whether the classes are nnU-Net's regions, which overlap and so have no top label."""
        return self.pooled[self.roi].top_label is None

    def over(self, roi: str | None) -> Evaluation:
        """The evaluation of one of its ROIs alone; None: the first one.

        Raises:
            InputError: there is no such ROI.
        """
        roi = self.roi if roi is None else roi
        if roi not in self.pooled:
            raise InputError(
                f"expected a result over {roi}, got one over {', '.join(self.pooled)}; "
                f"evaluate it again with meep-calib-eval ... --roi {roi}"
            )
        cases = [replace(case, rois={roi: case.rois[roi]}) for case in self.cases]
        settings = {**self.settings, "rois": [roi]}
        return replace(self, cases=cases, pooled={roi: self.pooled[roi]}, settings=settings)

    @property
    def class_metrics(self) -> tuple[str, ...]:
        """The metrics that each class has, in the order of tables."""
        there = next(iter(self.cases[0].rois[self.roi].classes.values()))
        return tuple(metric for metric in CATALOGUE if metric in there)

    @property
    def top_label_metrics(self) -> tuple[str, ...]:
        """The metrics that the top label has, in the order of tables; empty for regions."""
        there = self.cases[0].rois[self.roi].top_label or {}
        return tuple(metric for metric in CATALOGUE if metric in there)

    @property
    def columns(self) -> list[str]:
        """Column names of :meth:`rows`."""
        more = [m for m in self.top_label_metrics if m not in self.class_metrics]
        return ["case", "roi", "class", "name", *self.class_metrics, *more]

    def rows(self) -> Iterator[list[Any]]:
        """One row for each case, ROI and class, and for the top label if there is one.

        Metrics that a class or the top label does not have, or that are undefined, are NaN.
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
        """:meth:`rows` with :attr:`columns`, as in ``calibration.csv``."""
        import pandas

        return pandas.DataFrame(list(self.rows()), columns=self.columns)

    def to_dict(self, listed: Callable[[Iterator[Any]], Any] = list) -> dict[str, Any]:
        """The content of ``calibration.json``, with NaN where a number does not exist.

        Args:
            listed: what makes ``cases`` of its entries. With ``iter``, they are made one by one
                while the content is written.
        """
        first, *others = self.pooled
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "network": self.network.to_dict(),
            "calibrators": self.calibrators,
            **self.roi_to_dict(first),
            "cases": self._cases_to_dicts(first, listed),
            "by_roi": {
                name: {**self.roi_to_dict(name), "cases": self._cases_to_dicts(name, listed)}
                for name in others
            },
            "lesions": self.lesions
            and lesions_to_dict(self.lesions, list(self.classes), self.settings["bins"]),
            "not_predicted": self.not_predicted,
            "skipped": [{"case": case, "reason": reason} for case, reason in self.skipped],
            "incomplete_folds": self.incomplete_folds,
            "files": {"dataset.json": self.dataset_identity, "cases": self.files},
        }

    @classmethod
    def from_dict(cls, content: Any, sources: Sources | None = None) -> Evaluation:
        """The inverse of :meth:`to_dict`; also takes None for NaN, as JSON stores it.

        Args:
            content: the content of a ``calibration.json``.
            sources: the folders and files evaluated; None: as the settings name them.

        Raises:
            InputError: the content is something else, or is damaged.
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
                content["lesions"] and lesions_from_dict(content["lesions"], entry["case"]),
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

    def _values(self, roi: str) -> dict[str, dict[str, array[float]]]:
        """By class key and by metric, the values of all cases."""
        metrics = dict.fromkeys(self.classes, self.class_metrics)
        if self.top_label_metrics:
            metrics[TOP_LABEL] = self.top_label_metrics
        values = {key: {m: array("d") for m in of_key} for key, of_key in metrics.items()}
        for case in self.cases:
            for key, of_key in values.items():
                found = case.rois[roi].metrics(key)
                for metric, of_metric in of_key.items():
                    of_metric.append(found[metric])
        return values

    def _cases_to_dicts(self, roi: str, listed: Callable[[Iterator[Any]], Any]) -> Any:
        return listed(_case_to_dict(case, case.rois[roi]) for case in self.cases)

    def roi_to_dict(self, roi: str) -> dict[str, Any]:
        """``classes`` and ``top_label`` of the ROI with this name.

        ``ranking`` of a class is the result of :func:`.case_ranking`.
        """
        pooled = self.pooled[roi]
        values = self._values(roi)
        summaries = iter(over_cases([v for of_key in values.values() for v in of_key.values()]))
        per_case = {key: {m: next(summaries) for m in of_key} for key, of_key in values.items()}
        undefined = [math.nan] * len(self.cases)
        classes = {
            key: {
                "name": name,
                "per_case": per_case[key],
                "ranking": case_ranking(
                    *(values[key].get(metric, undefined) for metric in ("dice_expected", "dice"))
                ),
                "pooled": {**pooled.classes[key], **_curves(pooled, key)},
            }
            for key, name in self.classes.items()
        }
        top_label = None
        if pooled.top_label is not None:
            of_top = per_case[TOP_LABEL]
            all_voxels = dict(pooled.top_label)
            top_label = {
                "classwise_ece": {
                    "per_case": of_top.pop("classwise_ece"),
                    "pooled": all_voxels.pop("classwise_ece"),
                },
                "per_case": of_top,
                "pooled": {**all_voxels, **_curves(pooled, TOP_LABEL)},
            }
        return {"classes": classes, "top_label": top_label}


@dataclass(frozen=True)
class Sources:
    """The folders and files given to :func:`.evaluate`.

    Attributes:
        masks: folders of masks, by ROI name.
    """

    gt_folder: Path | None
    pred_folders: tuple[Path, ...]
    dataset_json: Path | None
    plans_json: Path | None
    masks: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def named_in(cls, settings: Mapping[str, Any]) -> Sources:
        """The paths in the settings of an evaluation, without masks."""

        def path(name: str) -> Path | None:
            return None if settings.get(name) is None else Path(settings[name])

        folders = settings["pred_folder"]
        folders = [folders] if isinstance(folders, str) else folders
        return cls(
            path("gt_folder"), tuple(map(Path, folders)), path("dataset_json"), path("plans_json")
        )


def _case_to_dict(case: CaseResult, result: RoiResult) -> dict[str, Any]:
    return {
        "case": case.case,
        "classes": result.classes,
        "top_label": result.top_label,
        "n_clipped": case.n_clipped,
        "n_not_argmax": case.n_not_argmax,
        "bins": {key: _without_edges(bins) for key, bins in result.bins.items()},
    }


def _without_edges(bins: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: values for name, values in bins.items() if name != "edges"}


def _curves(result: RoiResult, key: str) -> dict[str, Any]:
    """What does not fit in one number: the bins and, if there is one, the risk-coverage curve."""
    curves = {"bins": result.bins[key]}
    if key in result.risk_coverage:
        curves["risk_coverage"] = result.risk_coverage[key]
    return curves


def _pooled_from_dict(part: dict[str, Any]) -> RoiResult:
    """The result over all voxels, from the content of :meth:`Evaluation.roi_to_dict`."""
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
    """The metrics of an entry, without its curves; None becomes NaN."""
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
