"""``meep-quickstart``: try everything out on a small data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-quickstart",
        description=(
            "Tries the installation out: trains nnU-Net with its default loss and with MEEP-H for\n"
            "a few dozen iterations each on a small synthetic data set, predicts test scans, and\n"
            "compares them in a report. Needs no GPU and no download; takes about two minutes\n"
            "on two idle cores. Shows each command of nnU-Net as it runs it. So short a training\n"
            "proves the installation, not the method: nnU-Net trains 1000 epochs of 250 iterations."
        ),
        epilog=(
            "FOLDER must be new, empty, or from an earlier meep-quickstart of the same data, that\n"
            "goes on where it was stopped. If it holds anything else, nothing is changed. Your\n"
            "nnUNet_raw, nnUNet_preprocessed and nnUNet_results are not used. All this is a plan\n"
            "of meep-benchmark, FOLDER/plan.toml, which does the same with your own data.\n\n"
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
        help="working folder, for everything (default: ./meep_quickstart)",
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        type=Path,
        help=(
            "use this DatasetXXX_NAME folder in nnU-Net's raw format (only read) instead of the "
            "synthetic data; without labelsTs the validation cases of fold 0 are evaluated"
        ),
    )
    parser.add_argument(
        "-device",
        "--device",
        choices=("cpu", "cuda", "mps"),
        help="as for nnUNetv2_train (default: cuda if there is a GPU, else cpu)",
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: _quickstart(_get_parser().parse_args(args)))


def _quickstart(arguments: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.quickstart import quickstart

    quickstart(arguments.o, data=arguments.data, device=arguments.device)
