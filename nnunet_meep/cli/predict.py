"""``meep-predict``: predict with calibrated probabilities, also for averages of folds."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._calibrator import add_any_network, say_labels, say_note
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
written into -o: CASE.npz with calibrated probabilities, the segmentation that follows from them (or
from the calibrator's thresholds), CASE.pkl, dataset.json, plans.json, calibrator.json, and
triage.csv, which lists the cases to review first (meep-calib-triage). If the calibrator has volume
intervals, volumes.csv has a row for each case and class. These three commands do the same:

  nnUNetv2_predict ... -o uncalibrated --save_probabilities
  meep-calib-apply calibrator.json uncalibrated -o ...
  meep-calib-triage ... -o .../triage.csv

Without --calibrator, the probabilities are nnU-Net's own, and calibrator.json is replaced by
meep_predict_args.json, which tells meep-calib-fit and meep-calib-apply what the network is.

A calibrator belongs to the network that it was fitted to. Fit it to predictions made with the same
-d, -tr, -p, -c, -f and checkpoint. A calibrator of another network is refused, except with
--any-network.

several folds (-f 0 1 2):
  nnUNetv2_predict averages their logits; nnUNetv2_ensemble averages the probabilities of several
  folders. With --average probabilities, each fold predicts separately, and the probabilities of the
  folds are averaged.
  The average is a different network from its folds: it makes fewer errors, and the average of
  probabilities is less confident. The calibrator is applied to the average, so fit it to
  predictions of the average, or with meep-calib-fit --folds.
  --disagreement writes into disagreement/ in -o, in the geometry of the segmentation:
    CASE_mutual_information.nii.gz  H(mean p) - mean H(p) over the folds, in nats; for regions, the
                                    sum over the regions
    CASE_std.nii.gz                 standard deviation of p over the folds, for the class or region
                                    where it is largest
  With --average logits, --disagreement doubles the time: nnU-Net predicts the average in addition.

Until all cases are done, nnU-Net's predictions are in hidden folders .uncalibrated* in -o.
--continue_prediction continues from them; without this option, all cases are predicted again.

examples:
  meep-predict -i imagesTs -o predictions -d 501 -c 3d_fullres -f 0 \\
      -tr nnUNetTrainerMEEP_KL --calibrator calibrator.json
  meep-predict -i imagesTs -o predictions -d 501 -c 3d_fullres -f 0 1 2 3 4 \\
      -tr nnUNetTrainerMEEP_KL --average probabilities --disagreement
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-predict",
        description=(
            "Predict with nnU-Net and calibrate the probabilities with a calibrator from\n"
            "meep-calib-fit. Can average the logits or the probabilities of several folds, and\n"
            "map where folds disagree. Accepts all flags of nnUNetv2_predict."
        ),
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--calibrator",
        type=Path,
        metavar="FILE",
        help="calibrator.json from meep-calib-fit (default: probabilities stay as they are)",
    )
    add_any_network(parser)
    parser.add_argument(
        "--average",
        choices=("logits", "probabilities"),
        default="logits",
        help="what to average over several folds (default: logits, as in nnUNetv2_predict)",
    )
    parser.add_argument(
        "--disagreement",
        action="store_true",
        help="also write maps of where several folds disagree",
    )
    add = parser.add_argument_group("options of nnUNetv2_predict").add_argument
    add("-i", required=True, help="folder of images, CASE_0000.nii.gz and so on")
    add("-o", required=True, help="output folder, new or empty, or from an interrupted run")
    add("-d", required=True, help="name or number of the data set")
    add("-c", required=True, help="configuration, for example 3d_fullres")
    add("-p", default="nnUNetPlans", help="plans (default: nnUNetPlans)")
    add("-tr", default="nnUNetTrainer", help="trainer (default: nnUNetTrainer)")
    add(
        "-f",
        nargs="+",
        default=["0", "1", "2", "3", "4"],
        help="folds to predict with; several are averaged (default: 0 1 2 3 4)",
    )
    add(
        "-step_size",
        type=float,
        help="step size of the sliding window, at most 1 (nnU-Net's default: 0.5)",
    )
    add("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    add("--verbose", action="store_true", help="more output from nnU-Net")
    add("--save_probabilities", action="store_true", help="always on here; accepted but not needed")
    add(
        "--continue_prediction",
        action="store_true",
        help="continue an interrupted run; finished cases are not predicted again",
    )
    add("-chk", default="checkpoint_final.pth", help="checkpoint (default: checkpoint_final.pth)")
    add("-npp", type=int, help="number of processes for preprocessing (nnU-Net's default: 3)")
    add(
        "-nps",
        type=int,
        help="number of processes for writing segmentations (nnU-Net's default: 3)",
    )
    add(
        "-prev_stage_predictions",
        help="for a cascade: folder with the predictions of the previous stage",
    )
    add("-num_parts", type=int, default=1, help="number of calls that share the cases (default: 1)")
    add(
        "-part_id",
        type=int,
        default=0,
        help="number of this call, from 0 to -num_parts minus 1 (default: 0)",
    )
    add(
        "-device",
        choices=("cuda", "cpu", "mps"),
        default="cuda",
        help="device (default: cuda); choose the GPU with CUDA_VISIBLE_DEVICES",
    )
    add("--disable_progress_bar", action="store_true", help="no progress bars")
    add(
        "--not_on_device",
        action="store_true",
        help="collect results in main memory instead of on the GPU, for large images",
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    return run(lambda: _predict(options))


def _predict(options: argparse.Namespace) -> None:
    from nnunet_meep.errors import InputError
    from nnunet_meep.posthoc.predict import Prediction, predict

    if not 0 <= options.part_id < options.num_parts:
        raise InputError(
            f"-part_id: expected a number from 0 to {options.num_parts - 1} (-num_parts "
            f"{options.num_parts}), got {options.part_id}"
        )
    asked = Prediction(
        images=Path(options.i),
        output=Path(options.o),
        model=(options.d, options.tr, options.p, options.c),
        folds=options.f,
        checkpoint=options.chk,
        device=options.device,
        continue_prediction=options.continue_prediction,
        part=(options.part_id, options.num_parts),
        previous_stage=options.prev_stage_predictions and Path(options.prev_stage_predictions),
        arguments=_for_nnunet(options),
        average=options.average,
        disagreement=options.disagreement,
    )
    applied = predict(
        asked,
        options.calibrator,
        any_network=options.any_network,
        say=say_note,
        progress=not options.disable_progress_bar,
    )
    n = len(applied.names)
    done = "predicted" if options.calibrator is None else "predicted and calibrated"
    print(f"{n} case{'s' * (n != 1)} {done}, written into {options.o}")
    say_labels(applied)


def _for_nnunet(options: argparse.Namespace) -> list[str]:
    """The arguments for nnU-Net, without our own and those that :func:`.predict` sets."""
    flags = {"disable_tta", "verbose", "continue_prediction", "disable_progress_bar"}
    flags |= {"not_on_device"}
    ours = {"calibrator", "any_network", "average", "disagreement", "f", "o", "save_probabilities"}
    result = []
    for name, value in vars(options).items():
        if name in ours or value is None:
            continue
        if name in flags:
            result += [f"--{name}"] * value
        else:
            result += [f"-{name}", str(value)]
    return result
