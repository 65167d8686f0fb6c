"""``meep-calib-eval``: calibration metrics of folders of predictions."""

from __future__ import annotations

import argparse
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_meep.cli._folders import (
    FOLDERS,
    add_counting,
    add_folders,
    references_and_predictions,
)
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run
from nnunet_meep.cores import usable_cores

if TYPE_CHECKING:
    from nnunet_meep.evaluation.results import Evaluation

_EPILOG = """\
written into -o:
  calibration.json  every metric: per case, over cases (mean, std, median, 95 % interval by BCa
                    bootstrap), and over the pooled voxels of all cases; also the network that
                    made the predictions, and a checksum of each file
  calibration.csv   one row per case, ROI and class
  reliability.png   observed frequency against predicted probability, first ROI (and .svg)
  froc.png          with --lesions: lesions found against false lesions per scan (and .svg)
  lesion_reliability.png
                    with --lesions: share of real lesions against their confidence (and .svg)
  maps/             with --maps: probabilities and entropy as NIfTI
  cases/            sums of finished cases, from which an interrupted run continues if the files
                    have not changed; --part writes only this folder

regions of interest (--roi); voxels with the ignore label are always left out:
  image             whole images, as in the MEEP paper
  crop              without nnU-Net's padding around its non-zero crop
  boundary:MM       within MM millimetres of the reference surface
  mask:FOLDER       where FOLDER/CASE.nii.gz (or the data set's file ending) is not 0

To compare several models, or to get a report of one model, use meep-calib-compare.

examples:
  nnUNetv2_predict -i imagesTs -o pred -d 501 -c 3d_fullres -f 0 \\
      -tr nnUNetTrainerMEEP_KL --save_probabilities
  meep-calib-eval labelsTs pred -o calibration
  meep-calib-eval labelsTs pred -o calibration --roi image boundary:5
  meep-calib-eval labelsTs pred -o calibration --lesions 5
  meep-calib-eval labelsTs pred -o calibration --part $SLURM_ARRAY_TASK_ID/16   # --array=1-16
  meep-calib-eval labelsTs pred -o calibration            # when all 16 parts are done
  meep-calib-eval $nnUNet_results/Dataset501_LA/nnUNetTrainerMEEP_KL__nnUNetPlans__3d_fullres
"""


def _epilog() -> str:
    return f"{FOLDERS}\n{_EPILOG}\n{_metrics()}"


