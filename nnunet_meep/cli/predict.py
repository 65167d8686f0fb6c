"""``meep-predict``: predict with calibrated probabilities, also with those of averaged folds."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._calibrator import add_any_network, say_labels, say_note
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
written into -o: CASE.npz with calibrated probabilities, the segmentation that follows from them,
CASE.pkl, dataset.json, plans.json, calibrator.json, and triage.csv, which lists the cases to review
first (meep-calib-triage); if the calibrator has thresholds, segmentations follow these; if it has
volume intervals, volumes.csv has a row for each case and class. The same as that of

  nnUNetv2_predict ... -o uncalibrated --save_probabilities
  meep-calib-apply calibrator.json uncalibrated -o ...
  meep-calib-triage ... -o .../triage.csv

Without --calibrator the same files with nnU-Net's probabilities, and meep_predict_args.json, by
which meep-calib-fit and meep-calib-apply know the network.

A calibrator is for the network that it was fitted to: fit it on predictions made with the same -d,
-tr, -p, -c, -f and checkpoint. Another one is refused, or with --any-network taken all the same.

several folds (-f 0 1 2):
  nnUNetv2_predict averages their logits, nnUNetv2_ensemble the probabilities of several folders.
  --average probabilities does the second with folds: each of them predicts on its own.
  The average is another network than each fold: it makes fewer errors, and that of probabilities
  is less confident. A calibrator is applied to the average: fit it to predictions of the average,
  or with meep-calib-fit --folds.
  --disagreement writes into disagreement/ in -o, in the geometry of the segmentation,
    CASE_mutual_information.nii.gz  H(mean p) - mean H(p) over the folds, nats; of regions the sum
    CASE_std.nii.gz                 standard deviation of p over the folds, of the class or region
                                    for which it is largest
  With --average logits it takes twice the time, because the average is predicted besides.

Until all is done, nnU-Net's predictions lie in hidden folders .uncalibrated* in -o;
--continue_prediction goes on from them, and without it all is predicted again.

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
            "Predict with nnU-Net, calibrate the probabilities with what meep-calib-fit learnt,\n"
            "average folds in either way, and map where they disagree. Takes nnUNetv2_predict's\n"
            "flags."
        ),
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--calibrator",
        type=Path,
        metavar="FILE",
        help="calibrator.json (default: the probabilities stay as they are)",
    )
    add_any_network(parser)
    parser.add_argument(
        "--average",
        choices=("logits", "probabilities"),
        default="logits",
        help="what is averaged over several folds (default: logits, as nnUNetv2_predict does)",
    )
    parser.add_argument(
        "--disagreement", action="store_true", help="also map where several folds disagree"
    )
    add = parser.add_argument_group("nnUNetv2_predict's own").add_argument
    add("-i", required=True, help="folder of images, CASE_0000.nii.gz and so on")
    add("-o", required=True, help="output folder, new or empty")
    add("-d", required=True, help="dataset, its name or number")
    add("-c", required=True, help="configuration, for example 3d_fullres")
    add("-p", default="nnUNetPlans", help="plans (default: nnUNetPlans)")
    add("-tr", default="nnUNetTrainer", help="trainer (default: nnUNetTrainer)")
    add(
        "-f",
        nargs="+",
        default=["0", "1", "2", "3", "4"],
        help="folds of which the prediction is averaged (default: 0 1 2 3 4)",
    )
    add("-step_size", type=float, help="of the sliding window (nnU-Net's default: 0.5)")
    add("--disable_tta", action="store_true", help="no mirroring: faster, less accurate")
    add("--verbose", action="store_true", help="nnU-Net says more")
    add("--save_probabilities", action="store_true", help="is always on here")
    add(
        "--continue_prediction",
        action="store_true",
        help="go on with a run that was stopped; finished cases stay as they are",
    )
    add("-chk", default="checkpoint_final.pth", help="checkpoint (default: checkpoint_final.pth)")
    add("-npp", type=int, help="processes that preprocess")
    add("-nps", type=int, help="processes that write segmentations")
    add("-prev_stage_predictions", help="of a cascade: predictions of the stage before")
    add("-num_parts", type=int, default=1, help="number of calls that share the cases")
    add("-part_id", type=int, default=0, help="which of them this is, from 0")
    add(
        "-device",
        choices=("cuda", "cpu", "mps"),
        default="cuda",
        help="default: cuda; which GPU is said with CUDA_VISIBLE_DEVICES",
    )
    add("--disable_progress_bar", action="store_true", help="no progress bars")
    add("--not_on_device", action="store_true", help="large images: gather tiles in main memory")
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
