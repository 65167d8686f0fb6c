"""What to know before reading the numbers of an evaluation: what is missing or unusual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.nnunet_files.calibrated import optimistic

#: At most this many cases are named; the rest are counted.
_MOST = 20


def notes(evaluation: Evaluation) -> list[str]:
    """One line for each reason to trust the numbers of an evaluation less."""
    return [*file_notes(evaluation), *_fitted_to_these(evaluation)]


def file_notes(evaluation: Evaluation) -> list[str]:
    """:func:`notes` without those on calibrators that were fitted to the evaluated cases."""
    lines = fold_notes(evaluation.incomplete_folds)
    of_folds = {case for fold in evaluation.incomplete_folds for case in fold["missing"]}
    if missing := [case for case in evaluation.not_predicted if case not in of_folds]:
        have = "has" if len(missing) == 1 else "have"
        lines.append(f"{counted(len(missing), 'reference')} {have} no prediction: {named(missing)}")
    lines += [f"{case} is left out: {reason}" for case, reason in evaluation.skipped]
    lines += _not_argmax(evaluation)
    settings = evaluation.settings
    if settings["reader"] == "NaturalImage2DIO" and (settings["surface"] or settings["lesions"]):
        lines.append("the files have no voxel sizes: distances in mm are in pixels")
    for calibrator in evaluation.calibrators:
        if not calibrator["n_fitted_on"]:
            whose = (
                "with a calibrator that was fitted to arrays"
                if calibrator["identity"]
                else "in a folder without its calibrator"
            )
            lines.append(
                f"{counted(calibrator['n_cases'], 'case')} calibrated, {whose}; it is unknown "
                f"whether it was fitted to these cases"
            )
        if differences := calibrator["any_network"]:
            lines.append(
                f"calibrated with a calibrator of another network ({'; '.join(differences)})"
            )
    return lines


def of_models(lines: Sequence[tuple[str, str]]) -> list[str]:
    """Each distinct line once, preceded by the names of its models."""
    models: dict[str, list[str]] = {}
    for model, line in lines:
        if model not in (of_line := models.setdefault(line, [])):
            of_line.append(model)
    return [f"{', '.join(names)}: {line}" for line, names in models.items()]


def fold_notes(incomplete_folds: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each fold of :meth:`.Predictions.incomplete_folds`; one for all without any."""
    absent = [fold for fold in incomplete_folds if not fold["evaluated"]]
    lines = [
        f"fold {fold['fold']} is not complete: {len(fold['missing'])} of its {fold['n_cases']} "
        f"validation cases have no prediction: {named(fold['missing'])}"
        for fold in incomplete_folds
        if fold["evaluated"]
    ]
    if absent:
        n = sum(len(fold["missing"]) for fold in absent)
        folds = ", ".join(fold["fold"] for fold in absent)
        which = f"folds {folds} have" if len(absent) > 1 else f"fold {folds} has"
        lines.append(f"{which} no predictions ({counted(n, 'validation case')})")
    return lines


def _fitted_to_these(evaluation: Evaluation) -> list[str]:
    return [
        f"{optimistic(len(used), calibrator['n_cases'])} ({named(used)})"
        for calibrator in evaluation.calibrators
        if (used := calibrator["used_to_fit"])
    ]


def used_to_fit(calibrators: Sequence[dict[str, Any]]) -> bool:
    """Whether any calibrator of an evaluation was fitted to cases that it is evaluated on."""
    return any(calibrator["used_to_fit"] for calibrator in calibrators)


def _not_argmax(evaluation: Evaluation) -> list[str]:
    """Lines on segmentation files that are missing or not the argmax of the probabilities."""
    lines = []
    cases = evaluation.cases
    differ = {c.case: c.n_not_argmax for c in cases if c.n_not_argmax}
    of_file = evaluation.settings["segmentation"] == "file"
    if differ:
        most = max(differ, key=lambda case: differ[case])
        taken, other = ("file", "argmax") if of_file else ("argmax", "file")
        lines.append(
            f"in {len(differ)} of {len(cases)} cases the segmentation file is not the argmax of "
            f"the probabilities ({sum(differ.values()):,} voxels, {differ[most]:,} of them in "
            f"{most}){_by_thresholds(evaluation)}; Dice, distances and volumes are of the {taken} "
            f"(meep-calib-eval --segmentation {other} takes the other)"
        )
    without = [c.case for c in cases if c.n_not_argmax is None]
    if without and of_file:
        lines.append(
            f"{counted(len(without), 'case')} without a segmentation file, where Dice, distances "
            f"and volumes are of the argmax: {named(without)}"
        )
    return lines


def _by_thresholds(evaluation: Evaluation) -> str:
    """Why segmentations differ from the argmax, if a calibrator has thresholds."""
    thresholds = {
        key: f"{evaluation.classes[key]} {t:.3g}"
        for calibrator in evaluation.calibrators
        for key, t in calibrator.get("thresholds", {}).items()
        if key in evaluation.classes
    }
    if not thresholds:
        return ""
    return f", as it follows the thresholds of the calibrator ({', '.join(thresholds.values())})"


def counted(n: int, what: str) -> str:
    """``1 case``, ``3 cases``."""
    return f"{n} {what}{'s' * (n != 1)}"


def named(cases: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = len(cases) - _MOST
    return ", ".join(cases[:_MOST]) + f" and {more} more" * (more > 0)
