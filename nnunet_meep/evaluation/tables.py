"""A comparison as tables: terminal, Markdown, LaTeX, CSV, JSON.

Rows are models, columns metrics, cells mean (std) over cases with the best mean marked, as in the
MEEP paper's Table 1. Differences to the first model stand below.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnunet_meep.atomic import replacing_file
from nnunet_meep.evaluation.compare import (
    CLOSE_TO_ONE,
    NOT_SEGMENTED,
    SIGNIFICANT,
    TOP_LABEL,
    Comparison,
    shown,
)
from nnunet_meep.evaluation.headings import HEADINGS, Heading
from nnunet_meep.evaluation.regions import describe
from nnunet_meep.evaluation.report import aligned, nan_to_none


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
    blocks = [f"{about(comparison)}; mean (std) over cases, * the best mean"]
    for key, name in comparison.classes.items():
        rows = _rows(comparison, key, lambda text, best: f"{text}*" if best else f"{text} ")
        lines = aligned([[row[0], "", *row[1:]] for row in rows])
        lines.insert(1, "-" * max(map(len, lines)))
        blocks.append("\n".join([title(key, name), *lines]))
    if comparison.differences:
        blocks.append("\n".join(_difference_lines(comparison)))
    return "\n\n".join(blocks)


def markdown(comparison: Comparison) -> str:
    """The same as Markdown, the best mean in bold."""
    blocks = [f"{about(comparison)}; mean (std) over cases, the best mean in bold"]
    for key, name in comparison.classes.items():
        rows = _rows(comparison, key, lambda text, best: f"**{text}**" if best else text)
        rows.insert(1, ["---"] * len(rows[0]))
        blocks.append(f"**{title(key, name)}**")
        blocks.append("\n".join(map(_markdown_row, rows)))
    if comparison.differences:
        blocks.append(about_differences(comparison))
        rows = [DIFFERENCE_HEAD, ["---"] * len(DIFFERENCE_HEAD), *difference_rows(comparison)]
        blocks.append("\n".join(map(_markdown_row, rows)))
    blocks += [f"Warning: {line}" for line in comparison.warnings]
    return "\n\n".join(blocks) + "\n"


def latex(comparison: Comparison) -> str:
    """One ``tabular`` with a block of rows for each class, the best mean in bold (booktabs)."""
    lines = [
        f"% {line}"
        for line in (
            f"{about(comparison)}; mean (std) over cases, the best mean in bold",
            *comparison.warnings,
        )
    ]
    for key, name in comparison.classes.items():
        rows = _rows(
            comparison,
            key,
            lambda text, best: f"\\textbf{{{_tex(text)}}}" if best else _tex(text),
        )
        head = [rows[0][0], *map(_tex, rows[0][1:])]
        body = [[_tex(row[0]), *row[1:]] for row in rows[1:]]
        lines += [
            f"% {title(key, name)}",
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            "\\toprule",
            " & ".join(head) + " \\\\",
            "\\midrule",
            *(" & ".join(row) + " \\\\" for row in body),
            "\\bottomrule",
            "\\end{tabular}",
        ]
    return "\n".join(lines) + "\n"


DIFFERENCE_HEAD = [
    "class",
    "metric",
    "model",
    "difference",
    "95 % interval",
    "p",
    "p (Holm)",
    "p (Holm) < 0.05",
]
#: In place of a p that could not be below 0.05, whatever the difference.
TOO_SMALL = "n too small"


def about_differences(comparison: Comparison) -> str:
    """What the rows of ``DIFFERENCE_HEAD`` are, and how many tests p is corrected for."""
    n = comparison.n_tests
    text = (
        "Differences to the first model, paired by case: mean, 95 % interval over cases (BCa "
        "bootstrap), p of Wilcoxon's signed-rank test, alone and Holm-corrected over the "
        f"{n} test{'s' * (n != 1)} of this table."
    )
    if any(TOO_SMALL in row for row in difference_rows(comparison)):
        text += (
            f' "{TOO_SMALL}": with so few cases p cannot be below {SIGNIFICANT}, whatever the '
            "difference; the interval still stands."
        )
    return text


def about(comparison: Comparison) -> str:
    """What was compared over what."""
    n = len(comparison.cases)
    return f"{describe(comparison.region)}, {n} case{'s' * (n != 1)}"


def title(key: str, name: str) -> str:
    return "Top label, all classes" if key == TOP_LABEL else f"{key} {name}"


def columns(comparison: Comparison, key: str) -> list[str]:
    """The metrics that tables show of a class, of those that all models have."""
    return shown(key, comparison.summary[comparison.models[0]][key])


def cell(comparison: Comparison, model: str, key: str, metric: str) -> tuple[str, bool]:
    """Mean (std) over cases as text, and whether the mean is the best, also after rounding.

    A model that does not segment the class is never the best.
    """
    entry, heading = comparison.summary[model][key][metric], HEADINGS[metric]
    if math.isnan(entry["mean"]):
        return "-", False
    text = mean = heading.number(entry["mean"])
    if not math.isnan(entry["std"]):
        text += f" ({heading.number(entry['std'])})"
    if entry["n_undefined"]:
        text += f" n={entry['n']}"
    best = {
        heading.number(comparison.summary[m][key][metric]["mean"])
        for m in comparison.best(key, metric)
    }
    means = {heading.number(comparison.summary[m][key][metric]["mean"]) for m in comparison.models}
    return text, comparison.segments(model, key) and mean in best and len(means) > 1


def note(comparison: Comparison, model: str, key: str) -> str:
    """What has to stand at a model's name in the table of a class: what it does not segment."""
    if comparison.segments(model, key):
        return ""
    if key == TOP_LABEL:
        return "not all classes segmented"
    n, of = comparison.not_segmented[model][key], comparison.n_trainings[model]
    return NOT_SEGMENTED if n == of else f"{NOT_SEGMENTED} in {n} of {of} trainings"


