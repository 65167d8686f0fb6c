"""The output of a fit: ``calibrator.json``, a reliability diagram, and a table for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_meep.atomic import replacing_file
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.metrics.calibration import ece_of_bins
from nnunet_meep.evaluation.notes import fold_notes
from nnunet_meep.evaluation.report.figures import Layer, reliability_figure, save_figure
from nnunet_meep.evaluation.report.plots import COLORS
from nnunet_meep.evaluation.report.tables import text_table
from nnunet_meep.nnunet_files.paths import refuse_no_folder
from nnunet_meep.posthoc.calibrator import Calibrator, read_calibrator
from nnunet_meep.posthoc.fit import Fit
from nnunet_meep.posthoc.maps import MAX_TEMPERATURE, Isotonic, JointTemperature, Platt, Temperature
from nnunet_meep.posthoc.scalings import BinaryScaling, JointScaling

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_target(path: Path) -> None:
    """Check that a calibrator can be written to ``path``; to be called before any work.

    Raises:
        InputError: ``path`` is not a .json file in a folder, or would replace a file that is not a
            calibrator or its picture.
    """
    if path.suffix != ".json" or path.is_dir():
        raise InputError(f"{path}: expected the name of a .json file to write (-o)")
    refuse_no_folder(path.parent)
    if path.exists():
        try:
            read_calibrator(path)
        except InputError as error:
            raise InputError(f"{error}; give another name (-o), or remove it first") from None
    elif (picture := path.with_suffix(".png")).exists():
        raise InputError(
            f"{picture}: expected to write a picture there, found one without {path.name}; move it "
            f"or give another name (-o)"
        )


def write(fit: Fit, path: Path) -> list[Path]:
    """Write ``calibrator.json`` and a PNG with reliability diagrams before and after calibration.

    Returns:
        The paths of both files.

    Raises:
        OSError: a file cannot be written.
    """
    panels = {}
    for key, c in fit.classes.items():
        change = f"{1e3 * ece_of_bins(c.before):.2f} → {1e3 * ece_of_bins(c.after):.2f} e-3"
        panels[f"{c.name} (label {key})\nECE {change}"] = [
            Layer("before", c.before, color=COLORS[1]),
            Layer("after", c.after, color=COLORS[0]),
        ]
    title = _title(fit)
    if _sums_to_one(fit):
        title += "; each class against the rest, before all are made to sum to 1"
    return write_with_picture(fit.calibrator, reliability_figure(panels, title), path)


def write_with_picture(calibrator: Calibrator, figure: Figure, path: Path) -> list[Path]:
    """Write ``calibrator.json`` and, beside it, a PNG; return both paths.

    Raises:
        OSError: a file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = path.with_suffix(".png")
    with replacing_file(picture) as temporary:
        save_figure(figure, temporary, "png")
        calibrator.save(path)
    return [path, picture]


def table(fit: Fit) -> str:
    """A table for the terminal: the effect of the calibrator on the voxels it was fitted to."""
    calibrator = fit.calibrator
    fitted_on = calibrator.fitted_on
    rows = [["class", "fit", "voxels", "log loss e-3", "log loss after", "ECE e-3", "ECE after"]]
    for key, c in fit.classes.items():
        numbers = (c.log_loss_before, c.log_loss_after, ece_of_bins(c.before), ece_of_bins(c.after))
        cells = [f"{1e3 * value:.2f}" for value in numbers]
        words = _in_words(calibrator.binary[key]) if calibrator.joint is None else ""
        rows.append([f"{key} {c.name}", words, f"{c.n_voxels:,}", *cells])
    if calibrator.joint is not None:
        log_loss = [f"{1e3 * fitted_on[f'log_loss_{w}']:.2f}" for w in ("before", "after")]
        words = _in_words(calibrator.joint)
        rows.append(["all classes", words, f"{fitted_on['n_voxels']:,}", *log_loss, "", ""])
    lines = [f"{_title(fit)}, {fitted_on['n_voxels']:,} voxels", "", text_table(rows)]
    for key, reason in calibrator.reasons.items():
        lines.append(f"{fit.classes[key].name}: left as it is: {reason}")
    if calibrator.joint is not None:
        n = fitted_on["sample"]["n_voxels"]
        if n < fitted_on["n_voxels"]:
            lines.append(f"Fitted to a weighted sample of {n:,} voxels.")
    elif _sums_to_one(fit):
        lines.append(
            "Each class is calibrated against the rest, and then all are made to sum to 1. The "
            "numbers are those before that."
        )
    lines += [f"Note: {line}" for line in fold_notes(fit.incomplete_folds)]
    notes = [*cross_fitted(calibrator), *unknown_network(calibrator)]
    return "\n".join([*lines, *notes, *_doubts(fit)])


def cross_fitted(calibrator: Calibrator) -> list[str]:
    """A line if it was fitted to single folds for their average: what that assumes."""
    if not calibrator.fitted_on["cross_fitted"]:
        return []
    return [
        f"Note: for {calibrator.network.folds_in_words}, fitted to what each fold predicted for "
        f"cases that it was not trained on: this assumes that on new cases the average makes the "
        f"same errors with the same confidence as each fold"
    ]


def unknown_network(calibrator: Calibrator) -> list[str]:
    """A line if the predictions that it was fitted to do not say of which network they are."""
    if not (unknown := calibrator.network.unknown):
        return []
    return [
        f"These predictions do not say their {', '.join(unknown)}: that the calibrator is "
        f"applied to the same network cannot be checked."
    ]


def _doubts(fit: Fit) -> list[str]:
    """Warnings about implausible fits, one line each."""
    calibrator = fit.calibrator
    found = {fit.classes[key].name: f for key, f in calibrator.binary.items()}
    lines = []
    for name, function in {**found, "all classes": calibrator.joint}.items():
        match function:
            case Platt(slope, _) if slope <= 0:
                doubt = "the slope is not positive: larger probabilities are more often wrong"
            case Isotonic(_, steps) if len(steps) == 1:
                doubt = "one step: larger probabilities are not more often right"
            case Temperature(t) | JointTemperature(t) if t > 0.99 * MAX_TEMPERATURE:
                doubt = "the temperature is at its limit: the probabilities say nothing"
            case _:
                continue
        lines.append(f"Warning: {name}: {doubt}; are these the references, and the right classes?")
    return lines


def _sums_to_one(fit: Fit) -> bool:
    """Whether each class is calibrated against the rest before all are normalised to sum 1."""
    calibrator = fit.calibrator
    return len(calibrator.binary) > 1 and not calibrator.labels.is_region_based


def _title(fit: Fit) -> str:
    calibrator, fitted_on = fit.calibrator, fit.calibrator.fitted_on
    n = fitted_on["n_cases"]
    roi = describe(fitted_on["roi"])
    return f"{calibrator.method}, fitted on {n} case{'s' * (n != 1)}, {roi}"


def _in_words(function: Any) -> str:
    match function:
        case None:
            return "as it is"
        case Platt(slope, intercept):
            return f"slope {slope:.3f}, intercept {intercept:+.3f}"
        case Temperature(temperature) | JointTemperature(temperature):
            return f"T = {temperature:.3f}"
        case Isotonic(_, steps):
            return f"{len(steps)} step{'s' * (len(steps) != 1)}"
        case JointScaling() | BinaryScaling(JointScaling()):
            joint = function.joint if isinstance(function, BinaryScaling) else function
            return f"{joint.n_parameters} numbers"
    raise TypeError(f"unknown map {function!r}")
