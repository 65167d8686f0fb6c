"""Arguments for predictions and references, the same in all commands."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from nnunet_meep.evaluation.counting import TOLERANCE_MM

#: Help text on folders, for the epilog of commands that use :func:`add_folders`.
FOLDERS = """\
folders:
  GT_FOLDER PRED_FOLDER [PRED_FOLDER ...]
      reference segmentations, and predictions with probabilities (CASE.npz). The cases of
      several folders are pooled. PRED_FOLDER ... --gt GT_FOLDER does the same
  MODEL_FOLDER
      nnU-Net's TRAINER__PLANS__CONFIG: uses all its fold_*/validation. The references are
      those in $nnUNet_preprocessed/DATASET/gt_segmentations. A single fold_X/validation
      works, too
"""


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add arguments for references and predictions, nnU-Net's two files, and cases."""
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="references and predictions, or a model folder; see below",
    )
    add_references(parser, "reference segmentations; without --gt, the first FOLDER")
    add_json_files(parser)
    add_cases(parser)


def add_json_files(parser: argparse.ArgumentParser) -> None:
    """Add nnU-Net's flags for its two files."""
    parser.add_argument(
        "-djfile",
        type=Path,
        help="dataset.json (default: the one in PRED_FOLDER or two folders above)",
    )
    parser.add_argument("-pfile", type=Path, help="plans.json (default: as for -djfile)")


def add_references(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--gt", type=Path, metavar="GT_FOLDER", help=what)


def add_cases(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases",
        nargs="+",
        metavar="CASE",
        help="use only these cases; give this option after the folders (default: all cases)",
    )


def references_and_predictions(options: argparse.Namespace) -> tuple[Path | None, list[Path]]:
    """The references (None: those of a model) and predictions given to :func:`add_folders`."""
    if options.gt is not None or len(options.folders) == 1:
        return options.gt, options.folders
    gt_folder, *pred_folders = options.folders
    return gt_folder, pred_folders


def add_counting(parser: argparse.ArgumentParser, *, bins: int | None) -> None:
    """Add options on how predictions are evaluated.

    Args:
        parser: the command's parser.
        bins: the default number of bins; None: that of each result, as for the tolerance.
    """
    parser.add_argument(
        "-np",
        type=_positive,
        help=(
            "number of worker processes (default: one for each available core); with 1, the main "
            "process evaluates and needs more memory"
        ),
    )
    default = "that of each existing result, 15 for new results" if bins is None else str(bins)
    parser.add_argument(
        "--bins",
        type=_positive,
        default=bins,
        help=(
            f"number of bins, of equal width, for ECE and reliability diagram (default: {default})"
        ),
    )
    parser.add_argument(
        "--no-surface",
        action="store_true",
        help="leave out surface distances and surface Dice, which take the most time",
    )
    shown = "that of each existing result" if bins is None else f"{TOLERANCE_MM:g}"
    parser.add_argument(
        "--tolerance",
        type=_distance,
        metavar="MM",
        default=None if bins is None else TOLERANCE_MM,
        help=f"tolerance of the surface Dice (nsd) in mm (default: {shown})",
    )

    parser.add_argument(
        "--lesions",
        type=_size,
        nargs="?",
        const=0.0,
        metavar="MM3",
        help=(
            "also evaluate single lesions (connected components of each class): how many are "
            "found, and how confident the network is in each. Give this option after the folders. "
            "With a size in mm^3 (mm^2 in 2D images), smaller lesions are left out of segmentation "
            "and reference" + ("" if bins else " (default: as in each existing result)")
        ),
    )


def _size(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 <= size < math.inf:
        raise argparse.ArgumentTypeError(
            f"expected nothing or a size in mm^3, after the folders, got {text!r}"
        )
    return size


def _distance(text: str) -> float:
    try:
        distance = float(text)
    except ValueError:
        distance = math.nan
    if not 0 <= distance < math.inf:
        raise argparse.ArgumentTypeError(f"expected a distance in mm, at least 0, got {text!r}")
    return distance


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)
