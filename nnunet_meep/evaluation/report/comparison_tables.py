"""A comparison as tables: terminal, Markdown, LaTeX, CSV, JSON.

Rows are models, columns are metrics, cells are mean (std) over cases with the best mean marked, as
in Table 1 of the MEEP paper. The conclusions stand above the tables, in sentences; the differences
to the first model stand below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_meep.atomic import replacing_files
from nnunet_meep.evaluation.comparison import (
    COLUMNS,
    NOT_SEGMENTED,
    SIGNIFICANT,
    Comparison,
    judged,
)
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, WMH_TABLE
from nnunet_meep.evaluation.metrics.metric import Better, Metric
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.evaluation.report.lesion_tables import (
    about_compared,
    compared_lesions,
    has_lesions,
)
from nnunet_meep.evaluation.report.scans import ABOUT, QUESTION, ranking_table
from nnunet_meep.evaluation.report.tables import markdown_table, text_table, write_csv, write_text
from nnunet_meep.evaluation.report.verdict import (
    about,
    columns,
    counted_trainings,
    short_verdict,
    title,
    too_small,
    trainings_sentence,
    verdict_sentences,
)
from nnunet_meep.evaluation.result_format import TOP_LABEL, write_json
from nnunet_meep.nnunet_files.calibrated import OPTIMISTIC


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``comparison.json``, ``.csv``, ``.md`` and ``.tex`` into a folder.

    All are complete before the first one replaces an old file.

    Returns:
        The paths.

    Raises:
        OSError: the folder cannot be created or written; old results are unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"comparison.{ending}" for ending in ("json", "csv", "md", "tex")]
    with replacing_files(paths) as (json_path, csv_path, md_path, tex_path):
        write_json(json_path, comparison.to_dict())
        write_csv(csv_path, COLUMNS, comparison.rows())
        write_text(md_path, markdown(comparison))
        write_text(tex_path, latex(comparison))
    return paths


def terminal(comparison: Comparison) -> str:
    """The verdict and tables for the terminal; a star marks the best mean."""
    blocks = [f"{about(comparison)}; mean (std) over cases, * the best mean"]
    blocks.append("\n".join(short_verdict(comparison)))
    if sentences := verdict_sentences(comparison):
        blocks.append("\n".join(sentences))
    for key, name in comparison.classes.items():
        rows = _rows(comparison, key, lambda text, best: f"*{text}" if best else text)
        blocks.append(f"{title(key, name)}\n{text_table(rows, n_left=1)}")
    if rows := ranking_table(comparison):
        blocks.append(f"{QUESTION} {ABOUT}\n\n{text_table(rows, n_left=2)}")
    for caption, rows in _of_lesions(comparison, lambda text, best: f"*{text}" if best else text):
        blocks.append(f"{caption}\n{text_table(rows, n_left=1)}")
    if comparison.differences:
        rows = difference_table(comparison)
        blocks.append(f"{about_differences(comparison)}\n\n{text_table(rows, n_left=3)}")
    return "\n\n".join(blocks)


def markdown(comparison: Comparison) -> str:
    """The same as Markdown, with the comparison's warnings, and the best mean in bold."""
    blocks = [f"{about(comparison)}; mean (std) over cases, the best mean in bold"]
    blocks += short_verdict(comparison)
    if sentences := verdict_sentences(comparison):
        blocks.append("\n".join(f"- {sentence}" for sentence in sentences))
    blocks += [f"Warning: {line}" for line in comparison.warnings]
    for key, name in comparison.classes.items():
        rows = _rows(comparison, key, lambda text, best: f"**{text}**" if best else text)
        blocks += [f"**{title(key, name)}**", markdown_table(rows)]
    if rows := ranking_table(comparison):
        blocks += [f"**{QUESTION}** {ABOUT}", markdown_table(rows, n_left=2)]
    for caption, rows in _of_lesions(
        comparison, lambda text, best: f"**{text}**" if best else text
    ):
        blocks += [f"**{caption}**", markdown_table(rows)]
    if comparison.differences:
        rows = difference_table(comparison)
        blocks += [about_differences(comparison), markdown_table(rows, n_left=3)]
    # Names come from files: none of them is a tag of HTML.
    return re.sub(r"<(?=[a-zA-Z/!?])", r"\<", "\n\n".join(blocks)) + "\n"


