"""``meep-convert-wmh``: convert the WMH challenge's data to nnU-Net's raw format."""

from __future__ import annotations

import argparse

from nnunet_meep.cli._convert import add_arguments, convert
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
SRC is a folder with the data of the WMH Segmentation Challenge as released, at any depth:

  Utrecht/0/pre/FLAIR.nii.gz           or training/Utrecht/0/...
  Utrecht/0/pre/T1.nii.gz                 training/Singapore/50/...
  Utrecht/0/wmh.nii.gz                    training/Amsterdam/GE3T/100/...
  Singapore/50/... GE3T/100/...           test/...

  download: https://doi.org/10.34894/AECRSD (its terms of use apply)

The command writes 45 training scans (imagesTr, labelsTr) and 15 test scans (imagesTs, labelsTs),
dataset.json, and splits_final.json. Fold 0 trains on 42 scans and validates on 3, as in the MEEP
paper; folds 1 to 5 are a cross-validation with equally many scans from each scanner; folds 6 to 8
leave out one scanner each (Utrecht, Singapore, GE3T). The paper does not say which scans it used:
we drew ours at random once, for each scanner 14 for training, 1 for validation and 5 for testing.
Nothing is resampled; nnU-Net does that later.

example:
  meep-convert-wmh ~/data/wmh -d 502
  nnUNetv2_plan_and_preprocess -d 502 --verify_dataset_integrity
  nnUNetv2_train 502 3d_fullres 0 -tr nnUNetTrainerMEEP_KL
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-convert-wmh",
        description=(
            "Convert the WMH challenge's data to nnU-Net's raw format, $nnUNet_raw/Dataset<ID>_WMH."
        ),
        epilog=_EPILOG,
    )
    add_arguments(parser)
    parser.add_argument(
        "--channels",
        nargs="+",
        choices=["FLAIR", "T1"],
        default=["FLAIR", "T1"],
        help="images to use as channels; give this option after SRC (default: FLAIR T1)",
    )
    parser.add_argument(
        "--other-pathology",
        choices=["ignore", "background", "lesion"],
        default="ignore",
        help=(
            "what label 2 (other pathology) becomes: nnU-Net's ignore label (default, as the "
            "challenge does not score it), background (as in the paper's binary masks), or lesion"
        ),
    )
    parser.add_argument(
        "--orig",
        action="store_true",
        help="use the images as scanned (orig/) instead of the bias-corrected ones (pre/)",
    )
    parser.add_argument(
        "--challenge-test",
        action="store_true",
        help=(
            "test on the release's own test scans and train on all 60 others; fold 0 stays the "
            "same (default: test on 15 of the 60)"
        ),
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Convert the WMH data; returns 0, or 1 after one line for each problem."""
    options = _get_parser().parse_args(args)
    return run(lambda: _convert(options))


def _convert(options: argparse.Namespace) -> None:
    from nnunet_meep.datasets.wmh import find

    dataset = find(
        options.source,
        channels=list(dict.fromkeys(options.channels)),
        other_pathology=options.other_pathology,
        original=options.orig,
        challenge_test=options.challenge_test,
    )
    convert(dataset, options)
