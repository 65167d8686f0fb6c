"""``meep-convert-la``: convert the Left Atrium 2018 data to nnU-Net's raw format."""

from __future__ import annotations

import argparse

from nnunet_meep.cli._convert import add_arguments, convert
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
SRC is a folder with the data in one of three layouts, at any depth:

  as released by the challenge, https://www.cardiacatlas.org/atriaseg2018-challenge/
    Training Set/<CASE>/lgemri.nrrd
    Training Set/<CASE>/laendo.nrrd
  pre-processed, from the repository yulequan/UA-MT on GitHub
    2018LA_Seg_Training Set/<CASE>/mri_norm2.h5
  NIfTI
    imagesTr/LA_<CASE>_0000.nii.gz   imagesTs/LA_<CASE>_0000.nii.gz
    labelsTr/LA_<CASE>.nii.gz        labelsTs/LA_<CASE>.nii.gz

The command writes the 80 training scans (imagesTr, labelsTr) and the 20 test scans (imagesTs,
labelsTs) of the MEEP paper, dataset.json, and splits_final.json: fold 0 is the paper's split into
76 training and 4 validation scans, folds 1 to 5 are a cross-validation of all 80. Nothing is
resampled. The challenge's terms of use apply to the data.

example:
  meep-convert-la ~/data/atriaseg2018 -d 501
  nnUNetv2_plan_and_preprocess -d 501 --verify_dataset_integrity
  nnUNetv2_train 501 3d_fullres 0
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-convert-la",
        description=(
            "Convert the Left Atrium 2018 data to nnU-Net's raw format, $nnUNet_raw/Dataset<ID>_LA."
        ),
        epilog=_EPILOG,
    )
    add_arguments(parser)
    parser.add_argument(
        "--challenge-test",
        action="store_true",
        help=(
            "test on the challenge's own 'Testing Set' and train on the other 100 scans; fold 0 "
            "stays that of the paper (default: test on the paper's 20 scans)"
        ),
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Convert the Left Atrium 2018 data; returns 0, or 1 after one line for each problem."""
    options = _get_parser().parse_args(args)
    return run(lambda: _convert(options))


def _convert(options: argparse.Namespace) -> None:
    from nnunet_meep.datasets.left_atrium import find

    convert(find(options.source, challenge_test=options.challenge_test), options)
