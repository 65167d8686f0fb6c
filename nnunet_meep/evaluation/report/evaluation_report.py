"""Write the output folder of an evaluation: JSON, CSV, reliability diagram, pictures of lesions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_meep.atomic import replacing_files
from nnunet_meep.evaluation.case_results import BinsOfCases
from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.evaluation.report.drawing import Drawing, Picture, save_pictures
from nnunet_meep.evaluation.report.figures import Layer, reliability_figure
from nnunet_meep.evaluation.report.lesion_pictures import (
    by_confidence,
    froc_figure,
    lesion_reliability_figure,
)
from nnunet_meep.evaluation.report.tables import write_csv
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.evaluation.stored_results import write_evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The pictures of lesions, which only some evaluations have.
_OF_LESIONS = ("froc", "lesion_reliability")
#: The results of more cases take too much memory and time to be sent to another process.
_MANY_CASES = 500


def write_evaluation_report(
    evaluation: Evaluation, folder: Path, drawing: Drawing | None = None
) -> list[Path]:
    """Write ``calibration.json``, ``.csv`` and pictures as ``.png`` and ``.svg`` into a folder.

    The pictures are ``reliability``, and with lesions ``froc`` and ``lesion_reliability``. All are
    complete before the first one replaces an old file; ``calibration.json`` comes last. Older
    pictures of lesions that this evaluation does not have are removed.

    Args:
        evaluation: what to write.
        folder: created if missing.
        drawing: a process that draws the pictures, unless there are many cases; None: this one.

    Returns:
        The paths.

    Raises:
        OSError: the folder cannot be created or written; old results are unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(evaluation)
    names = ["calibration.json", "calibration.csv"]
    names += [f"{name}.{kind}" for name in pictures for kind in ("png", "svg")]
    paths = [folder / name for name in names]
    with replacing_files(paths[::-1]) as reversed_paths:
        json_path, csv_path, *picture_paths = reversed_paths[::-1]
        to_draw = [
            Picture(draw, *picture_paths[2 * i : 2 * i + 2])
            for i, draw in enumerate(pictures.values())
        ]
        if len(evaluation.cases) > _MANY_CASES:
            drawing = None
        if drawing is not None:
            drawing.begin(to_draw)
        write_evaluation(evaluation, json_path, folder)
        write_csv(csv_path, evaluation.columns, evaluation.rows())
        if drawing is None or not drawing.is_done():
            save_pictures(to_draw)
    for name in set(_OF_LESIONS) - set(pictures):
        for kind in ("png", "svg"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    return paths


def _pictures(evaluation: Evaluation) -> dict[str, Callable[[], Figure]]:
    """The pictures of an evaluation, by name."""
    n_cases = counted(len(evaluation.cases), "case")
    pooled = evaluation.pooled[evaluation.roi]
    panels = {
        f"{name} (label {key})\npooled ECE {1e3 * pooled.classes[key]['ece']:.2f} e-3": [
            Layer("all cases", pooled.bins[key], BinsOfCases(evaluation.cases, evaluation.roi, key))
        ]
        for key, name in evaluation.classes.items()
    }
    title = f"{describe(evaluation.roi)}, {n_cases}"
    reliability = partial(reliability_figure, panels, title)
    if evaluation.lesions is None:
        return {"reliability": reliability}
    of_cases = evaluation.lesions.values()
    layers = {
        f"{name} (label {key})": by_confidence([lesions[key] for lesions in of_cases])
        for key, name in evaluation.classes.items()
    }
    title = f"lesions, {n_cases}"
    n_bins = evaluation.settings["bins"]
    return {
        "reliability": reliability,
        "froc": partial(froc_figure, layers, title),
        "lesion_reliability": partial(lesion_reliability_figure, layers, title, n_bins),
    }
