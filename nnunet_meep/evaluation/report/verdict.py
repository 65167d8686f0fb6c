"""The conclusions of a comparison, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_meep.evaluation.comparison import (
    HEADLINE,
    NOT_SEGMENTED,
    SIGNIFICANT,
    Comparison,
    not_segmenting,
    shown,
    without_0,
)
from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.metrics.metric import Better
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.evaluation.report.provenance import training_names
from nnunet_meep.evaluation.result_format import TOP_LABEL

#: Two models are about equally good if the 95 % interval of their difference is within this share
#: of the first model's mean,
LEVEL = 0.05
#: or, for Dice, within this difference.
LEVEL_DICE = 0.01
#: Stands for the models of which a sentence is true.
_MODEL = "\0"
_WORDS = {
    "better": ("better", "than"),
    "worse": ("worse", "than"),
    "level": ("about as good", "as"),
}


def short_verdict(comparison: Comparison) -> list[str]:
    """The verdict for the top of a report, on the few metrics of :data:`.HEADLINE`.

    Returns:
        First the classes that models do not segment, see :func:`not_segmented`, and which models
        are not compared therefore. For each other model but the first, two or three short
        sentences: in which metrics it is better than the first one, in which it is worse or about
        as good, and in which this is not known; one sentence for all of which nothing is known.
        Last, how often the models were trained, see :func:`trainings_sentence`.

        If one of the two was trained several times, a model is better or worse if the 95 % interval
        over trainings and cases does not contain 0 (each metric on its own); otherwise if that over
        cases does not, and p, corrected for the tests of the headline, is below 0.05. It is about
        as good if the interval is within 5 % of the first model's mean (for Dice, within 0.01).
    """
    first, *others = comparison.models
    missing = comparison.not_segmented
    said: dict[str, list[str]] = {}
    for model in () if first in missing else others:
        if model not in missing:
            said.setdefault(_in_short(comparison, model), []).append(model)
    return [
        *not_segmented(comparison),
        *_not_compared(comparison),
        *(text.replace(_MODEL, _listed(models, "or")) for text, models in said.items()),
        trainings_sentence(comparison),
    ]


def not_segmented(comparison: Comparison) -> list[str]:
    """The classes that models do not segment, and in which trainings; equal ones are put together.

    The trainings are named if the comparison holds its evaluations.
    """
    n_classes = len(set(comparison.classes) - {TOP_LABEL})
    said: dict[tuple[str, str], list[str]] = {}
    for model, found in comparison.not_segmented.items():
        for n in sorted(set(found.values()), reverse=True):
            keys = [key for key in found if found[key] == n]
            what, them = _listed([title(key, comparison.classes[key]) for key in keys]), "them"
            if len(keys) == 1 or len(keys) == n_classes:
                what, them = "any class" if len(keys) == n_classes > 1 else what, "it"
            where = _in_trainings(comparison, model, keys)
            said.setdefault((f"{what}{where}", them), []).append(model)
    return [
        f"{_listed(models)} {'does' if len(models) == 1 else 'do'} not segment {what}: Dice is 0 "
        f"wherever the reference has {them}."
        for (what, them), models in said.items()
    ]


def _in_trainings(comparison: Comparison, model: str, keys: Sequence[str]) -> str:
    """`` in 1 of 3 trainings (seed 1)``; nothing if it is all of them."""
    n, of = comparison.not_segmented[model][keys[0]], comparison.n_trainings[model]
    if n == of:
        return ""
    trainings = comparison.evaluations.get(model, ())
    which = [not_segmenting(trainings, comparison.cases, key) for key in keys] if trainings else []
    names = (
        [training_names(trainings)[i] for i in which[0]] if len(set(map(tuple, which))) == 1 else []
    )
    return f" in {n} of {of} trainings" + f" ({_listed(names)})" * bool(names)


def _not_compared(comparison: Comparison) -> list[str]:
    """Which models the verdict leaves out, because not every class is segmented."""
    first, *others = comparison.models
    missing = [model for model in others if model in comparison.not_segmented]
    if not others or not comparison.not_segmented:
        return []
    what = f"does not compare {_listed(missing, 'or')} with {first}"
    if first in comparison.not_segmented:
        what = f"compares no model with {first}"
    plain = [
        model
        for model in comparison.not_segmented
        if not any(training.calibrators for training in comparison.evaluations.get(model, ()))
    ]
    enough = " Was the training long enough?" * bool(plain)
    return [
        f'So this verdict {what}; the tables show the numbers all the same, with "{NOT_SEGMENTED}" '
        f"in place of better or worse.{enough}"
    ]


def trainings_sentence(comparison: Comparison) -> str:
    """How often the models were trained, and what intervals cannot tell if one was trained once."""
    n = comparison.n_trainings
    once = [model for model in comparison.models if n[model] == 1]
    if len(once) == len(comparison.models):
        who = "The model was" if len(once) == 1 else "Each model was"
        return (
            f"{who} trained once: the intervals are over cases and cannot tell whether another "
            f"training would give the same."
        )
    if not once:
        return counted_trainings(comparison)
    several = [model for model in comparison.models if n[model] > 1]
    times = [f"{m} {n[m]} times{_in_folds(comparison, m)}" for m in several]
    were = "was" if len(once) == 1 else "were each"
    return (
        f"{_listed(once)} {were} trained once, {_listed(times)}: no interval can tell whether "
        f"another training of {_listed(once, 'or')} would give the same."
    )


def counted_trainings(comparison: Comparison) -> str:
    """``Trainings: default 5, MEEP 4 (2 folds).``"""
    n = comparison.n_trainings
    trained = [f"{m} {n[m]}{_in_folds(comparison, m)}" for m in comparison.models]
    return f"Trainings: {', '.join(trained)}."


def _in_folds(comparison: Comparison, model: str) -> str:
    n = comparison.n_folds[model]
    return f" ({n} folds)" if n > 1 else ""


def _in_short(comparison: Comparison, model: str) -> str:
    """What the verdict says of a model; in what it may say of several, the name is ``_MODEL``."""
    first = comparison.models[0]
    found: dict[str, list[tuple[str, str]]] = {}
    for key, metric in HEADLINE:
        test = comparison.headline_differences[model].get(key, {}).get(metric)
        if test is not None and test["n"]:
            conclusion = _conclusion(comparison, model, key, metric)
            found.setdefault(conclusion, []).append((key, metric))
    if not found:
        return f"No metric of the verdict is defined for both {first} and {model}."
    if list(found) == [""] and _is_too_small(comparison, model):
        unknown = _listed([_name(*where) for where in found[""]], "or")
        n = len(comparison.cases)
        return (
            f"{counted(n, 'case')} {'is' if n == 1 else 'are'} too few to tell whether {_MODEL} "
            f"differs from {first} in {unknown}."
        )

    def numbers(conclusion: str) -> str:
        between = "and" if conclusion == "level" else "instead of"
        return _listed([_means(comparison, model, *where, between) for where in found[conclusion]])

    over = _how_many(comparison, model)
    sentences: list[str] = []
    for conclusions in (("better",), ("worse", "level")):
        parts: list[str] = []
        for conclusion in (c for c in conclusions if c in found):
            words, than = _WORDS[conclusion]
            named = "" if sentences or parts else f" {than} {first}"
            parts.append(f"{words}{named} in {numbers(conclusion)}")
        if parts:
            subject = "It is" if sentences else f"Over {over}, {model} is"
            sentences.append(f"{subject} {' and '.join(parts)}.")
    if "" in found:
        unknown = _listed([_name(*where) for where in found[""]])
        who = "it differs" if sentences else f"{_MODEL} differs from {first}"
        why = _why_not_known(comparison, model)
        where = "" if sentences else f" over {over}"
        sentences.append(f"Whether {who} in {unknown} is not known{where}: {why}.")
    return " ".join(sentences)


def _conclusion(comparison: Comparison, model: str, key: str, metric: str) -> str:
    """``better``, ``worse``, ``level``, or "" if it is not known."""
    first = comparison.models[0]
    test = comparison.headline_differences[model][key][metric]
    low, high = test["ci95_trainings"]
    is_shown = without_0((low, high))
    if not comparison.repeated(model):
        if too_small(test["p_smallest"], test["p_holm_smallest"]):
            return ""  # an interval over so few cases is not to be relied on either
        # The test compares ranks; a few large differences may have the other sign.
        is_shown = is_shown and test["p_holm"] < SIGNIFICANT
    if is_shown:
        more_is_better = CATALOGUE[metric].better is Better.HIGHER
        return "better" if (test["mean"] > 0) == more_is_better else "worse"
    mean = comparison.headline[first][key][metric]["mean"]
    margin = LEVEL_DICE if metric == "dice" else LEVEL * abs(mean)
    return "level" if -margin <= low and high <= margin else ""


def _how_many(comparison: Comparison, model: str) -> str:
    """``4 and 5 trainings and 40 cases``, ``40 cases and 2 classes``."""
    means = [counted(len(comparison.cases), "case")]
    if (n := len(comparison.classes.keys() - {TOP_LABEL})) > 1:
        means.append(f"{n} classes")
    if not comparison.repeated(model):
        return _listed(means)
    ours, theirs = (comparison.n_trainings[m] for m in (model, comparison.models[0]))
    each = f"{ours} trainings each" if ours == theirs else f"{ours} and {theirs} trainings"
    return _listed([each, *means])


def _is_too_small(comparison: Comparison, model: str) -> bool:
    """Whether there are too few cases for any test of the headline to be significant."""
    tests = [t for keys in comparison.headline_differences[model].values() for t in keys.values()]
    return not comparison.repeated(model) and all(
        too_small(t["p_smallest"], t["p_holm_smallest"]) for t in tests if t["n"]
    )


def _why_not_known(comparison: Comparison, model: str) -> str:
    if comparison.repeated(model):
        return "the 95 % intervals contain 0"
    n_tests = sum(
        not math.isnan(test["p_holm"])
        for keys in comparison.headline_differences.values()
        for tests in keys.values()
        for test in tests.values()
    )
    corrected = f"after Holm's correction for {counted(n_tests, 'test')}"
    return f"the 95 % intervals contain 0, or p is {SIGNIFICANT} or more {corrected}"


def _name(key: str, metric: str) -> str:
    return f"top-label {CATALOGUE[metric].name}" if key == TOP_LABEL else CATALOGUE[metric].name


def _means(comparison: Comparison, model: str, key: str, metric: str, between: str) -> str:
    """``ECE (3.57 e-3 instead of 5.43)``; the difference, if not of the same cases."""
    entries = [comparison.headline[m][key][metric] for m in (model, comparison.models[0])]
    test = comparison.headline_differences[model][key][metric]
    heading = CATALOGUE[metric]
    if {entry["n"] for entry in entries} != {test["n"]}:
        difference = f"{heading.number(test['mean'], '+')} {heading.unit.name}".rstrip()
        return f"{_name(key, metric)} ({difference} in {counted(test['n'], 'case')})"
    ours, theirs = (heading.number(entry["mean"]) for entry in entries)
    return f"{_name(key, metric)} ({f'{ours} {heading.unit.name}'.rstrip()} {between} {theirs})"


def verdict_sentences(comparison: Comparison) -> list[str]:
    """The conclusions of the tables, in plain sentences.

    For each model but the first, the metrics in which it is better or worse than the first one
    (:meth:`.Comparison.verdict`); one sentence for all of which no difference is shown, and one for
    all for which n is too small to show one.
    """
    said: dict[str, list[str]] = {}
    for model in comparison.models[1:]:
        said.setdefault(_against_first(comparison, model), []).append(model)
    return [text.replace(_MODEL, _listed(models, "or")) for text, models in said.items()]


def _against_first(comparison: Comparison, model: str) -> str:
    """What is said of a model; in what may be said of several, the name is ``_MODEL``."""
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
    repeated = comparison.repeated(model)

    sides = []
    for side in ("better", "worse"):
        where = [where for where, verdict in verdicts.items() if verdict == side]
        if where:
            sides.append(f"{side} in {_metrics_and_classes(comparison, where)}")
    if sides:
        interval = ", and the interval over trainings and cases does not contain 0" * repeated
        return (
            f"Compared with {first}{scope}, {model} is {'; '.join(sides)} (p < {SIGNIFICANT} "
            f"{corrected}{interval})."
        )

    n_small = sum(too_small(test["p_smallest"], test["p_holm_smallest"]) for test in judged)
    if n_small == len(judged):
        n = max(test["n"] for test in judged)
        why = f": p cannot be below {SIGNIFICANT} {corrected}" if comparison.n_tests else ""
        return (
            f"{counted(n, 'case')} {'is' if n == 1 else 'are'} too few "
            f"{'for a test over cases ' * repeated}to show a difference "
            f"between {first} and {_MODEL}{scope}{why}."
        )
    too_few = f"; {n_small} of {len(judged)} have too few cases to show one" if n_small else ""
    interval = ", or an interval over trainings and cases that contains 0" * repeated
    return (
        f"No difference between {first} and {_MODEL} is shown{scope} (p of {SIGNIFICANT} or more "
        f"{corrected}{interval}{too_few})."
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


def _listed(names: Sequence[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


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
