"""``meep-quickstart``: test the installation on a small data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-quickstart",
        description=(
            "Test the installation: train nnU-Net with its default loss and with MEEP-H for a few\n"
            "dozen iterations each on a small synthetic data set, predict test scans, and compare\n"
            "the two in a report. Needs no GPU and no download; takes two to three minutes on\n"
            "two idle cores. Shows each nnU-Net command before running it. Such a short training\n"
            "tests the installation, not the method: nnU-Net trains 1000 epochs of 250 iterations."
        ),
        epilog=(
            "FOLDER must be new, empty, or from an earlier meep-quickstart on the same data,\n"
            "which then continues. If FOLDER contains anything else, nothing is changed. Your own\n"
            "nnUNet_raw, nnUNet_preprocessed and nnUNet_results are not used. The command runs\n"
            "FOLDER/plan.toml, a plan of meep-benchmark, which does the same with your data.\n\n"
            "examples:\n"
            "  meep-quickstart\n"
            "  meep-quickstart --data $nnUNet_raw/Dataset004_Hippocampus -o hippocampus"
        ),
    )
    parser.add_argument(
        "-o",
        metavar="FOLDER",
        type=Path,
        default=Path("meep_quickstart"),
        help="folder for all files (default: ./meep_quickstart)",
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        type=Path,
        help=(
            "use this DatasetXXX_NAME folder in nnU-Net's raw format instead of synthetic data; it "
            "is not changed. Without labelsTs, the validation cases of fold 0 are evaluated"
        ),
    )
    parser.add_argument(
        "-device",
        "--device",
        choices=("cpu", "cuda", "mps"),
        help="device for training and prediction (default: cuda if there is a GPU, otherwise cpu)",
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: _quickstart(_get_parser().parse_args(args)))


def _quickstart(arguments: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.quickstart import quickstart

    quickstart(arguments.o, data=arguments.data, device=arguments.device)
