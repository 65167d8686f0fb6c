"""``meep-calib-fit``: fit a calibrator to validation predictions."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._folders import FOLDERS, add_folders, references_and_predictions
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
methods:
  platt             sigmoid(a logit p + b), by logistic regression without a penalty
                    (scikit-learn)
  isotonic          the best nondecreasing function of p (scikit-learn)
  temperature       softmax(log p / T); changes no predicted label, except ties up to rounding
with fiducio (pip install 'fiducio>=0.2,<0.3'):
  vector            softmax(w log p + b), a factor and an offset for each class
  matrix            softmax(W log p + b)
  dirichlet         the same as matrix, regularized (off-diagonal entries and offsets)
  class-conditional, class-conditional-argmax, class-conditional-order
                    a matrix for each predicted label: unrestricted, keeping the predicted label,
                    or keeping the ranking of all classes

methods that leave the probabilities unchanged:
  threshold         the probability above which a class or region is segmented: for the best mean
                    Dice (--goal dice), or for the smallest segmentation that misses at most a
                    given share of the voxels, on average over the cases that have the class (--fnr,
                    conformal risk control)
  volume            an interval around the expected volume that contains the true volume in a
                    given share of the cases (--coverage, split conformal prediction)
  Both can follow another calibrator (--after). The new file then holds both calibrators, so it is
  the only file that meep-calib-apply and meep-predict need.
  A region is segmented where p is above its threshold. Of several classes, the one with the
  largest p / threshold is segmented if this ratio is above 1, otherwise background. --fnr and
  --coverage hold on average over validation sets and further cases of the same kind
  (exchangeable cases) for the same network, but not for each single case.

platt and isotonic calibrate each class against the rest; with more than two classes, the results
are then divided by their sum. Regions are calibrated separately. nnU-Net saves no logits, so log p
is used instead, with p raised to at least 3.8e-11 (logits between -24 and 24).

{folders}
written:
  calibrator.json   the calibrator and the cases it was fitted to, for meep-calib-apply and
                    meep-predict
  calibrator.png    reliability diagrams of these cases before and after; for threshold: Dice and
                    false-negative rate; for volume: expected against true volumes

Never fit on cases that you evaluate on, nor on cases that the network was trained on. A calibrator
fitted to the validation cases of single folds is for predictions of single folds; with --folds it
is for their average. --folds assumes that, on new cases, the average makes the same errors with the
same confidence as each fold.

examples:
  nnUNetv2_train 501 3d_fullres 0 -tr nnUNetTrainerMEEP_KL --npz
  meep-calib-fit temperature -o calibrator.json \\
      $nnUNet_results/Dataset501_LA/nnUNetTrainerMEEP_KL__nnUNetPlans__3d_fullres
  meep-calib-fit temperature --folds -o average.json \\
      $nnUNet_results/Dataset501_LA/nnUNetTrainerMEEP_KL__nnUNetPlans__3d_fullres
  meep-calib-fit platt labelsVal predictionsVal -o platt.json --roi boundary:10
  meep-calib-fit threshold --fnr 0.1 --after platt.json labelsVal predictionsVal -o t.json
  meep-calib-fit volume --coverage 0.9 --after t.json labelsVal predictionsVal -o all.json
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-calib-fit",
        usage="meep-calib-fit METHOD [GT_FOLDER] PRED_FOLDER [PRED_FOLDER ...] -o FILE [options]",
        description=(
            "Fit a post-hoc calibrator to validation predictions: a correction of the\n"
            "probabilities, thresholds, or volume intervals. The network itself does not change."
        ),
        epilog=_EPILOG.replace("{folders}", FOLDERS),
    )
    parser.add_argument("method", metavar="METHOD", help="what to fit; see below")
    add_folders(parser)
    parser.add_argument(
        "-o",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write, such as calibrator.json",
    )
    parser.add_argument(
        "--roi",
        default="image",
        metavar="ROI",
        help=(
            "which voxels to fit to, as in meep-calib-eval: image (default), crop, boundary:MM "
            "or mask:FOLDER; the calibrator is still applied to whole images"
        ),
    )
    parser.add_argument(
        "--folds",
        action="store_true",
        help=(
            "fit a calibrator for the average of all folds, on the validation cases of the folds "
            "of a model folder (cross-fitting: no fold was trained on the cases it predicts)"
        ),
    )
    derived = parser.add_argument_group("options for threshold and volume").add_argument
    derived("--goal", choices=("dice",), help="threshold: best mean Dice")
    derived(
        "--fnr",
        type=float,
        metavar="RATE",
        help=(
            "threshold: miss at most this share of the voxels of a class, on average over further "
            "cases of the same kind that have it; 0.1 needs at least 9 cases with the class, 0.05 "
            "at least 19"
        ),
    )
    derived(
        "--coverage",
        type=float,
        metavar="SHARE",
        help=(
            "volume: share of further cases of the same kind whose true volume is inside the "
            "interval (default: 0.9, which needs at least 9 cases; 0.95 needs at least 19)"
        ),
    )
    derived(
        "--after",
        type=Path,
        metavar="FILE",
        help="a calibrator.json that is applied first and becomes part of the new file",
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    return run(lambda: _fit(options))


def _fit(options: argparse.Namespace) -> None:
    from nnunet_meep.errors import InputError
    from nnunet_meep.posthoc import derived_report, report
    from nnunet_meep.posthoc.fit import fit
    from nnunet_meep.posthoc.fit_derived import Goal, fit_derived

    report.check_target(options.o)
    goal = Goal.of(options.method, options.coverage, options.goal, options.fnr)
    gt_folder, pred_folders = references_and_predictions(options)
    arguments = {
        "dataset_json": options.djfile,
        "plans_json": options.pfile,
        "cases": options.cases,
        "folds": options.folds,
        "progress": True,
    }
    if goal is None:
        if options.after is not None:
            raise InputError(
                f"--after: expected with threshold or volume, got it with {options.method}"
            )
        found = fit(options.method, gt_folder, pred_folders, roi=options.roi, **arguments)
        paths, text = report.write(found, options.o), report.table(found)
    else:
        if options.roi != "image":
            raise InputError(
                f"--roi: expected none with {goal.method}, which is of whole images, got "
                f"{options.roi}"
            )
        derived = fit_derived(goal, gt_folder, pred_folders, after=options.after, **arguments)
        paths, text = derived_report.write(derived, options.o), derived_report.table(derived)
    print(text)
    print("\nWritten:")
    for path in paths:
        print(f"  {path}")
