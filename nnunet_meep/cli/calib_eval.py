"""``meep-calib-eval``: calibration metrics of a folder of predictions."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._run import run


def _get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meep-calib-eval",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "How far can the probabilities of nnU-Net predictions be trusted?\n\n"
            "Compares CASE.npz (written by nnUNetv2_predict --save_probabilities or\n"
            "nnUNetv2_train --npz) with reference segmentations and reports, per case and over\n"
            "the voxels of all cases: Dice, Hausdorff distance (mm) and its 95th percentile,\n"
            "Brier score, Brier score of the foreground (Brier+), expected calibration error\n"
            "(ECE). Writes calibration.json, calibration.csv and reliability.png."
        ),
        epilog=(
            "examples:\n"
            "  nnUNetv2_predict -i imagesTs -o pred -d 501 -c 3d_fullres -f 0 \\\n"
            "      -tr nnUNetTrainerMEEP_KL --save_probabilities\n"
            "  meep-calib-eval labelsTs pred -o calibration\n\n"
            "  meep-calib-eval $nnUNet_preprocessed/Dataset501_LA/gt_segmentations \\\n"
            "      $nnUNet_results/Dataset501_LA/TRAINER__PLANS__CONFIG/fold_0/validation"
        ),
    )
    parser.add_argument("gt_folder", type=Path, help="folder with reference segmentations")
    parser.add_argument("pred_folder", type=Path, help="folder with predictions (CASE.npz)")
    parser.add_argument(
        "-djfile",
        type=Path,
        help="dataset.json; looked for in PRED_FOLDER and two folders up if not given",
    )
    parser.add_argument("-pfile", type=Path, help="plans.json; looked for in the same places")
    parser.add_argument(
        "-o", type=Path, help="output folder (default: the folder 'calibration' in PRED_FOLDER)"
    )
    parser.add_argument(
        "-np", type=_positive, help="number of processes (default: the number of cores)"
    )
    parser.add_argument(
        "--chill",
        action="store_true",
        help=(
            "go on without cases that are missing or cannot be evaluated, and list them; "
            "references without a prediction stop the command only in a folder that "
            "nnUNetv2_predict wrote, where each was meant to be predicted"
        ),
    )
    parser.add_argument(
        "--bins",
        type=_positive,
        default=15,
        help="bins of equal width for the ECE and the reliability diagram (default: 15)",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_positive.__name__ = "number of at least 1"  # argparse: "invalid number of at least 1 value"


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: _evaluate(_get_parser().parse_args(args)))


def _evaluate(arguments: argparse.Namespace) -> None:
    from nnunet_meep.errors import InputError
    from nnunet_meep.evaluation import report
    from nnunet_meep.evaluation.evaluate import evaluate

    output = arguments.o or arguments.pred_folder / "calibration"
    if output.exists() and not output.is_dir():  # said now, not after all the work
        raise InputError(f"{output}: expected a folder to write into, got a file (-o)")
    evaluation = evaluate(
        arguments.gt_folder,
        arguments.pred_folder,
        dataset_json=arguments.djfile,
        plans_json=arguments.pfile,
        bins=arguments.bins,
        processes=arguments.np,
        chill=arguments.chill,
        progress=True,
    )
    paths = report.write(evaluation, output)
    n = len(evaluation.cases)
    print(f"{n} case{'s' * (n != 1)}, whole volumes, {arguments.bins} bins\n")
    print(report.table(evaluation))
    if evaluation.not_predicted:
        print(f"\n{len(evaluation.not_predicted)} references have no prediction and were left out")
    for case, reason in evaluation.skipped:
        print(f"\nskipped {case}: {reason}")
    print("\nWritten: " + ", ".join(map(str, paths)))
