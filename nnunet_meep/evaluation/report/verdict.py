"""The conclusions of a comparison, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_meep.evaluation.comparison import NOT_SEGMENTED, SIGNIFICANT, Comparison, shown
from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.evaluation.result_format import TOP_LABEL


def verdict_sentences(comparison: Comparison) -> list[str]:
    """The conclusions of the tables, in plain sentences.

    First the classes that a model does not segment. Then, for each model but the first, the metrics
    in which it is better or worse than the first one (p < 0.05 after correction); or that no
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
        top_label = ", nor for the top label" * (TOP_LABEL in comparison.classes)
        sentences.append(
            f"A model cannot be the best for a class that it does not segment{top_label}."
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

    n_small = sum(too_small(test["p_smallest"], test["p_holm_smallest"]) for test in judged)
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
    """``Dice and ECE (1 Anterior, 2 Posterior), AURC (top label)``, from (class, metric) pairs."""
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
    """The compared ROI and the number of cases."""
    return f"{describe(comparison.roi)}, {counted(len(comparison.cases), 'case')}"


def title(key: str, name: str) -> str:
    return "Top label, all classes" if key == TOP_LABEL else f"{key} {name}"


def columns(comparison: Comparison, key: str) -> list[str]:
    """The metrics that tables show for a class, as far as all models have them."""
    return shown(key, comparison.summary[comparison.models[0]][key])


def too_small(*smallest: float) -> bool:
    """Whether n is too small for significance: one of the smallest possible p exceeds 0.05."""
    return any(value > SIGNIFICANT for value in smallest)