def _rows(comparison: Comparison, key: str, mark: Callable[[str, bool], str]) -> list[list[str]]:
    metrics = columns(comparison, key)
    return [
        ["model", *(HEADINGS[metric].text for metric in metrics)],
        *(
            [
                _with_note(comparison, model, key),
                *(mark(*cell(comparison, model, key, metric)) for metric in metrics),
            ]
            for model in comparison.models
        ),
    ]


def _with_note(comparison: Comparison, model: str, key: str) -> str:
    text = note(comparison, model, key)
    return f"{model} ({text})" if text else model


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """What ``DIFFERENCE_HEAD`` names, of each test, as text."""
    rows = []
    for key, name in comparison.classes.items():
        for metric in columns(comparison, key):
            heading = HEADINGS[metric]
            for model, keys in comparison.differences.items():
                test = keys[key][metric]
                mean = test["mean"]
                rows.append(
                    [
                        "all classes" if key == TOP_LABEL else f"{key} {name}",
                        heading.text + ", distance to 1" * (metric in CLOSE_TO_ONE),
                        model,
                        "-" if math.isnan(mean) else heading.number(mean, "+"),
                        _interval(heading, test["ci95"]),
                        _p(test["p"], test["p_smallest"]),
                        _p(test["p_holm"], test["p_smallest"], test["p_holm_smallest"]),
                        comparison.verdict(model, key, metric),
                    ]
                )
    return rows


def _interval(heading: Heading, ends: Sequence[float]) -> str:
    """Both ends with their signs, or one number where they are the same at the shown digits."""
    if any(map(math.isnan, ends)):
        return "-"
    return " to ".join(dict.fromkeys(heading.number(end, "+") for end in ends))


def _p(p: float, *smallest: float) -> str:
    if any(value > SIGNIFICANT for value in smallest):
        return TOO_SMALL
    return "-" if math.isnan(p) else f"{p:.3g}"


def _difference_lines(comparison: Comparison) -> list[str]:
    rows = [DIFFERENCE_HEAD, *difference_rows(comparison)]
    return [about_differences(comparison), "", *aligned(rows)]


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [text.replace("|", r"\|") for text in cells]
    return f"| {' | '.join(escaped)} |"


_TEX = {character: f"\\{character}" for character in "&%#_{}$"}
_TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


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
