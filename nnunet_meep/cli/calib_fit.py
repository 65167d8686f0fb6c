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

platt and isotonic take one class against the rest; with more than two classes all are then made
to sum to 1. Regions are calibrated each on its own. nnU-Net saves no logits: log p is taken, of
p not below 3.8e-11 (logits within 24).

{folders}
written:
  calibrator.json   what was learnt, and on what; for meep-calib-apply and meep-predict
  calibrator.png    reliability of the voxels it was fitted on, before and after

Never fit on the cases that you evaluate on, nor on cases that the network was trained on. What is
learnt from the validation of single folds is for single folds; --folds: for their average, which
assumes that on new cases the average is as overconfident as its members are.

examples:
  nnUNetv2_train 501 3d_fullres 0 -tr nnUNetTrainerMEEP_KL --npz
  meep-calib-fit temperature -o calibrator.json \\
      $nnUNet_results/Dataset501_LA/nnUNetTrainerMEEP_KL__nnUNetPlans__3d_fullres
  meep-calib-fit temperature --folds -o average.json \\
      $nnUNet_results/Dataset501_LA/nnUNetTrainerMEEP_KL__nnUNetPlans__3d_fullres
  meep-calib-fit platt labelsVal predictionsVal -o platt.json --roi boundary:10
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-calib-fit",
        usage="meep-calib-fit METHOD [GT_FOLDER] PRED_FOLDER [PRED_FOLDER ...] -o FILE [options]",
        description=(
            "Learn from validation predictions how probabilities have to be changed so that they\n"
            "can be trusted (post-hoc calibration). The network stays as it is."
        ),
        epilog=_EPILOG.replace("{folders}", FOLDERS),
    )
    parser.add_argument("method", metavar="METHOD", help="calibration method; see below")
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
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    return run(lambda: _fit(options))


def _fit(options: argparse.Namespace) -> None:
    from nnunet_meep.posthoc import report
    from nnunet_meep.posthoc.fit import fit

    report.check_target(options.o)
    gt_folder, pred_folders = references_and_predictions(options)
    found = fit(
        options.method,
        gt_folder,
        pred_folders,
        dataset_json=options.djfile,
        plans_json=options.pfile,
        roi=options.roi,
        cases=options.cases,
        folds=options.folds,
        progress=True,
    )
    paths = report.write(found, options.o)
    print(report.table(found))
    print("\nWritten:")
    for path in paths:
        print(f"  {path}")
