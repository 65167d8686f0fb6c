"""``meep-calib-fit``: learn a calibrator from validation predictions."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._folders import FOLDERS, add_folders, references_and_predictions
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
methods:
  platt             sigmoid(a logit p + b), by unregularized logistic regression (scikit-learn)
  isotonic          the best nondecreasing function of p (scikit-learn)
  temperature       softmax(log p / T); keeps every predicted label
with fiducio (pip install 'fiducio>=0.2,<0.3'):
  vector            softmax(w log p + b), a factor and an offset for each class
  matrix            softmax(W log p + b)
  dirichlet         the same, regularized (off-diagonal and offsets)
  class-conditional, class-conditional-argmax, class-conditional-order
                    a matrix for each predicted label; free, or such that the predicted label,
                    or the whole ranking of the classes, stays as it is

what follows from probabilities, which stay as they are:
  threshold         from which probability on a class or region is segmented: for the best mean
                    Dice (--goal dice), or the smallest segmentation that misses at most a share
                    of the voxels, on average over cases (--fnr, conformal risk control)
  volume            how far volumes are from the expected one: an interval that contains the true
                    volume in a share of the cases (--coverage, split conformal prediction)
  Each is fitted to the probabilities as they are, or after another calibrator (--after), which
  its file then holds: that one file is all that meep-calib-apply and meep-predict need.
  A region is segmented where p is above its threshold; of classes that exclude each other the
  one with the largest p / threshold, if that is above 1. What --fnr and --coverage promise holds
  on average over validation sets and further cases of the same kind (exchangeable ones), for
  the network that it was fitted to; not for each case.

platt and isotonic take one class against the rest; with more than two classes all are then made
to sum to 1. Regions are calibrated each on its own. nnU-Net saves no logits: log p is taken, of
p not below 3.8e-11 (logits within 24).

{folders}
written:
  calibrator.json   what was learnt, and on what; for meep-calib-apply and meep-predict
  calibrator.png    reliability of the voxels it was fitted on, before and after; of thresholds
                    Dice and false-negative rate, of volumes the expected against the true ones

Never fit on the cases that you evaluate on, nor on cases that the network was trained on. What is
learnt from the validation of single folds is for single folds; --folds: for their average, which
assumes that on new cases the average makes the same errors with the same confidence as each fold.

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
            "Learn from validation predictions how probabilities have to be changed so that they\n"
            "can be trusted (post-hoc calibration), and what follows from them: thresholds and\n"
            "intervals of volumes. The network stays as it is."
        ),
        epilog=_EPILOG.replace("{folders}", FOLDERS),
    )
    parser.add_argument("method", metavar="METHOD", help="what is learnt; see below")
    add_folders(parser)
    parser.add_argument(
        "-o", type=Path, required=True, metavar="FILE", help="where to write calibrator.json"
    )
    parser.add_argument(
        "--roi",
        default="image",
        metavar="ROI",
        help=(
            "which voxels to learn from, as in meep-calib-eval: image (default), crop, "
            "boundary:MM or mask:FOLDER; the calibrator is applied to whole images"
        ),
    )
    parser.add_argument(
        "--folds",
        action="store_true",
        help=(
            "for predictions that are averaged over the folds of the model folder "
            "(cross-fitting: each fold predicts cases that it was not trained on)"
        ),
    )
    derived = parser.add_argument_group("of threshold and volume").add_argument
    derived("--goal", choices=("dice",), help="thresholds of the best mean Dice")
    derived(
        "--fnr",
        type=float,
        metavar="RATE",
        help=(
            "thresholds that miss at most this share of the voxels of a class, on average over "
            "further cases of the same kind, such as 0.1; that needs 9 cases at least (0.05: 19)"
        ),
    )
    derived(
        "--coverage",
        type=float,
        metavar="SHARE",
        help=(
            "share of further cases of the same kind whose volume is to be inside its interval "
            "(default: 0.9, which needs 9 cases at least; 0.95: 19)"
        ),
    )
    derived(
        "--after",
        type=Path,
        metavar="FILE",
        help="a calibrator.json that is applied before, and becomes part of the new one",
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
