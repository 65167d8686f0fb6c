"""What is said about lesions, as tables for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.counting.components import MATCH_IOU, Components, Lesions
from nnunet_meep.evaluation.metrics.lesions import pooled_lesions
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.evaluation.results import Evaluation

#: The headings of the result of :func:`lesion_row`.
LESION_HEAD = (
    *("true lesions", "segmented", "right", "precision", "recall", "F1", "false per scan"),
    *("AP, mean p", "AP, largest p", "ECE, mean p", "ECE, largest p", "ECE, expected Dice"),
)
#: The headings of the result of :func:`wrong_lesions`.
WRONG_HEAD = ("model", "case", "lesion", "size", "mean p", "largest p", "centre (x, y, z)")
#: Of false ones, and of missed ones, for each model.
_N_WRONG = 10


def about_lesions(evaluations: Sequence[Evaluation]) -> str:
    """Which lesions are compared, and when two of them match."""
    least = sorted({t.settings["lesions"] for t in evaluations})
    which = "all lesions"
    if any(least):
        sizes = " or ".join(f"{size:g}" for size in least)
        which = f"lesions of at least {sizes} mm^3 (2D: mm^2)"
    return (
        f"{which} in whole images, matched one to one at an intersection over union of at least "
        f"{MATCH_IOU:g}"
    )


def lesion_row(cases: Sequence[Lesions], n_bins: int) -> list[str]:
    """The numbers of the lesions of several cases together, with the headings ``LESION_HEAD``."""
    pooled = pooled_lesions(cases, n_bins)
    of = pooled["confidence"]
    n_true, n_pred = pooled["lesions_true"], pooled["lesions_pred"]
    right = sum(match is not None for lesions in cases for match in lesions.predicted.match)
    shares = [pooled[f"lesion_{name}"] for name in ("precision", "recall", "f1")]
    precisions = [of[name]["average_precision"] for name in ("mean_p", "max_p")]
    errors = [of[name]["ece"] for name in ("mean_p", "max_p", "dice_expected")]
    return [
        *map(str, (n_true, n_pred, right)),
        *map(_number, shares),
        f"{(n_pred - right) / pooled['n_scans']:.1f}",
        *map(_number, (*precisions, *errors)),
    ]


def evaluated_lesions(evaluation: Evaluation) -> list[list[str]]:
    """A row for each class over all cases, below a heading; empty without lesions."""
    if evaluation.lesions is None:
        return []
    n_bins = evaluation.settings["bins"]
    return [
        ["class", *LESION_HEAD],
        *(
            [f"{key} {name}", *lesion_row([of[key] for of in evaluation.lesions.values()], n_bins)]
            for key, name in evaluation.classes.items()
        ),
    ]


def has_lesions(comparison: Comparison) -> bool:
    """Whether all trainings of a comparison that holds its evaluations have lesions."""
    trainings = [t for of_model in comparison.evaluations.values() for t in of_model]
    return bool(trainings) and all(training.lesions is not None for training in trainings)


def lesions_by_case(comparison: Comparison, model: str, key: str) -> list[list[Lesions]]:
    """The lesions of a class in each compared case, once for each training of a model."""
    found: dict[str, list[Lesions]] = {case: [] for case in comparison.cases}
    for training in comparison.evaluations[model]:
        for case in training.cases:
            if case.case in found and case.lesions is not None:
                found[case.case].append(case.lesions[key])
    return list(found.values())


def lesions_of(comparison: Comparison, model: str, key: str) -> list[Lesions]:
    """The lesions of a class in the compared cases of all trainings of a model."""
    return list(chain.from_iterable(lesions_by_case(comparison, model, key)))


def compared_lesions(comparison: Comparison, key: str) -> list[list[str]]:
    """A row for each model, over the compared cases and all its trainings, below a heading."""
    rows = [["model", *LESION_HEAD]]
    for model, trainings in comparison.evaluations.items():
        n_bins = trainings[0].settings["bins"]
        rows.append([model, *lesion_row(lesions_of(comparison, model, key), n_bins)])
    return rows


def about_compared(comparison: Comparison) -> str:
    """The caption of :func:`compared_lesions`."""
    trainings = [t for of_model in comparison.evaluations.values() for t in of_model]
    pooled = f"pooled over {counted(len(comparison.cases), 'case')} and the trainings of a model"
    return f"{about_lesions(trainings)}; {pooled}"


def wrong_lesions(comparison: Comparison, key: str) -> list[list[str]]:
    """The largest false and the largest missed lesions, with the headings ``WRONG_HEAD``.

    Of the first training of each model that has a case.
    """
    rows = []
    for model, trainings in comparison.evaluations.items():
        false: list[tuple[float, list[str]]] = []
        missed: list[tuple[float, list[str]]] = []
        for case in comparison.cases:
            of_case = next(c for t in trainings for c in t.cases if c.case == case)
            if of_case.lesions is not None:
                lesions = of_case.lesions[key]
                numbers = [*zip(lesions.mean_p, lesions.max_p, strict=True)]
                false += _unmatched(lesions.predicted, [model, case, "false"], numbers)
                none = [(math.nan, math.nan)] * len(lesions.reference.match)
                missed += _unmatched(lesions.reference, [model, case, "missed"], none)
        for found in (false, missed):
            largest = sorted(found, key=lambda pair: -pair[0])[:_N_WRONG]
            rows += [row for _, row in largest]
    return rows


def _unmatched(
    components: Components, begin: list[str], numbers: Sequence[tuple[float, float]]
) -> list[tuple[float, list[str]]]:
    """Size and row of each component without a match."""
    return [
        (
            size,
            [*begin, f"{size:.1f}", *map(_number, numbers[i]), ", ".join(map(str, centre[::-1]))],
        )
        for i, (size, centre, match) in enumerate(
            zip(components.size, components.centre, components.match, strict=True)
        )
        if match is None
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
