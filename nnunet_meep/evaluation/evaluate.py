"""A folder of nnU-Net predictions with probabilities, evaluated."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_meep import __version__
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.bins import ClassSums, class_sums
from nnunet_meep.evaluation.cases import Case, Dataset, find_cases, read_case, read_dataset
from nnunet_meep.evaluation.labels import Labels
from nnunet_meep.evaluation.metrics import (
    BOOTSTRAP_RESAMPLES,
    BOOTSTRAP_SEED,
    class_metrics,
    over_cases,
    reliability_bins,
)
from nnunet_meep.evaluation.surface import surface_distances_mm

#: Per case, in the order of tables.
METRICS = ("dice", "hd", "hd95", "brier", "brier_plus", "ece")


@dataclass(frozen=True)
class CaseResult:
    """One case: for each class its sums and its metrics, keys as in ``Labels.keys``."""

    case: str
    sums: dict[str, ClassSums]
    metrics: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        labels: the classes.
        cases: results in the order of the case names.
        settings: what the numbers depend on.
        not_predicted: references without a prediction.
        skipped: (case, reason) of what ``chill`` left out.
    """

    labels: Labels
    cases: list[CaseResult]
    settings: dict[str, Any]
    not_predicted: list[str]
    skipped: list[tuple[str, str]]

    def pooled_sums(self, key: str) -> ClassSums:
        """The sums of a class over the voxels of all cases."""
        return reduce(add, (case.sums[key] for case in self.cases))

    def to_dict(self) -> dict[str, Any]:
        """The content of ``calibration.json``, schema 1, with NaN where a number does not exist."""
        classes = {}
        for key, name in zip(self.labels.keys, self.labels.names, strict=True):
            pooled = self.pooled_sums(key)
            classes[key] = {
                "name": name,
                "per_case": {
                    metric: over_cases([case.metrics[key][metric] for case in self.cases])
                    for metric in METRICS
                },
                "pooled": {**class_metrics(pooled), "bins": reliability_bins(pooled)},
            }
        return {
            "schema": 1,
            "settings": self.settings,
            "classes": classes,
            "cases": [{"case": case.case, "classes": case.metrics} for case in self.cases],
            "not_predicted": self.not_predicted,
            "skipped": [{"case": case, "reason": reason} for case, reason in self.skipped],
        }


def evaluate(
    gt_folder: Path,
    pred_folder: Path,
    *,
    dataset_json: Path | None = None,
    plans_json: Path | None = None,
    bins: int = 15,
    processes: int | None = None,
    chill: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Evaluate the probabilities of a folder of nnU-Net predictions.

    Args:
        gt_folder: reference segmentations.
        pred_folder: predictions, ``CASE.npz`` beside ``CASE<file_ending>``.
        dataset_json, plans_json: nnU-Net's files; looked for in ``pred_folder`` and two folders
            up if None.
        bins: number of bins of the reliability diagram and of the ECE.
        processes: how many cases are worked on at once; None: as many as there are cores.
        chill: go on without cases that cannot be evaluated, and list them.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the folders or a file cannot be used.
    """
    if bins < 1:
        raise InputError(f"bins: expected a number of bins of at least 1, got {bins}")
    dataset = read_dataset(pred_folder, dataset_json, plans_json)
    folder = find_cases(gt_folder, pred_folder, dataset.file_ending)
    # nnUNetv2_predict leaves this file: then every reference was meant to be predicted. The
    # validation folder of a training holds its fold alone, against references of all folds.
    if (
        folder.not_predicted
        and not chill
        and (pred_folder / "predict_from_raw_data_args.json").is_file()
    ):
        raise InputError(
            f"{pred_folder}: expected a prediction for each of the references in {gt_folder}, "
            f"{len(folder.not_predicted)} have none: {_some(folder.not_predicted)} "
            f"(--chill evaluates the others)"
        )
    skipped = list(folder.broken)
    if skipped and not chill:
        raise InputError("\n".join(reason for _, reason in skipped))

    results = []
    outcomes = _map(partial(_try_case, dataset=dataset, bins=bins), folder.cases, processes)
    bar = tqdm(outcomes, total=len(folder.cases), unit="case", disable=not progress)
    # Closed here and not when Python ends, which is too late for the pool's pipes.
    with closing(outcomes), closing(bar):
        for case, outcome in zip(folder.cases, bar, strict=True):
            if isinstance(outcome, CaseResult):
                results.append(outcome)
            elif chill:
                skipped.append((case.name, str(outcome)))
            else:
                raise outcome
    if not results:
        raise InputError(f"{pred_folder}: none of its {len(skipped)} cases could be evaluated")
    settings = {
        "bins": bins,
        "regions": ["image"],
        "gt_folder": str(gt_folder),
        "pred_folder": str(pred_folder),
        "reader": dataset.reader,
        "bootstrap": {"resamples": BOOTSTRAP_RESAMPLES, "seed": BOOTSTRAP_SEED},
        "version": __version__,
    }
    return Evaluation(dataset.labels, results, settings, folder.not_predicted, sorted(skipped))


def evaluate_case(case: Case, dataset: Dataset, bins: int) -> CaseResult:
    """Read one case and reduce it to its sums and metrics.

    Raises:
        InputError: a file cannot be used.
    """
    data = read_case(case, dataset)
    labels = dataset.labels
    segmentation = labels.segmentation(data.probabilities)
    valid: Any = ...
    if labels.ignore_label is not None:
        valid = data.reference != labels.ignore_label
    sums, metrics = {}, {}
    for i, key in enumerate(labels.keys):
        y, predicted = labels.mask(data.reference, i), labels.mask(segmentation, i)
        if labels.ignore_label is not None:
            y, predicted = y & valid, predicted & valid
        p = data.probabilities[labels.channel(i)]
        sums[key] = class_sums(p[valid].ravel(), y[valid].ravel(), predicted[valid].ravel(), bins)
        values = {
            **class_metrics(sums[key]),
            **surface_distances_mm(y, predicted, data.spacing_mm),
        }
        metrics[key] = {metric: values[metric] for metric in METRICS}
    return CaseResult(case.name, sums, metrics)


def _try_case(case: Case, dataset: Dataset, bins: int) -> CaseResult | InputError:
    try:
        return evaluate_case(case, dataset, bins)
    except InputError as error:
        return error


def _map(function: Any, cases: list[Case], processes: int | None) -> Generator[Any, None, None]:
    """``map`` over the cases, in their order, in several processes where that helps."""
    n = min(processes or os.cpu_count() or 1, len(cases))
    if n <= 1:
        yield from map(function, cases)
        return
    with ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(function, cases)
        except BrokenProcessPool:
            raise InputError(
                f"one of {n} processes was killed, probably for want of memory; "
                f"try fewer (-np {n // 2})"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
