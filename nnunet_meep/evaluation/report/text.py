"""An evaluation as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, CLASS_TABLE, WMH_TABLE
from nnunet_meep.evaluation.metrics.scores import cases_not_segmented
from nnunet_meep.evaluation.notes import counted, used_to_fit
from nnunet_meep.evaluation.report.lesion_tables import about_lesions, evaluated_lesions
from nnunet_meep.evaluation.report.tables import ranking_text, text_table
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.evaluation.volume_coverage import coverage_lines, with_intervals
from nnunet_meep.nnunet_files.calibrated import OPTIMISTIC


def table(evaluation: Evaluation) -> str:
    """A table for each ROI, with lines on classes that are not segmented and on errors below it.

    For each class it has mean and std over cases, and the metrics of the pooled voxels. The lines
    on errors give the actual and the expected error rate, those on scans how well the expected Dice
    of each case says which are bad; others say how many volumes the intervals of a calibrator
    contain. A table of the lesions comes last.
    """
    parts = []
    mark = f" ({OPTIMISTIC})" if used_to_fit(evaluation.calibrators) else ""
    for roi in evaluation.pooled:
        result = evaluation.roi_to_dict(roi)
        lines = _class_table(result["classes"], evaluation.class_metrics, mark)
        lines += [*_not_segmented(evaluation, roi), *_errors(evaluation, result)]
        lines += _scans(result)
        lines += coverage_lines(evaluation) if with_intervals([roi]) else []
        parts.append("\n".join([f"ROI: {describe(roi)}", *lines]))
    if rows := evaluated_lesions(evaluation):
        n_cases = counted(len(evaluation.cases), "case")
        about = f"Lesions: {about_lesions([evaluation])}; pooled over {n_cases}"
        parts.append("\n".join([about, text_table(rows, n_left=1), *_challenge(evaluation)]))
    return "\n\n".join(parts)


def _challenge(evaluation: Evaluation) -> list[str]:
    """A line with the WMH challenge's figures, means over cases, if they were computed."""
    metrics = [m for m in WMH_TABLE if m in evaluation.class_metrics]
    entries = evaluation.roi_to_dict(evaluation.roi)["classes"].values() if metrics else ()
    return [
        "Means over cases: "
        + ", ".join(
            f"{CATALOGUE[m].heading} {_cell(m, of['per_case'][m]['mean'])}" for m in metrics
        )
        for of in entries
    ]


def _class_table(classes: dict[str, Any], computed: Sequence[str], mark: str) -> list[str]:
    metrics = [m for m in CLASS_TABLE if m in computed]
    rows = [["class", "", *(CATALOGUE[m].heading for m in metrics)]]
    for key, entry in classes.items():
        name = f"{key} {entry['name']}{mark}"
        rows.append([name, "mean", *(_cell(m, entry["per_case"][m]["mean"]) for m in metrics)])
        rows.append(["", "(std)", *(f"({_cell(m, entry['per_case'][m]['std'])})" for m in metrics)])
        undefined = [entry["per_case"][m]["n_undefined"] for m in metrics]
        if any(undefined):
            rows.append(["", "undefined", *(str(n or "") for n in undefined)])
        rows.append(["", "pooled", *(_cell(m, entry["pooled"].get(m)) for m in metrics)])
    return text_table(rows).splitlines()


def _not_segmented(evaluation: Evaluation, roi: str) -> list[str]:
    """A line for each class whose Dice is 0 in every case whose reference has it."""
    lines = []
    for key, name in evaluation.classes.items():
        of_class = (case.rois[roi].classes[key] for case in evaluation.cases)
        pairs = ((metrics["dice"], metrics["brier_plus"]) for metrics in of_class)
        dice, brier_plus = zip(*pairs, strict=True)
        if n := cases_not_segmented(dice, brier_plus):
            where = f"all {n} cases that have it" if n > 1 else "the one case that has it"
            lines.append(f"Not segmented: {key} {name} (Dice 0 in {where})")
    return lines


def _errors(evaluation: Evaluation, result: dict[str, Any]) -> list[str]:
    """The actual and the expected error rate: one line, or one per region."""
    if result["top_label"] is not None:
        return [_error_line("all classes", result["top_label"]["pooled"])]
    return [
        _error_line(f"{key} {entry['name']}", entry["pooled"])
        for key, entry in result["classes"].items()
    ]


def _scans(result: dict[str, Any]) -> list[str]:
    """How well expected Dice tells good cases from bad ones, a line per class."""
    lines = []
    for key, entry in result["classes"].items():
        ranking = entry["ranking"]
        if ranking["n"] < 2:
            continue
        off = entry["per_case"]["dice_expected_error"]["mean"]
        rho, excess = (ranking_text(ranking[name]) for name in ("spearman", "e_aurc"))
        lines.append(
            f"Expected Dice, {key} {entry['name']}: off by {off:.3f} on average; rank correlation "
            f"with Dice {rho}, E-AURC {excess}"
        )
    return lines


def _error_line(name: str, pooled: dict[str, float]) -> str:
    actual, expected = pooled["error_rate"], pooled["error_rate_expected"]
    if math.isnan(actual):
        return f"Errors, {name}: no voxels"
    line = (
        f"Errors, {name}, pooled: {actual:.3%} of the voxels are wrong, {expected:.3%} were "
        f"expected to be"
    )
    ratio = pooled["error_rate_ratio"]
    return line if math.isnan(ratio) else f"{line} (expected / actual {ratio:.2f})"


def _cell(metric: str, value: float | None) -> str:
    if value is None:  # a metric that pooled voxels do not have, such as a surface distance
        return ""
    if math.isnan(value):
        return "-"
    return CATALOGUE[metric].number(value)