def latex(comparison: Comparison) -> str:
    """One ``table`` for each class, the best mean in bold; for the package ``booktabs``."""
    lines = [f"% {line}" for line in comparison.warnings]
    for i, (key, name) in enumerate(comparison.classes.items(), 1):
        rows = _rows(
            comparison,
            key,
            lambda text, best: f"\\textbf{{{_tex(text)}}}" if best else _tex(text),
        )
        head = [rows[0][0], *map(_tex, rows[0][1:])]
        body = [[_tex(row[0]), *row[1:]] for row in rows[1:]]
        lines += [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_tex(_caption(comparison, key, name))}}}",
            f"\\label{{tab:calibration-{'top-label' if key == TOP_LABEL else i}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            "\\toprule",
            " & ".join(head) + " \\\\",
            "\\midrule",
            # The braces keep a name that begins with [ or * from being read as an argument.
            *("{}" * row[0].startswith(("[", "*")) + " & ".join(row) + " \\\\" for row in body),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    return "\n".join(lines) + "\n"


def _caption(comparison: Comparison, key: str, name: str) -> str:
    """What a table shows, of which cases and trainings, and what its marks mean."""
    several = any(n > 1 for n in comparison.n_trainings.values())
    parts = [
        f"{title(key, name)}: {about(comparison)}.",
        "Mean over cases, in parentheses the standard deviation over cases"
        + ", after averaging over the trainings of a model" * several
        + ".",
        counted_trainings(comparison),
    ]
    if any(
        comparison.summary[m][key][metric]["n_undefined"]
        for m in comparison.models
        for metric in columns(comparison, key)
    ):
        parts.append("n: number of cases in which a metric is defined, if not in all.")
    if len(comparison.models) > 1:
        parts.append("Bold: the best mean, whether or not the difference may be due to chance.")
    return " ".join(parts)


_HEAD = ("class", "metric", "model", "difference", "95 % interval", "p", "p (Holm)")
#: Heading of the second interval, if a model was trained several times.
OVER_TRAININGS = "over trainings and cases"


def difference_head(comparison: Comparison) -> list[str]:
    """The headings of :func:`difference_rows`."""
    if _any_repeated(comparison):
        return [*_HEAD[:5], OVER_TRAININGS, *_HEAD[5:], "beyond chance"]
    return [*_HEAD, f"p (Holm) < {SIGNIFICANT}"]


def _any_repeated(comparison: Comparison) -> bool:
    return any(map(comparison.repeated, comparison.differences))


#: Shown instead of a p that could not be below 0.05, whatever the difference.
TOO_SMALL = "n too small"
#: What cells hold that say nothing.
_NOTHING = {TOO_SMALL, "-", ""}


def difference_table(comparison: Comparison) -> list[list[str]]:
    """:func:`difference_head` and :func:`difference_rows`, without columns that say nothing."""
    head, rows = difference_head(comparison), difference_rows(comparison)
    kept = [i for i in range(len(head)) if i < 5 or {row[i] for row in rows} - _NOTHING]
    return [[row[i] for i in kept] for row in (head, *rows)]


def about_differences(comparison: Comparison) -> str:
    """The caption of the table of differences, with the number of tests p is corrected for."""
    head, *rows = difference_table(comparison)
    tests = counted(comparison.n_tests, "test")
    text = (
        "Differences to the first model, paired by case: mean, 95 % interval over cases (BCa "
        "bootstrap)"
    )
    if "p" in head:
        text += ", p of Wilcoxon's signed-rank test"
    if "p (Holm)" in head:
        text += f", alone and Holm-corrected over the {tests} of this table"
    text += "."
    if _any_repeated(comparison):
        text += (
            f" These take the trainings as they are. The interval {OVER_TRAININGS} (rescaling "
            "bootstrap, t) also tells whether other trainings would give the same."
        )
    if "beyond chance" in head:
        text += (
            f" Beyond chance: p (Holm) is below {SIGNIFICANT}, and this interval, if given, does "
            "not contain 0."
        )
    if 1 in comparison.n_trainings.values():
        text += f" {trainings_sentence(comparison)}"
    return text + _about_too_small(head, rows, tests)


def _about_too_small(head: Sequence[str], rows: Sequence[Sequence[str]], tests: str) -> str:
    """Why a p is not shown, in single rows or in none; empty if all are shown."""
    cannot = f"cannot be below {SIGNIFICANT}, whatever the difference"
    if "p" not in head:
        text = f" p is left out: with so few cases it {cannot}."
    elif "p (Holm)" not in head:
        text = f" p (Holm) is left out: with so few cases and {tests} it {cannot}."
    elif any(TOO_SMALL in row for row in rows):
        text = f' "{TOO_SMALL}": with so few cases this p {cannot}.'
    else:
        return ""
    return f"{text} An interval without 0 is no proof then: over few cases it is often too narrow."


