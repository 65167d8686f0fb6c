"""A comparison as tables: terminal, Markdown, LaTeX, CSV, JSON.

Rows are models, columns metrics, cells mean (std) over cases with the best mean marked, as in the
MEEP paper's Table 1. Above them stands what they come to, in sentences; below them the differences
to the first model.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnunet_meep.atomic import replacing_file
from nnunet_meep.evaluation.compare import NOT_SEGMENTED, SIGNIFICANT, Comparison, shown
from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, Better, Metric
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.evaluation.report.text import aligned, nan_to_none
from nnunet_meep.evaluation.results import TOP_LABEL
from nnunet_meep.nnunet_files.calibrated import OPTIMISTIC


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
    """The verdict and tables for the terminal; a star marks the best mean."""
    blocks = [f"{about(comparison)}; mean (std) over cases, * the best mean"]
    if sentences := verdict_sentences(comparison):
        blocks.append("\n".join(sentences))
    for key, name in comparison.classes.items():
        rows = _rows(comparison, key, lambda text, best: f"{text}*" if best else f"{text} ")
        lines = aligned([[row[0], "", *row[1:]] for row in rows])
        lines.insert(1, "-" * max(map(len, lines)))
        blocks.append("\n".join([title(key, name), *lines]))
    if comparison.differences:
        blocks.append("\n".join(_difference_lines(comparison)))
    return "\n\n".join(blocks)


def markdown(comparison: Comparison) -> str:
    """The same as Markdown, with the comparison's warnings, and the best mean in bold."""
    blocks = [f"{about(comparison)}; mean (std) over cases, the best mean in bold"]
    if sentences := verdict_sentences(comparison):
        blocks.append("\n".join(f"- {sentence}" for sentence in sentences))
    blocks += [f"Warning: {line}" for line in comparison.warnings]
    for key, name in comparison.classes.items():
        rows = _rows(comparison, key, lambda text, best: f"**{text}**" if best else text)
        rows.insert(1, ["---"] * len(rows[0]))
        blocks.append(f"**{title(key, name)}**")
        blocks.append("\n".join(map(_markdown_row, rows)))
    if comparison.differences:
        blocks.append(about_differences(comparison))
        rows = [DIFFERENCE_HEAD, ["---"] * len(DIFFERENCE_HEAD), *difference_rows(comparison)]
        blocks.append("\n".join(map(_markdown_row, rows)))
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
    text = (
        "Differences to the first model, paired by case: mean, 95 % interval over cases (BCa "
        "bootstrap), p of Wilcoxon's signed-rank test, alone and Holm-corrected over the "
        f"{counted(comparison.n_tests, 'test')} of this table."
    )
    if any(TOO_SMALL in row for row in difference_rows(comparison)):
        text += (
            f' "{TOO_SMALL}": with so few cases p cannot be below {SIGNIFICANT}, whatever the '
            "difference; the interval still stands."
        )
    return text


def verdict_sentences(comparison: Comparison) -> list[str]:
    """What the tables come to, in plain sentences.

    First which classes a model does not segment. Then, of each other model, in which metrics of the
    tables it is better and worse than the first one (p < 0.05 after correction), or that no
    difference is shown, or that n is too small to show one.
    """
    return [
        *_not_segmented(comparison),
        *(_against_first(comparison, model) for model in comparison.models[1:]),
    ]


def _not_segmented(comparison: Comparison) -> list[str]:
    sentences = []
    n_classes = len(set(comparison.classes) - {TOP_LABEL})
    for model, found in comparison.not_segmented.items():
        of = comparison.n_trainings[model]
        for n in sorted(set(found.values()), reverse=True):
            names = [title(key, comparison.classes[key]) for key in found if found[key] == n]
            what, them = _listed(names), "it" if len(names) == 1 else "them"
            if len(names) == n_classes > 1:
                what, them = "any class", "it"
            where = "" if n == of else f" in {n} of its {of} trainings"
            sentences.append(
                f"{model} does not segment {what}{where}: Dice is 0 wherever the reference has "
                f"{them}."
            )
    if sentences and len(comparison.models) > 1:
        top_label = ", nor of the top label" * (TOP_LABEL in comparison.classes)
        sentences.append(
            f"A model is no candidate for the best of a class that it does not segment{top_label}."
        )
    return sentences


