"""What an evaluation leaves behind: ``calibration.json``, a CSV, a picture, a table."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

from nnunet_meep.atomic import replacing_file
from nnunet_meep.evaluation.evaluate import METRICS, Evaluation
from nnunet_meep.evaluation.plots import reliability_figure

#: metric: (heading with unit, format)
HEADINGS = {
    "dice": ("Dice", ".3f"),
    "hd": ("HD mm", ".2f"),
    "hd95": ("HD95 mm", ".2f"),
    "brier": ("Brier e-4", ".2f"),
    "brier_plus": ("Brier+", ".3f"),
    "ece": ("ECE e-3", ".2f"),
}
_SCALE = {"brier": 1e4, "ece": 1e3}


def write(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write ``calibration.json``, ``calibration.csv`` and ``reliability.png`` into a folder.

    All three are complete before the first one replaces an old result.

    Returns:
        The three paths.

    Raises:
        OSError: the folder cannot be made or written; old results are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("calibration.json", "calibration.csv", "reliability.png")
    paths = [folder / name for name in names]
    with (
        replacing_file(paths[0]) as json_path,
        replacing_file(paths[1]) as csv_path,
        replacing_file(paths[2]) as png_path,
    ):
        content = _nan_to_none(evaluation.to_dict())
        json_path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        _write_csv(evaluation, csv_path)
        reliability_figure(evaluation.to_dict()["classes"]).savefig(png_path, dpi=150)
    return paths


def table(evaluation: Evaluation) -> str:
    """A table for the terminal: per class the mean (std) over cases, and the pooled voxels."""
    result = evaluation.to_dict()
    rows = [["class", "", *(HEADINGS[m][0] for m in METRICS)]]
    for key, entry in result["classes"].items():
        name = f"{key} {entry['name']}"
        rows.append([name, "mean", *(_cell(m, entry["per_case"][m]["mean"]) for m in METRICS)])
        rows.append(["", "(std)", *(f"({_cell(m, entry['per_case'][m]['std'])})" for m in METRICS)])
        undefined = [entry["per_case"][m]["n_undefined"] for m in METRICS]
        if any(undefined):
            rows.append(["", "undefined", *(str(n or "") for n in undefined)])
        rows.append(["", "pooled", *(_cell(m, entry["pooled"].get(m)) for m in METRICS)])
    lines = aligned(rows)
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


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
    return format(value * _SCALE.get(metric, 1), HEADINGS[metric][1])


def _write_csv(evaluation: Evaluation, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", "name", *METRICS])
        for case in evaluation.cases:
            for key, name in zip(evaluation.labels.keys, evaluation.labels.names, strict=True):
                values = [case.metrics[key][m] for m in METRICS]
                writer.writerow(
                    [case.case, key, name, *("" if math.isnan(v) else repr(v) for v in values)]
                )


def _nan_to_none(value: Any) -> Any:
    """JSON has no NaN: null says that a number does not exist."""
    if isinstance(value, dict):
        return {k: _nan_to_none(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
