"""``meep-calib-apply``: calibrate a folder of predictions."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._calibrator import add_any_network, say_labels, say_note
from nnunet_meep.cli._folders import add_json_files
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
written into -o, in the same form as by nnUNetv2_predict --save_probabilities:
  CASE.npz        calibrated probabilities, float32
  CASE.nii.gz     (or the data set's file ending) segmentation by the thresholds of the calibrator
                  if it has any, otherwise by nnU-Net's rule: the class with the largest
                  probability, or regions with p > 0.5. temperature does not change the
                  segmentation (except ties up to rounding); platt and isotonic can
  CASE.pkl        copied, never opened
  volumes.csv     if the calibrator has volume intervals: for each case and class the expected
                  volume, the ends of its interval, and the segmented volume, in ml
  dataset.json, plans.json, predict_from_raw_data_args.json, calibrator.json

All commands that read predictions accept this folder: meep-calib-eval, meep-calib-compare,
nnUNetv2_ensemble and others. (nnUNetv2_ensemble averages the probabilities and ignores the
thresholds.) nnU-Net's padding around the non-zero crop is not changed. To continue an interrupted
run, start the same command again.

example:
  meep-calib-fit platt labelsVal predictionsVal -o calibrator.json
  meep-calib-apply calibrator.json predictionsTs -o calibratedTs
  meep-calib-compare plain=predictionsTs platt=calibratedTs --gt labelsTs -o comparison

To predict and calibrate in one command, use meep-predict.
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-calib-apply",
        description=(
            "Calibrate a folder of nnU-Net predictions with a calibrator from meep-calib-fit, and\n"
            "write the result as another folder of predictions."
        ),
        epilog=_EPILOG,
    )
    parser.add_argument(
        "calibrator", type=Path, metavar="CALIBRATOR", help="file from meep-calib-fit"
    )
    parser.add_argument(
        "pred_folder",
        type=Path,
        metavar="PRED_FOLDER",
        help="predictions with probabilities: CASE.npz beside CASE.nii.gz",
    )
    parser.add_argument(
        "-o",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="output folder, new or empty, or from an interrupted run",
    )
    add_json_files(parser)
    add_any_network(parser)
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    return run(lambda: _apply(options))


def _apply(options: argparse.Namespace) -> None:
    from nnunet_meep.posthoc.apply import apply

    applied = apply(
        options.calibrator,
        options.pred_folder,
        options.o,
        dataset_json=options.djfile,
        plans_json=options.pfile,
        any_network=options.any_network,
        say=say_note,
        progress=True,
    )
    n = len(applied.names)
    print(f"{n} case{'s' * (n != 1)} calibrated, written into {options.o}")
    say_labels(applied)
    if changed := applied.not_argmax:
        now = "it follows the thresholds" if applied.by_thresholds else "it is"
        say_note(
            f"in {options.pred_folder} the segmentation is not the argmax of the probabilities "
            f"in {len(changed)} of {applied.n_in_words} ({sum(changed.values()):,} voxels), as "
            f"after postprocessing; in {options.o} {now}: {', '.join(changed)}"
        )