def _against_first(comparison: Comparison, model: str) -> str:
    first = comparison.models[0]
    tests = {
        (key, metric): test
        for key in comparison.classes
        for metric in columns(comparison, key)
        if not math.isnan((test := comparison.differences[model][key][metric])["p_smallest"])
    }
    if not tests:
        return f"No metric in the tables is defined for both {first} and {model}."
    verdicts = {where: comparison.verdict(model, *where) for where in tests}
    judged = [test for where, test in tests.items() if verdicts[where] != NOT_SEGMENTED]
    if not judged:
        return f"{first} and {model} are not compared: no class is segmented by both."
    scope = " in the classes that both segment" * (len(judged) < len(tests))
    corrected = f"after Holm's correction for {counted(comparison.n_tests, 'test')}"

    sides = []
    for side in ("better", "worse"):
        where = [where for where, verdict in verdicts.items() if verdict == side]
        if where:
            sides.append(f"{side} in {_metrics_and_classes(comparison, where)}")
    if sides:
        return (
            f"Compared with {first}{scope}, {model} is {'; '.join(sides)} (p < {SIGNIFICANT} "
            f"{corrected})."
        )

    n_small = sum(_too_small(test["p_smallest"], test["p_holm_smallest"]) for test in judged)
    if n_small == len(judged):
        n = max(test["n"] for test in judged)
        why = f": p cannot be below {SIGNIFICANT} {corrected}" if comparison.n_tests else ""
        return (
            f"{counted(n, 'case')} {'is' if n == 1 else 'are'} too few to show a difference "
            f"between {first} and {model}{scope}{why}."
        )
    too_few = f"; {n_small} of {len(judged)} have too few cases to show one" if n_small else ""
    return (
        f"No difference between {first} and {model} is shown{scope} (p of {SIGNIFICANT} or more "
        f"{corrected}{too_few})."
    )


def _metrics_and_classes(comparison: Comparison, tests: Sequence[tuple[str, str]]) -> str:
    """``Dice and ECE (1 Anterior, 2 Posterior), AURC (top label)`` of pairs of class and metric."""
    classes: dict[str, list[str]] = {}
    for key, metric in tests:
        name = "top label" if key == TOP_LABEL else title(key, comparison.classes[key])
        classes.setdefault(CATALOGUE[metric].name, []).append(name)
    metrics: dict[str, list[str]] = {}
    for metric, names in classes.items():
        more = [f"{len(names) - 5} more"] if len(names) > 5 else []
        metrics.setdefault(", ".join([*names[:5], *more]), []).append(metric)
    return ", ".join(f"{_listed(ms)} ({names})" for names, ms in metrics.items())


def _listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def about(comparison: Comparison) -> str:
    """What was compared over what."""
    return f"{describe(comparison.roi)}, {counted(len(comparison.cases), 'case')}"


def title(key: str, name: str) -> str:
    return "Top label, all classes" if key == TOP_LABEL else f"{key} {name}"


def columns(comparison: Comparison, key: str) -> list[str]:
    """The metrics that tables show of a class, of those that all models have."""
    return shown(key, comparison.summary[comparison.models[0]][key])


def cell(comparison: Comparison, model: str, key: str, metric: str) -> tuple[str, bool]:
    """Mean (std) over cases as text, and whether the mean is the best, also after rounding.

    A model that does not segment the class is never the best.
    """
    entry, heading = comparison.summary[model][key][metric], CATALOGUE[metric]
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
    """What has to stand at a model's name in the table of a class.

    What it does not segment, and whether its calibrator makes it look better than it is.
    """
    notes = [OPTIMISTIC] if model in comparison.optimistic else []
    if not comparison.segments(model, key):
        if key == TOP_LABEL:
            notes.append("not all classes segmented")
        else:
            n, of = comparison.not_segmented[model][key], comparison.n_trainings[model]
            in_some = f" in {n} of {of} trainings" if n < of else ""
            notes.append(f"{NOT_SEGMENTED}{in_some}")
    return ", ".join(notes)


def _rows(comparison: Comparison, key: str, mark: Callable[[str, bool], str]) -> list[list[str]]:
    metrics = columns(comparison, key)
    return [
        ["model", *(CATALOGUE[metric].heading for metric in metrics)],
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
            heading = CATALOGUE[metric]
            for model, keys in comparison.differences.items():
                test = keys[key][metric]
                mean = test["mean"]
                rows.append(
                    [
                        "all classes" if key == TOP_LABEL else f"{key} {name}",
                        heading.heading + ", distance to 1" * (heading.better is Better.NEAR_ONE),
                        model,
                        "-" if math.isnan(mean) else heading.number(mean, "+"),
                        _interval(heading, test["ci95"]),
                        _p(test["p"], test["p_smallest"]),
                        _p(test["p_holm"], test["p_smallest"], test["p_holm_smallest"]),
                        comparison.verdict(model, key, metric),
                    ]
                )
    return rows


def _interval(heading: Metric, ends: Sequence[float]) -> str:
    """Both ends with their signs, or one number where they are the same at the shown digits."""
    if any(map(math.isnan, ends)):
        return "-"
    return " to ".join(dict.fromkeys(heading.number(end, "+") for end in ends))


def _too_small(*smallest: float) -> bool:
    """Whether n is too small: one of the smallest possible p is not below 0.05."""
    return any(value > SIGNIFICANT for value in smallest)


def _p(p: float, *smallest: float) -> str:
    if _too_small(*smallest):
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
        writer.writerow(["model", "roi", "class", "name", "metric", *summary, *difference])
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
                    where = [model, comparison.roi, key, name, metric]
                    writer.writerow(where + [_csv_number(value) for value in row])


def _csv_number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
