"""``meep-convert-la``: the Left Atrium 2018 data into nnU-Net's raw format."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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

Written are the 80 training scans (imagesTr, labelsTr) and the 20 test scans (imagesTs, labelsTs)
of the MEEP paper, dataset.json, and splits_final.json: fold 0 is the paper's split into 76
training and 4 validation scans, folds 1 to 5 are a cross-validation of the 80. Nothing is
resampled. The challenge's terms of use apply to the data.

example:
  meep-convert-la ~/data/atriaseg2018 -d 501
  nnUNetv2_plan_and_preprocess -d 501 --verify_dataset_integrity
  nnUNetv2_train 501 3d_fullres 0
"""


def main(args: list[str] | None = None) -> int:
    """Convert the Left Atrium 2018 data; 0, or 1 after one line for each thing that is wrong."""
    options = _get_parser().parse_args(args)
    return run(lambda: _convert(options.source, options.dataset_id))


def _convert(source: Path, dataset_id: int) -> None:
    from nnunet_meep.datasets.left_atrium import TEST_CASES, TRAINING_CASES, convert

    done = convert(source, dataset_id)
    if done.skipped:
        print(
            f"Skipped {len(done.skipped)} cases that are in none of the paper's lists: "
            + ", ".join(done.skipped)
        )
    if done.n_training < len(TRAINING_CASES) or done.n_test < len(TEST_CASES):
        warning = (
            f"{done.n_training} of the paper's {len(TRAINING_CASES)} training scans and "
            f"{done.n_test} of its {len(TEST_CASES)} test scans are there"
        )
        if not done.has_splits:
            warning += "; too few for its splits: no splits_final.json, nnU-Net draws its own"
        print(f"Warning: {warning}", file=sys.stderr)
    splits = ", splits_final.json with folds 0 (the paper's) to 5" if done.has_splits else ""
    print(
        f"Wrote {done.folder} from {done.layout}: {done.n_training} training scans, "
        f"{done.n_test} test scans{splits}"
    )
    print(f"Next: nnUNetv2_plan_and_preprocess -d {dataset_id} --verify_dataset_integrity")


def _get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meep-convert-la",
        description="Write the Left Atrium 2018 data as $nnUNet_raw/Dataset<ID>_LA for nnU-Net.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", type=Path, help="folder with the data")
    parser.add_argument(
        "-d",
        dest="dataset_id",
        metavar="ID",
        type=_dataset_id,
        required=True,
        help="nnU-Net's number for the data set, 1 to 999",
    )
    return parser


def _dataset_id(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 999:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999")
    return number
