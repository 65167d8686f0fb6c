"""Write the output folder of an evaluation: JSON, CSV, reliability diagram."""

from __future__ import annotations

from pathlib import Path

from nnunet_meep.atomic import replacing_files
from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.evaluation.report.figures import Layer, reliability_figure, save_figure
from nnunet_meep.evaluation.report.tables import write_csv
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.evaluation.stored_results import write_evaluation


def write_evaluation_report(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write ``calibration.json``, ``.csv``, ``reliability.png`` and ``.svg`` into a folder.

    All are complete before the first one replaces an old file; ``calibration.json`` comes last.

    Returns:
        The paths.

    Raises:
        OSError: the folder cannot be created or written; old results are unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("calibration.json", "calibration.csv", "reliability.png", "reliability.svg")
    paths = [folder / name for name in names]
    with replacing_files(paths[::-1]) as (svg_path, png_path, csv_path, json_path):
        write_evaluation(evaluation, json_path, folder)
        write_csv(csv_path, evaluation.columns, evaluation.rows())
        pooled = evaluation.pooled[evaluation.roi]
        panels = {
            f"{name} (label {key})\npooled ECE {1e3 * pooled.classes[key]['ece']:.2f} e-3": [
                Layer(
                    "all cases",
                    pooled.bins[key],
                    [case.rois[evaluation.roi].bins[key] for case in evaluation.cases],
                )
            ]
            for key, name in evaluation.classes.items()
        }
        title = f"{describe(evaluation.roi)}, {counted(len(evaluation.cases), 'case')}"
        figure = reliability_figure(panels, title)
        save_figure(figure, png_path, "png")
        save_figure(figure, svg_path, "svg")
    return paths