def cell(comparison: Comparison, model: str, key: str, metric: str) -> tuple[str, bool]:
    """Mean (std) over cases as text, and whether the model is the best.

    The mean distance to 1 follows if models are compared by it. Numbers that are equal after
    rounding are equally good; if all are equal, none is the best. A model that does not segment
    the class is never the best.
    """
    entry, heading = comparison.summary[model][key][metric], CATALOGUE[metric]
    if math.isnan(entry["mean"]):
        return "-", False
    text = heading.number(entry["mean"])
    if not math.isnan(entry["std"]):
        text += f" ({heading.number(entry['std'])})"
    if entry["n_undefined"]:
        text += f" n={entry['n']}"
    numbers = {
        m: heading.number(judged(comparison.summary[m][key][metric])) for m in comparison.models
    }
    mine = numbers[model]
    if heading.better is Better.NEAR_ONE:
        text += f", off by {mine}"
    best = {numbers[m] for m in comparison.best(key, metric)}
    is_best = comparison.segments(model, key) and mine in best
    return text, is_best and len(set(numbers.values())) > 1


def note(comparison: Comparison, model: str, key: str) -> str:
    """The remark beside a model's name in the table of a class.

    It says whether the class is not segmented, and whether the numbers are optimistic because the
    calibrator was fitted to compared cases.
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


def _rows(
    comparison: Comparison,
    key: str,
    mark: Callable[[str, bool], str],
    metrics: Sequence[str] | None = None,
) -> list[list[str]]:
    """The table of a class; ``metrics``: those of its columns, None: the usual ones."""
    metrics = columns(comparison, key) if metrics is None else metrics
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


def _of_lesions(
    comparison: Comparison, mark: Callable[[str, bool], str]
) -> list[tuple[str, list[list[str]]]]:
    """Captions and rows of the tables of lesions, and of the WMH challenge's figures."""
    if not has_lesions(comparison):
        return []
    found = []
    for key, name in comparison.classes.items():
        if key != TOP_LABEL:
            caption = f"{title(key, name)}: {about_compared(comparison)}"
            found.append((caption, compared_lesions(comparison, key)))
            if metrics := challenge_columns(comparison, key):
                rows = _rows(comparison, key, mark, metrics)
                found.append((f"{title(key, name)}: figures of the WMH challenge", rows))
    return found


def challenge_columns(comparison: Comparison, key: str) -> list[str]:
    """The WMH challenge's figures that all models have."""
    there = comparison.summary[comparison.models[0]][key]
    return [metric for metric in WMH_TABLE if metric in there]


def _with_note(comparison: Comparison, model: str, key: str) -> str:
    text = note(comparison, model, key)
    return f"{model} ({text})" if text else model


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """One row of text for each test, with the columns of :func:`difference_head`."""
    rows = []
    several = _any_repeated(comparison)
    for key, name in comparison.classes.items():
        for metric in columns(comparison, key):
            heading = CATALOGUE[metric]
            for model, keys in comparison.differences.items():
                test = keys[key][metric]
                mean = test["mean"]
                ends = test["ci95_trainings"] if comparison.repeated(model) else (math.nan,)
                rows.append(
                    [
                        "all classes" if key == TOP_LABEL else f"{key} {name}",
                        heading.heading + ", distance to 1" * (heading.better is Better.NEAR_ONE),
                        model,
                        "-" if math.isnan(mean) else heading.number(mean, "+"),
                        _interval(heading, test["ci95"]),
                        *[_interval(heading, ends)] * several,
                        _p(test["p"], test["p_smallest"]),
                        _p(test["p_holm"], test["p_smallest"], test["p_holm_smallest"]),
                        comparison.verdict(model, key, metric),
                    ]
                )
    return rows


def _interval(heading: Metric, ends: Sequence[float]) -> str:
    """Both ends with their signs."""
    if any(map(math.isnan, ends)):
        return "-"
    return " to ".join(heading.number(end, "+") for end in ends)


def _p(p: float, *smallest: float) -> str:
    if too_small(*smallest):
        return TOO_SMALL
    return "-" if math.isnan(p) else f"{p:.3g}"


_TEX = {character: f"\\{character}" for character in "&%#_{}$"}
_TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # or ¡, ¿ and — in OT1


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
