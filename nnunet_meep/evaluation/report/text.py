"""What an evaluation leaves behind: ``calibration.json``, a CSV, pictures, a table."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nnunet_meep.atomic import replacing_file
from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, CLASS_TABLE
from nnunet_meep.evaluation.metrics.scores import cases_not_segmented
from nnunet_meep.evaluation.notes import used_to_fit
from nnunet_meep.evaluation.report.plots import Layer, reliability_figure, save_figure
from nnunet_meep.evaluation.results import Evaluation, Sources
from nnunet_meep.nnunet_files.calibrated import OPTIMISTIC


def write(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write ``calibration.json``, ``.csv``, ``reliability.png`` and ``.svg`` into a folder.

    All are complete before the first one replaces an old result.

    Returns:
        The paths.

    Raises:
        OSError: the folder cannot be made or written; old results are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("calibration.json", "calibration.csv", "reliability.png", "reliability.svg")
    paths = [folder / name for name in names]
    result = {
        **evaluation.to_dict(),
        "origin": {
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **_sources(evaluation.sources, folder),
        },
    }
    with (
        replacing_file(paths[0]) as json_path,
        replacing_file(paths[1]) as csv_path,
        replacing_file(paths[2]) as png_path,
        replacing_file(paths[3]) as svg_path,
    ):
        json_path.write_text(json.dumps(nan_to_none(result), indent=1, allow_nan=False) + "\n")
        _write_csv(evaluation, csv_path)
        roi = next(iter(evaluation.pooled))
        n = len(evaluation.cases)
        panels = {
            f"{entry['name']} (label {key})\npooled ECE {1e3 * entry['pooled']['ece']:.2f} e-3": [
                Layer(
                    "all cases",
                    entry["pooled"]["bins"],
                    [case.rois[roi].bins[key] for case in evaluation.cases],
                )
            ]
            for key, entry in result["classes"].items()
        }
        title = f"{describe(roi)}, {n} case{'s' * (n != 1)}"
        figure = reliability_figure(panels, title)
        save_figure(figure, png_path, "png")
        save_figure(figure, svg_path, "svg")
    return paths


def _sources(sources: Sources, folder: Path) -> dict[str, Any]:
    """Where the files are from the folder of results, so that both may be moved together."""

    def from_here(path: Path | None) -> str | None:
        return None if path is None else os.path.relpath(path.resolve(), folder.resolve())

    return {
        "gt_folder": from_here(sources.gt_folder),
        "pred_folders": [from_here(path) for path in sources.pred_folders],
        "dataset_json": from_here(sources.dataset_json),
        "plans_json": from_here(sources.plans_json),
        "masks": {name: from_here(folder) for name, folder in sources.masks.items()},
    }


def table(evaluation: Evaluation) -> str:
    """Tables for the terminal, one for each ROI: per class the mean (std) over cases, and the
    pooled voxels; below it classes that are not segmented at all, and how many errors there are and
    how many were expected."""
    parts = []
    mark = f" ({OPTIMISTIC})" if used_to_fit(evaluation.calibrators) else ""
    for roi in evaluation.pooled:
        result = evaluation.roi_to_dict(roi)
        lines = _class_table(result["classes"], evaluation.class_metrics, mark)
        lines += [*_not_segmented(result), *_errors(evaluation, result)]
        parts.append("\n".join([f"ROI: {describe(roi)}", *lines]))
    return "\n\n".join(parts)


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
    lines = aligned(rows)
    lines.insert(1, "-" * max(map(len, lines)))
    return lines


def _not_segmented(result: dict[str, Any]) -> list[str]:
    """A line for each class with Dice 0 in every case whose reference has it."""
    lines = []
    for key, entry in result["classes"].items():
        of_class = [case["classes"][key] for case in result["cases"]]
        n = cases_not_segmented(
            [metrics["dice"] for metrics in of_class],
            [metrics["brier_plus"] for metrics in of_class],
        )
        if n:
            where = f"all {n} cases that have it" if n > 1 else "the one case that has it"
            lines.append(f"Not segmented: {key} {entry['name']} (Dice 0 in {where})")
    return lines


def _errors(evaluation: Evaluation, result: dict[str, Any]) -> list[str]:
    """How wrong the voxels are, and how wrong they expect to be: one line, or one per region."""
    if result["top_label"] is not None:
        return [_error_line("all classes", result["top_label"]["pooled"])]
    return [
        _error_line(f"{key} {entry['name']}", entry["pooled"])
        for key, entry in result["classes"].items()
    ]


def _error_line(name: str, pooled: dict[str, float]) -> str:
    actual, expected = pooled["error_rate"], pooled["error_rate_expected"]
    if math.isnan(actual):
        return f"Errors, {name}: no voxels"
    line = (
        f"Errors, {name}, pooled: {actual:.3%} of the voxels are wrong, {expected:.3%} were "
        f"expected to be"
    )
    ratio = pooled["error_rate_ratio"]
    return line if math.isnan(ratio) else f"{line} ({ratio:.2f} times)"


def aligned(rows: list[list[str]]) -> list[str]:
    """A line for each row: the first two columns to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, range(len(row)), strict=True)
        lines.append("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for c, w, i in cells).rstrip())
    return lines


def _cell(metric: str, value: float | None) -> str:
    if value is None:  # not defined for pooled voxels
        return ""
    if math.isnan(value):
        return "-"
    return CATALOGUE[metric].number(value)


def _write_csv(evaluation: Evaluation, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(evaluation.columns)
        for row in evaluation.rows():
            writer.writerow([*row[:4], *map(_csv_number, row[4:])])


def _csv_number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def nan_to_none(value: Any) -> Any:
    """JSON has no NaN: null says that a number does not exist."""
    if isinstance(value, dict):
        return {k: nan_to_none(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
