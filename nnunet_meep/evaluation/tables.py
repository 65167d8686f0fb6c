"""A comparison as tables: terminal, Markdown, LaTeX, CSV, JSON.

Rows are models, columns metrics, cells mean (std) over cases with the best mean marked, as in the
MEEP paper's Table 1. Differences to the first model stand below.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunet_meep.atomic import replacing_file
from nnunet_meep.evaluation.compare import TOP_LABEL, Comparison
from nnunet_meep.evaluation.regions import describe
from nnunet_meep.evaluation.report import HEADINGS, aligned, nan_to_none

#: What tables show of the top label, as ``HEADINGS`` does for a class.
TOP_LABEL_HEADINGS: dict[str, tuple[str, str, float]] = {
    "ece": HEADINGS["ece"],
    "aurc": ("AURC e-3", ".2f", 1e3),
    "error_rate": ("errors %", ".3f", 1e2),
    "error_rate_expected": ("expected %", ".3f", 1e2),
    "error_rate_ratio": ("ratio", ".2f", 1),
}


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``comparison.json``, ``.csv``, ``.md`` and ``.tex`` into a folder.

    All are complete before the first one replaces an old one.

    Returns:
        The paths.

    Raises:
        OSError: the folder cannot be made or written; old results are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"comparison.{ending}" for ending in ("json", "csv", "md", "tex")]
    with (
        replacing_file(paths[0]) as json_path,
        replacing_file(paths[1]) as csv_path,
        replacing_file(paths[2]) as md_path,
        replacing_file(paths[3]) as tex_path,
    ):
        content = nan_to_none(comparison.to_dict())
        json_path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        _write_csv(comparison, csv_path)
        md_path.write_text(markdown(comparison))
        tex_path.write_text(latex(comparison))
    return paths


def terminal(comparison: Comparison) -> str:
    """Tables for the terminal; a star marks the best mean."""
    blocks = [_about(comparison)]
    for key, name in comparison.classes.items():
        rows = _rows(comparison, key, lambda text, best: f"{text}*" if best else f"{text} ")
        lines = aligned([[row[0], "", *row[1:]] for row in rows])
        lines.insert(1, "-" * max(map(len, lines)))
        blocks.append("\n".join([_title(key, name), *lines]))
    if comparison.differences:
        blocks.append("\n".join(_difference_lines(comparison)))
    return "\n\n".join(blocks)


def markdown(comparison: Comparison) -> str:
    """The same as Markdown, the best mean in bold."""
    blocks = [_about(comparison)]
    for key, name in comparison.classes.items():
        rows = _rows(comparison, key, lambda text, best: f"**{text}**" if best else text)
        rows.insert(1, ["---"] * len(rows[0]))
        blocks.append(f"**{_title(key, name)}**")
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    if comparison.differences:
        blocks.append(_DIFFERENCES)
        head = ["class", "metric", "model", "difference", "95 % interval", "p (Holm)"]
        rows = [head, ["---"] * len(head), *_difference_rows(comparison)]
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    blocks += [f"Warning: {line}" for line in comparison.warnings]
    return "\n\n".join(blocks) + "\n"


def latex(comparison: Comparison) -> str:
    """One ``tabular`` with a block of rows for each class, the best mean in bold (booktabs)."""
    lines = [f"% {line}" for line in (*_about(comparison).splitlines(), *comparison.warnings)]
    for key, name in comparison.classes.items():
        rows = _rows(
            comparison,
            key,
            lambda text, best: f"\\textbf{{{_tex(text)}}}" if best else _tex(text),
        )
        head = [rows[0][0], *map(_tex, rows[0][1:])]
        body = [[_tex(row[0]), *row[1:]] for row in rows[1:]]
        lines += [
            f"% {_title(key, name)}",
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            "\\toprule",
            " & ".join(head) + " \\\\",
            "\\midrule",
            *(" & ".join(row) + " \\\\" for row in body),
            "\\bottomrule",
            "\\end{tabular}",
        ]
    return "\n".join(lines) + "\n"


_DIFFERENCES = (
    "Differences to the first model, paired by case: mean, bootstrap 95 % interval over cases, "
    "p of Wilcoxon's signed-rank test, Holm-corrected for all tests made here."
)


def _about(comparison: Comparison) -> str:
    n = len(comparison.cases)
    return f"{describe(comparison.region)}, {n} case{'s' * (n != 1)}; mean (std) over cases"


def _title(key: str, name: str) -> str:
    return "Top label, all classes" if key == TOP_LABEL else f"{key} {name}"


def _columns(comparison: Comparison, key: str) -> dict[str, tuple[str, str, float]]:
    """metric: heading, format, scale, of those that all models have."""
    chosen = TOP_LABEL_HEADINGS if key == TOP_LABEL else HEADINGS
    there = comparison.summary[comparison.models[0]][key]
    return {m: column for m, column in chosen.items() if m in there}


def _rows(comparison: Comparison, key: str, mark: Callable[[str, bool], str]) -> list[list[str]]:
    columns = _columns(comparison, key)
    rows = [["model", *(heading for heading, _, _ in columns.values())]]
    best = {metric: comparison.best(key, metric) for metric in columns}
    for model in comparison.models:
        cells = []
        for metric, (_, style, scale) in columns.items():
            entry = comparison.summary[model][key][metric]
            text = _number(entry["mean"], style, scale)
            if not math.isnan(entry["std"]):
                text += f" ({_number(entry['std'], style, scale)})"
            if entry["n_undefined"]:
                text += f" n={entry['n']}"
            marked = model in best[metric] and len(comparison.models) > 1
            cells.append(mark(text, marked))
        rows.append([model, *cells])
    return rows


def _difference_rows(comparison: Comparison) -> list[list[str]]:
    rows = []
    for key, name in comparison.classes.items():
        for metric, (heading, style, scale) in _columns(comparison, key).items():
            for model, keys in comparison.differences.items():
                test = keys[key][metric]
                low, high = (_number(v, f"+{style}", scale) for v in test["ci95"])
                rows.append(
                    [
                        "all classes" if key == TOP_LABEL else f"{key} {name}",
                        heading,
                        model,
                        _number(test["mean"], f"+{style}", scale),
                        f"{low} to {high}",
                        _number(test["p_holm"], ".3g", 1),
                    ]
                )
    return rows


def _difference_lines(comparison: Comparison) -> list[str]:
    head = ["class", "metric", "model", "difference", "95 % interval", "p (Holm)"]
    return [_DIFFERENCES, "", *aligned([head, *_difference_rows(comparison)])]


def _number(value: float, style: str, scale: float) -> str:
    return "-" if math.isnan(value) else format(value * scale, style)


def _tex(text: str) -> str:
    for character in "&%#_{}":
        text = text.replace(character, f"\\{character}")
    return text


def _write_csv(comparison: Comparison, path: Path) -> None:
    """One row for each model, class and metric."""
    summary = ["mean", "std", "median", "low", "high", "n", "n_undefined", "training_std"]
    difference = ["difference", "difference_low", "difference_high", "p", "p_holm"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "region", "class", "name", "metric", *summary, *difference])
        for model, keys in comparison.summary.items():
            for key, metrics in keys.items():
                for metric, entry in metrics.items():
                    values = {**entry, "low": entry["ci95"][0], "high": entry["ci95"][1]}
                    row: list[Any] = [values[name] for name in summary]
                    if model in comparison.differences:
                        test = comparison.differences[model][key][metric]
                        row += [test["mean"], *test["ci95"], test["p"], test["p_holm"]]
                    else:
                        row += [math.nan] * len(difference)
                    name = comparison.classes[key]
                    where = [model, comparison.region, key, name, metric]
                    writer.writerow(where + [_csv_number(value) for value in row])


def _csv_number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
