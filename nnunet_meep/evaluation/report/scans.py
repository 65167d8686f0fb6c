"""Can the network say which scans are bad? Tables and panels of expected against actual Dice."""

from __future__ import annotations

import math
from typing import Any

from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.report.case_choice import review_order
from nnunet_meep.evaluation.report.svg_axes import Scale, scale_around
from nnunet_meep.evaluation.report.tables import ranking_text

QUESTION = "Can the network say which scans are bad?"
#: What the columns of :func:`ranking_table` are.
ABOUT = (
    "Expected Dice is computed from the probabilities alone, actual Dice with the reference; cases "
    "in which one is undefined are left out. Off by: mean absolute difference. Rank "
    "correlation: Spearman's, 1 if expected Dice has the cases in the right order. AURC: mean of "
    "1 - Dice among the k cases with the highest expected Dice, over all k; E-AURC: how much that "
    "is above the best order, 0 at best. In parentheses 95 % intervals over cases (BCa bootstrap), "
    "unless the cases are too few or in perfect order."
)
#: Of the page's list, this many rows are shown at once.
N_FIRST = 10
#: A browser takes seconds for tens of thousands of elements. Of more cases than these the points
#: have no names, the list has only the first, and the table of all of them is folded.
MANY_CASES = 1000
#: The square of a scatter, in the picture's own units.
_LEFT, _TOP, _SIZE, _BELOW, _RIGHT = 64, 8, 280, 42, 10


def ranking_table(comparison: Comparison) -> list[list[str]]:
    """Heading and one row of text for each class and model; empty without expected Dice."""
    if not comparison.ranking:
        return []
    rows = [["class", "model", "cases", "off by", "rank correlation", "AURC", "E-AURC"]]
    for key in _keys(comparison):
        for model in comparison.models:
            entry = comparison.ranking[model][key]
            off = comparison.summary[model][key]["dice_expected_error"]["mean"]
            rows.append(
                [
                    f"{key} {comparison.classes[key]}",
                    model,
                    str(entry["n"]),
                    "-" if math.isnan(off) else CATALOGUE["dice_expected_error"].number(off),
                    *(ranking_text(entry[name]) for name in ("spearman", "aurc", "e_aurc")),
                ]
            )
    return rows


def scan_section(comparison: Comparison) -> dict[str, Any]:
    """What the page shows of scans; empty without expected Dice.

    Returns:
        ``question``, ``about``; ``head`` and ``rows`` of :func:`ranking_table`; ``panels``, for
        each class ``key``, the axes, and for each model its ``points`` (x, y, text);
        or all in one path ``many`` where there are too many; ``review``, for the first cases to
        review its name and for each model the class with the lowest expected Dice in words;
        ``n_first``, how many to show at once; ``n_nothing``, in how many of all cases a model
        segments nothing of a class.
    """
    if not comparison.ranking:
        return {}
    head, *rows = ranking_table(comparison)
    return {
        "named": len(comparison.cases) <= MANY_CASES,
        **{"question": QUESTION, "about": ABOUT, "head": head, "rows": rows},
        "panels": [_panel(comparison, key) for key in _keys(comparison)],
        "review": _review(comparison),
        "n_first": N_FIRST,
        "n_nothing": sum(any(v == 0 for _, v in row) for _, row in review_order(comparison)),
    }


def _keys(comparison: Comparison) -> list[str]:
    return list(comparison.ranking[comparison.models[0]])


def _panel(comparison: Comparison, key: str) -> dict[str, Any]:
    pairs = {
        model: [
            (float(actual), float(expected))
            for actual, expected in zip(
                comparison.values(model, key, "dice"),
                comparison.values(model, key, "dice_expected"),
                strict=True,
            )
        ]
        for model in comparison.models
    }
    both = [pair for points in pairs.values() for pair in points if not any(map(math.isnan, pair))]
    around = scale_around([value for pair in both for value in pair], 0, 1)
    low, high = max(around.low, -0.05), min(around.high, 1.05)  # a Dice is between 0 and 1
    across, up = Scale(low, high, _LEFT, _LEFT + _SIZE), Scale(low, high, _TOP + _SIZE, _TOP)
    return {
        "key": key,
        **{"width": _LEFT + _SIZE + _RIGHT, "height": _TOP + _SIZE + _BELOW},
        **{"left": _LEFT, "top": _TOP, "size": _SIZE},
        **{"x_ticks": across.ticks(), "y_ticks": up.ticks()},
        "models": [
            {"points": points, "many": ""}
            if len(comparison.cases) <= MANY_CASES
            else {"points": [], "many": "".join(f"M{x:g} {y:g}h0" for x, y, _ in points)}
            for points in (
                [
                    (
                        across(actual),
                        up(expected),
                        f"{case}: {actual:.3f}, expected {expected:.3f}",
                    )
                    for case, (actual, expected) in zip(comparison.cases, pairs[model], strict=True)
                    if not math.isnan(actual + expected)
                ]
                for model in comparison.models
            )
        ],
    }


def _review(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Each case, and for each model its lowest expected Dice and the actual one of that class."""
    several = len(_keys(comparison)) > 1
    dice = {
        (model, key): comparison.values(model, key, "dice")
        for model in comparison.models
        for key in _keys(comparison)
    }
    rows = []
    for case, of_models in review_order(comparison)[:MANY_CASES]:
        where, texts = comparison.cases.index(case), []
        for model, (key, expected) in zip(comparison.models, of_models, strict=True):
            actual = float(dice[model, key][where])
            of_class = f" ({comparison.classes[key]})" * several
            known = "undefined" if math.isnan(actual) else f"{actual:.3f}"
            text = f"{expected:.3f}{of_class}, Dice {known}"
            texts.append("-" if math.isnan(expected) else text)
        rows.append((case, texts))
    return rows
