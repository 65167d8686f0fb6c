"""``meep-convert-msd``: convert a Medical Segmentation Decathlon task to nnU-Net's raw format."""

from __future__ import annotations

import argparse

from nnunet_meep.cli._convert import add_arguments, add_division, convert, division
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
SRC is the unpacked folder of a task from http://medicaldecathlon.com (its terms apply):

  Task04_Hippocampus/dataset.json
  Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz    4D if there are several modalities
  Task04_Hippocampus/labelsTr/hippocampus_001.nii.gz

nnUNetv2_convert_MSD_dataset uses all labelled scans for training, and the scans without labels
(imagesTs) for testing. Here, --test sets labelled scans aside, so that predictions can be
evaluated; scans without labels are left out. With --validation, splits_final.json has one fold with
these validation scans; without it, nnU-Net divides the training scans into its usual five folds.

example:
  meep-convert-msd ~/data/Task04_Hippocampus -d 4 --test 52 --validation 20
  nnUNetv2_plan_and_preprocess -d 4 --verify_dataset_integrity
  nnUNetv2_train 4 3d_fullres 0 -tr nnUNetTrainerMEEP_KL --npz
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-convert-msd",
        description=(
            "Convert a task of the Medical Segmentation Decathlon to nnU-Net's raw format,\n"
            "$nnUNet_raw/Dataset<ID>_<NAME OF THE TASK>, with labelled test scans."
        ),
        epilog=_EPILOG,
    )
    add_arguments(parser)
    add_division(parser)
    return parser


def main(args: list[str] | None = None) -> int:
    """Convert a task; returns 0, or 1 after one line for each problem."""
    options = _get_parser().parse_args(args)
    return run(lambda: _convert(options))


def _convert(options: argparse.Namespace) -> None:
    from nnunet_meep.datasets.decathlon import find

    convert(find(options.source, division=division(options)), options)