def _metrics() -> str:
    """The catalogue: key and definition of each metric."""
    from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, metrics_of
    from nnunet_meep.evaluation.metrics.metric import Of

    lines = [
        "metrics of a class, or of one of nnU-Net's regions, by their keys in calibration.json:"
    ]
    for of, heading in ((Of.CLASS, None), (Of.TOP_LABEL, "metrics of the predicted label:")):
        if heading:
            lines += ["", heading]
        for key in metrics_of(of):
            if of is Of.CLASS or Of.CLASS not in CATALOGUE[key].of:
                text = f"  {key:<20} {CATALOGUE[key].explanation}"
                lines += textwrap.wrap(text, 90, subsequent_indent=" " * 23)
            else:
                lines.append(f"  {key:<20} as above")
    return "\n".join(lines)


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-calib-eval",
        usage="meep-calib-eval [GT_FOLDER] PRED_FOLDER [PRED_FOLDER ...] [options]",
        description=(
            "Measure how far the probabilities of nnU-Net predictions can be trusted.\n\n"
            "Compares CASE.npz (written by nnUNetv2_predict --save_probabilities or\n"
            "nnUNetv2_train --npz) with reference segmentations and reports metrics of\n"
            "segmentation and calibration, per case and over the voxels of all cases."
        ),
        epilog=_epilog,
    )
    add_folders(parser)
    parser.add_argument(
        "-o",
        type=Path,
        help=(
            "output folder (default: 'calibration' in PRED_FOLDER; required for several folders)"
        ),
    )
    add_counting(parser, bins=15)
    parser.add_argument(
        "--roi",
        nargs="+",
        default=["image"],
        metavar="ROI",
        help="regions of interest, see below; give this option after the folders (default: image)",
    )
    parser.add_argument(
        "--segmentation",
        choices=("file", "argmax"),
        default="file",
        help=(
            "which segmentation Dice, distances and volumes are computed from: file (default), "
            "that is CASE.nii.gz beside CASE.npz, which postprocessing or a threshold may have "
            "changed; or argmax of the probabilities (for regions, p > 0.5)"
        ),
    )
    parser.add_argument(
        "--maps",
        action="store_true",
        help=(
            "also write maps/CASE/ with the probability of each class and the entropy, as NIfTI "
            "files in the geometry of the reference, for an image viewer"
        ),
    )
    parser.add_argument(
        "--part",
        metavar="NUMBER/PARTS",
        help=(
            "for parallel jobs: count only every PARTS-th case, beginning with case NUMBER (from "
            "1), and write only the sums in cases/. When all parts are done, the same command "
            "without --part writes the results"
        ),
    )
    parser.add_argument(
        "--chill",
        action="store_true",
        help=(
            "leave out cases that are missing or cannot be evaluated, and list them, instead of "
            "stopping with an error. A reference without a prediction is an error only for folders "
            "written by nnUNetv2_predict, which should have a prediction for each reference"
        ),
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    return run(lambda: _evaluate(options))


def _evaluate(options: argparse.Namespace) -> None:
    from nnunet_meep.errors import InputError
    from nnunet_meep.evaluation.report.drawing import Drawing
    from nnunet_meep.nnunet_files.paths import itk_path, refuse_no_folder

    gt_folder, pred_folders = references_and_predictions(options)
    if options.o is None and len(pred_folders) > 1:
        raise InputError("-o: expected an output folder, because there are several PRED_FOLDER")
    output = options.o or pred_folders[0] / "calibration"
    if options.o is not None or pred_folders[0].is_dir():  # otherwise that is what is wrong
        refuse_no_folder(output)
    if options.maps:
        itk_path(output)
    arguments = {
        "gt_folder": gt_folder,
        "pred_folders": pred_folders,
        "dataset_json": options.djfile,
        "plans_json": options.pfile,
        "bins": options.bins,
        "rois": options.roi,
        "surface": not options.no_surface,
        "tolerance_mm": options.tolerance,
        "lesions": options.lesions,
        "segmentation": options.segmentation,
        "cases": options.cases,
        "processes": options.np,
        "chill": options.chill,
        "progress": True,
        "keep": output / "cases",
    }
    if options.part is not None:
        _count_part(options, arguments)
        return
    several = (options.np or usable_cores()) > 1
    with Drawing.started() if several else nullcontext() as drawing:  # first, it takes longest
        from nnunet_meep.evaluation.evaluate import evaluate
        from nnunet_meep.evaluation.notes import counted, notes
        from nnunet_meep.evaluation.report.evaluation_report import write_evaluation_report
        from nnunet_meep.evaluation.report.text import table

        evaluation = evaluate(**arguments)
        paths = write_evaluation_report(evaluation, output, drawing)
    n, n_kept = len(evaluation.cases), evaluation.n_kept
    print(
        f"{counted(n, 'case')}, {options.bins} bins; {n_kept} taken from {output / 'cases'}, "
        f"{n - n_kept} counted\n"
    )
    for line in notes(evaluation):
        print(f"Note: {line}\n")
    print(table(evaluation))
    if options.maps:
        paths += _write_maps(evaluation, gt_folder, pred_folders, options, output / "maps")
    print("\nWritten:")
    for path in paths:
        print(f"  {path}")


def _count_part(options: argparse.Namespace, arguments: dict[str, Any]) -> None:
    from nnunet_meep.errors import InputError
    from nnunet_meep.evaluation.notes import counted
    from nnunet_meep.evaluation.part import Part, count_part

    if options.maps:
        raise InputError(
            "--maps: expected none with --part, which writes only sums; give it to the last run, "
            "the one without --part"
        )
    part = Part.parse(options.part)
    counts = count_part(part, **arguments)
    skipped = f", {counts.n_skipped} could not be" * (counts.n_skipped > 0)
    print(
        f"part {part.number} of {part.n_parts}: {counted(counts.n_counted, 'case')} counted"
        f"{skipped}, {counts.n_kept} there already ({arguments['keep']}); when all parts are done, "
        f"run the same command without --part"
    )


def _write_maps(
    evaluation: Evaluation,
    gt_folder: Path | None,
    pred_folders: list[Path],
    options: argparse.Namespace,
    folder: Path,
) -> list[Path]:
    from tqdm import tqdm

    from nnunet_meep.evaluation.report.maps import write_maps
    from nnunet_meep.nnunet_files.predictions import Predictions

    opened = Predictions.open(
        gt_folder,
        pred_folders,
        options.djfile,
        options.pfile,
        [case.case for case in evaluation.cases],
    )
    for case in tqdm(opened.paired.cases, desc="maps", unit="case"):
        write_maps(case, opened.dataset, folder)
    return [folder]
